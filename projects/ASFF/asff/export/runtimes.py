"""Read exported models and run them, by the suffix of the file."""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path

from torch import Tensor

METADATA_FILE = "asff.json"  # inside files of torch

# Maps images (N, 3, H, W), float32, to the outputs of the model.
Run = Callable[[Tensor], Sequence[Tensor]]


def load_onnx(path: Path) -> tuple[dict[str, str], Run]:
    """Read a model for onnxruntime, with the fastest of the providers that it has here."""
    import onnxruntime
    import torch

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors
    providers = onnxruntime.get_available_providers()
    session = onnxruntime.InferenceSession(path, options, providers=providers)

    def run(images: Tensor) -> list[Tensor]:
        return list(map(torch.from_numpy, session.run(None, {"images": images.numpy()})))

    return session.get_modelmeta().custom_metadata_map, run


def load_openvino(path: Path) -> tuple[dict[str, str], Run]:
    """Read a model for OpenVINO, on the CPU."""
    import openvino
    import torch

    core = openvino.Core()
    model = core.read_model(path)
    info = model.get_rt_info(["asff"]).astype(dict) if model.has_rt_info(["asff"]) else {}
    metadata = {key: json.loads(value.astype(str)) for key, value in info.items()}
    # By itself it computes in bfloat16 where the CPU can.
    options = {"INFERENCE_PRECISION_HINT": "f32"}
    compiled = core.compile_model(model, "CPU", options)

    def run(images: Tensor) -> list[Tensor]:
        return [torch.from_numpy(x.copy()) for x in compiled(images.numpy()).values()]

    return metadata, run


def load_torch(path: Path) -> tuple[dict[str, str], Run]:
    """Read a program of torch.export, or a library that AOTInductor compiled from one."""
    import torch

    if any(name.endswith(".so") for name in zipfile.ZipFile(path).namelist()):
        compiled = torch._inductor.aoti_load_package(str(path))
        metadata = json.loads(compiled.loader.get_metadata().get(METADATA_FILE, "{}"))
        return metadata, torch.no_grad()(compiled)
    files = {METADATA_FILE: "{}"}
    module = torch.export.load(path, extra_files=files).module()
    return json.loads(files[METADATA_FILE]), torch.no_grad()(module)


RUNTIMES = {".onnx": load_onnx, ".xml": load_openvino, ".pt2": load_torch}


def load_model(path: str | os.PathLike) -> tuple[dict[str, str], Run]:
    """Read an exported model.

    Returns:
        Its metadata (see :func:`asff.export.describe`), and the function that runs it.

    Raises:
        ValueError: there is no such file; or it is damaged, or was not exported by this package.
    """
    path = Path(path)
    if path.suffix not in RUNTIMES:
        raise ValueError(f"{path} is no exported model. Name a file {' or '.join(RUNTIMES)}.")
    if not path.is_file():
        raise ValueError(f"{path}: there is no such file.")
    try:
        metadata, run = RUNTIMES[path.suffix](path)
    except ImportError as error:
        raise ValueError(
            f"{path} needs {error.name}, which is not installed: pip install {error.name}"
        ) from error
    except Exception as error:  # a damaged file raises nearly anything
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise ValueError(
            f"{path} cannot be read: it is damaged, or not a model ({reason})."
        ) from error
    if "config" not in metadata:
        raise ValueError(
            f"{path} was not exported by `asff export`: it does not hold our metadata."
        )
    return metadata, run
