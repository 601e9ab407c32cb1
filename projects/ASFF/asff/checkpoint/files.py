"""Files written whole or not at all; tensors by name from a file, without running code from it."""

from __future__ import annotations

import os
import pickle
import re
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import torch

from .pickles import UnsafePickle

# Where programs put the tensors of a model, next to those of an optimizer.
WRAPPERS = ("model", "state_dict", "model_state_dict", "net", "weights")


@contextmanager
def write_atomically(path: Path) -> Iterator[BinaryIO]:
    """Open a file that takes its name, in place of an older one, once it is whole and on disk.

    Raises:
        OSError: it cannot be written, as where the disk is full; an older file is left as it was.
    """
    partial = path.with_name("checkpoint.partial")  # one name: what a kill leaves is overwritten
    try:
        with partial.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except BaseException as error:
        partial.unlink(missing_ok=True)
        cause = error  # torch.save raises a RuntimeError about its position in the file
        while cause and not isinstance(cause, OSError):
            cause = cause.__context__
        if cause is None:
            raise
        raise OSError(
            cause.errno,
            f"{path} could not be written: {cause.strerror}. Checkpoints before it are whole; "
            "make room and go on with --resume",
        ) from error


def is_whole(path: Path) -> bool:
    """Check that each byte of a file written by torch.save is there and as it was written."""
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.testzip() is None
    except Exception:  # a damaged file raises nearly anything
        return False


def load_file(path: str | os.PathLike, **options) -> object:
    """Call ``torch.load`` without running code from the file.

    Args:
        options: of ``torch.load``.

    Raises:
        ValueError: the file is missing, damaged or (UnsafePickle) needs code to be run.
    """
    if not os.path.isfile(path):
        raise ValueError(f"{path}: there is no such file.")
    try:
        return torch.load(path, map_location="cpu", weights_only=True, **options)
    except Exception as error:  # a damaged file raises nearly anything
        wanted = re.search(r"GLOBAL (\S+)", str(error))
        if isinstance(error, pickle.UnpicklingError) and wanted:
            raise UnsafePickle(
                f"{path} needs {wanted[1]}. Loading more than tensors, numbers and strings is "
                "refused, because it could run code. If you trust the file, save its tensors alone."
            ) from error
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise ValueError(f"{path} is damaged, or not a file of torch's ({reason}).") from error


def read_tensors(path: str | Path) -> dict[str, torch.Tensor]:
    """Read the tensors of a model, as float32 where they are floats.

    Dicts around the state dict, and the prefix ``module.`` of DataParallel, are removed.

    Raises:
        ValueError: see :func:`load_file`; or the file has no tensors by name.
    """
    content = load_file(path)
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
