"""The formats that a detector is exported to."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor
from torch.export import ExportedProgram

from .graph import ExportGraph, trace
from .metadata import Thresholds
from .onnx_model import set_metadata, to_onnx
from .onnx_nms import append_nms
from .quantization import quantize
from .runtimes import METADATA_FILE


@dataclass(frozen=True)
class Options:
    """How to export.

    Attributes:
        size: height and width, if they shall be fixed.
        deformable: see :class:`ExportGraph`; None: as :func:`default_deformable` says.
        nms: put thresholds and NMS inside.
        precision: "float32"; "float16", of the network without its outputs; or "int8", of the
            convolutions but for the last.
    """

    size: int | None = None
    deformable: str | None = None
    nms: bool = False
    precision: str = "float32"


@dataclass(frozen=True)
class Source:
    """What is exported, and how.

    Attributes:
        graph: the detector.
        metadata: see :func:`asff.export.describe`.
        calibration: batches of images, for INT8.
    """

    graph: ExportGraph
    metadata: dict[str, str]
    options: Options
    calibration: Iterable[Tensor]

    def trace(self) -> ExportedProgram:
        return trace(self.graph, self.options.size)


def write_onnx(source: Source, path: Path) -> None:
    """Write an ONNX file."""
    import onnx

    model = to_onnx(source.trace())
    if source.options.precision == "int8":
        model = quantize(model, source.calibration)
    if source.options.nms:
        thresholds = Thresholds(**json.loads(source.metadata["thresholds"]))
        append_nms(model, thresholds, len(source.graph.strides))
    set_metadata(model, source.metadata)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, path)


def write_openvino(source: Source, path: Path) -> None:
    """Write OpenVINO's *.xml and *.bin, by way of ONNX."""
    import openvino

    plain = path.with_suffix(".onnx")
    write_onnx(source, plain)
    model = openvino.convert_model(plain)
    plain.unlink()
    for key, value in source.metadata.items():
        # Its XML would read numbers as such.
        model.set_rt_info(json.dumps(value), ["asff", key])
    openvino.save_model(model, path, compress_to_fp16=source.options.precision == "float16")


def write_torch_export(source: Source, path: Path) -> None:
    """Write a program of torch.export."""
    metadata = {METADATA_FILE: json.dumps(source.metadata)}
    torch.export.save(source.trace(), path, extra_files=metadata)


def write_aoti(source: Source, path: Path) -> None:
    """Write a library that AOTInductor compiles for this machine."""
    from torch._inductor import aoti_compile_and_package

    if not (shutil.which("g++") or shutil.which("clang++")):
        raise ValueError("--format aoti needs a C++ compiler, g++ or clang++; none is installed.")
    settings = {"aot_inductor.metadata": {METADATA_FILE: json.dumps(source.metadata)}}
    aoti_compile_and_package(source.trace(), package_path=str(path), inductor_configs=settings)


# By the name of the format: the suffix of its file, and the function that writes it.
FORMATS: dict[str, tuple[str, Callable]] = {
    "onnx": (".onnx", write_onnx),
    "openvino": (".xml", write_openvino),
    "torch-export": (".pt2", write_torch_export),
    "aoti": (".pt2", write_aoti),
}


def check_options(export_format: str, options: Options) -> None:
    """Raise a ValueError where a format cannot be written so."""
    of_onnx = export_format in ("onnx", "openvino")
    if options.nms and not of_onnx:
        raise ValueError(
            f"--nms is not possible in --format {export_format}, but in onnx, openvino."
        )
    if options.precision == "int8" and not of_onnx:
        raise ValueError(
            f"--int8 is not possible in --format {export_format}, but in onnx, openvino."
        )
    if export_format == "openvino" and options.deformable == "operator":
        raise ValueError(
            "--format openvino needs --deformable samplings: OpenVINO's reader crashes on ONNX's "
            "DeformConv."
        )
    packages = ["onnx", "onnxscript", "onnxruntime"] if of_onnx else []
    for package in [*packages, *["openvino"] * (export_format == "openvino")]:
        if find_spec(package) is None:
            source = package if package == "openvino" else "'asff[export]'"
            raise ValueError(
                f"--format {export_format} needs {package}, which is not installed: "
                f"pip install {source}"
            )


def default_deformable(export_format: str) -> str:
    """Return how a format's deformable convolutions are written: an operator if its runtime has it.

    Those of onnxruntime below 1.32 are not for CPUs.
    """
    if export_format == "onnx":
        import onnxruntime

        version = tuple(map(int, onnxruntime.__version__.split(".")[:2]))
        return "operator" if version >= (1, 32) else "samplings"
    return "samplings" if export_format == "openvino" else "operator"
