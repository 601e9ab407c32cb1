"""INT8 by onnxruntime's static quantisation."""

from __future__ import annotations

import io
import re
import tempfile
from collections.abc import Iterable
from contextlib import redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor

if TYPE_CHECKING:
    import onnx

# The convolutions that predict: what follows them needs more than 8 bits.
_LAST = re.compile(r"\.(predict|cls_score|bbox_pred)\.weight$")
# So do the offsets of deformable convolutions, and the weights of the fusion.
_PRECISE = re.compile(r"\.(predict|cls_score|bbox_pred|shape|offset|logits)\.weight$")
# With these between the convolutions, their activations stay 8 bits.
_OPERATORS = ["Conv", "LeakyRelu", "Relu", "Clip", "Add", "Concat", "MaxPool", "Resize"]


def quantize(model: onnx.ModelProto, batches: Iterable[Tensor]) -> onnx.ModelProto:
    """Quantise a model to INT8, weights per channel, by the ranges that it has in batches.

    Args:
        batches: of images (1, 3, H, W), as the model takes them.
    """
    import onnx
    from onnxruntime.quantization import (
        CalibrationDataReader,
        CalibrationMethod,
        QuantFormat,
        quantize_static,
    )
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):
        def __init__(self):
            self.batches = iter(batches)

        def get_next(self) -> dict | None:
            batch = next(self.batches, None)
            return None if batch is None else {"images": batch.numpy()}

    with tempfile.TemporaryDirectory() as folder:
        plain, prepared, quantized = (Path(folder, f"{name}.onnx") for name in "abc")
        onnx.save(model, plain)
        quant_pre_process(plain, prepared, skip_symbolic_shape=True)
        with redirect_stdout(io.StringIO()):
            quantize_static(
                prepared,
                quantized,
                Reader(),
                quant_format=QuantFormat.QDQ,
                # Without the few largest values the others have finer steps.
                calibrate_method=CalibrationMethod.Percentile,
                extra_options={"CalibPercentile": 99.99},
                op_types_to_quantize=_OPERATORS,
                per_channel=True,
                nodes_to_quantize=_nodes_to_quantize(onnx.load(prepared).graph),
            )
        return onnx.load(quantized)


def _nodes_to_quantize(graph: onnx.GraphProto) -> list[str]:
    """Return the names of the nodes before the last convolutions that need not be precise.

    Raises:
        ValueError: there are none; to onnxruntime an empty list means all nodes.
    """
    producers = {output: node for node in graph.node for output in node.output}
    weights = {node.name: node.input[1] for node in graph.node if node.op_type == "Conv"}
    found: dict[str, onnx.NodeProto] = {}
    open_nodes = [node for node in graph.node if _LAST.search(weights.get(node.name, ""))]
    while open_nodes:
        node = open_nodes.pop()
        if node.name not in found:
            found[node.name] = node
            open_nodes += [producers[x] for x in node.input if x in producers]
    names = [
        name
        for name, node in found.items()
        if node.op_type in _OPERATORS and not _PRECISE.search(weights.get(name, ""))
    ]
    if not names:
        raise ValueError(
            f"--int8 finds no convolution whose weight is named {_LAST.pattern}, and so not what "
            "to quantise before it. Export without --int8."
        )
    return names
