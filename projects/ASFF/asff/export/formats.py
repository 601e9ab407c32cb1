"""The formats that a detector is exported to."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from .graph import ExportGraph, trace
from .onnx_model import set_metadata, to_onnx


@dataclass(frozen=True)
class Options:
    """How to export.

    Attributes:
        size: height and width, if they shall be fixed.
        deformable: see :class:`ExportGraph`.
    """

    size: tuple[int, int] | None = None
    deformable: str = "operator"


def write_onnx(graph: ExportGraph, path: Path, metadata: dict[str, str], options: Options) -> None:
    """Write an ONNX file."""
    import onnx

    model = to_onnx(trace(graph, options.size))
    set_metadata(model, metadata)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, path)


# By the name of the format: the suffix of its file, and the function that writes it.
FORMATS: dict[str, tuple[str, Callable]] = {"onnx": (".onnx", write_onnx)}
