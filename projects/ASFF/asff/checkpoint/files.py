"""Tensors by name from a file, without running code from it."""

from __future__ import annotations

import pickle
import re
from pathlib import Path

import torch

# Where programs put the tensors of a model, next to those of an optimizer.
WRAPPERS = ("model", "state_dict", "model_state_dict", "net", "weights")


def read_tensors(path: str | Path) -> dict[str, torch.Tensor]:
    """Read the tensors of a model, as float32 where they are floats.

    Wrappers with an optimizer beside the model, and the prefix ``module.`` of DataParallel, are
    taken off.

    Raises:
        ValueError: the file is missing, damaged, needs code to be run, or has no tensors by name.
    """
    if not Path(path).is_file():
        raise ValueError(f"{path}: there is no such file.")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        wanted = re.search(r"GLOBAL (\S+)", str(error))
        if wanted is None:
            raise ValueError(f"{path} is damaged, or none of torch's files.") from error
        raise ValueError(
            f"{path} needs {wanted[1]}. To load more than tensors, numbers and texts is refused, "
            "for it could run code. Save its tensors alone, where you trust it."
        ) from error
    except Exception as error:  # a damaged file raises nearly anything
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise ValueError(f"{path} is damaged, or none of torch's files ({reason}).") from error
    for key in WRAPPERS:
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds no tensors by name, but a {type(content).__name__}.")
    for key, value in content.items():
        if not (isinstance(key, str) and torch.is_tensor(value)):
            raise ValueError(f"{path} holds more than tensors by name: {key!r}.")
    if not content:
        raise ValueError(f"{path} is empty: it holds no tensors.")
    prefix = "module." if all(key.startswith("module.") for key in content) else ""
    return {
        key.removeprefix(prefix): x.float() if x.is_floating_point() else x
        for key, x in content.items()
    }
