"""Which nodes of a graph are quantised."""

from __future__ import annotations

import pytest

from asff.export.quantization import _nodes_to_quantize

onnx = pytest.importorskip("onnx")


def chain(*weights: str) -> onnx.GraphProto:
    """Make convolutions in a row, c0 first."""
    nodes = [
        onnx.helper.make_node("Conv", [f"x{i}", weight], [f"x{i + 1}"], name=f"c{i}")
        for i, weight in enumerate(weights)
    ]
    return onnx.helper.make_graph(nodes, "chain", [], [])


def test_nodes():
    """All before the last convolution; not that, nor what needs to be precise."""
    graph = chain("a.weight", "head.offset.weight", "b.weight", "head.predict.weight", "c.weight")
    assert sorted(_nodes_to_quantize(graph)) == ["c0", "c2"]
    with pytest.raises(ValueError, match="--int8 finds no convolution"):
        _nodes_to_quantize(chain("a.weight", "b.weight"))  # [] would quantise both
