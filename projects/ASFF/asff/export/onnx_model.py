"""ONNX files."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from torch.export import ExportedProgram

if TYPE_CHECKING:
    import onnx

OPSET = 20  # DeformConv came with 19, GridSample as it is now with 20


def to_onnx(program: ExportedProgram) -> onnx.ModelProto:
    """Convert a traced graph, see :func:`asff.export.trace`."""
    import torch

    with _quiet():
        converted = torch.onnx.export(
            program,
            dynamo=True,
            opset_version=OPSET,
            input_names=["images"],
            output_names=["boxes", "scores"],
            verbose=False,
        )
    model = converted.model_proto
    # What the exporter remembers of our source, down to its paths.
    for item in (model.graph, *model.graph.node, *model.graph.input, *model.graph.output):
        del item.metadata_props[:]
    for value in model.graph.value_info:
        del value.metadata_props[:]
    for output, shape in zip(model.graph.output, (("N", "R", 4), ("N", "R", "K"))):
        for dim, name in zip(output.type.tensor_type.shape.dim, shape):
            if dim.dim_param:
                dim.dim_param = name
    return model


def set_metadata(model: onnx.ModelProto, metadata: dict[str, str]) -> None:
    """Put the metadata into a model."""
    model.producer_name = "asff"
    model.producer_version = metadata["asff_version"]
    for key, value in metadata.items():
        model.metadata_props.add(key=key, value=value)


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence what the exporter says about itself."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
