"""Pickled numpy arrays, read without running code that a file brings."""

from __future__ import annotations

import pickle
from collections import OrderedDict
from pathlib import Path
from typing import BinaryIO

import numpy as np


class UnsafePickle(ValueError):
    """A pickle asks for what could run code."""


class NumberType:
    """In place of ``numpy.dtype``, whose whole state a file must not set.

    With flags of its choice it would make numpy take bytes of the file for pointers to objects.

    Args:
        name: as ``f4``.
        align, copy: mean nothing to numbers.
    """

    def __init__(self, name: str, align: bool = False, copy: bool = False):
        self.dtype = np.dtype(name)
        if self.dtype.kind not in "biufc":
            raise TypeError(f"an array of {self.dtype}, not of numbers")

    def __setstate__(self, state: tuple) -> None:
        self.dtype = self.dtype.newbyteorder(state[1])


class PickledArray(np.ndarray):
    """An array whose type is a :class:`NumberType` in its pickled state."""

    def __setstate__(self, state: tuple) -> None:
        version, shape, number_type, *layout = state
        super().__setstate__((version, shape, number_type.dtype, *layout))


# numpy's own, by way of its public face: the modules they are in are private and were renamed.
numpy_scalar = np.float64().__reduce__()[0]
numpy_from_buffer = np.zeros(1).__reduce_ex__(5)[0]


def reconstruct(kind: None, shape: tuple, typecode: str | bytes) -> PickledArray:
    """An array that gets all else by its state."""
    return PickledArray(0)


def scalar(number_type: NumberType, data: str | bytes) -> np.generic:
    return numpy_scalar(number_type.dtype, data)


def from_buffer(buffer: bytes, number_type: NumberType, *layout: object) -> np.ndarray:
    return numpy_from_buffer(buffer, number_type.dtype, *layout)


def encode(text: str, encoding: str) -> bytes:
    """Bytes as Python 3 writes them for Python 2; every codec would be too much."""
    if encoding != "latin1":
        raise ValueError(f"bytes encoded by {encoding}")
    return text.encode(encoding)


ALLOWED = {
    "collections.OrderedDict": OrderedDict,
    "_codecs.encode": encode,
    "__builtin__.bytes": bytes,  # empty ones
    "numpy.dtype": NumberType,
    "numpy.ndarray": None,  # only ever an argument of _reconstruct
}
for core in ("numpy.core", "numpy._core"):  # before NumPy 2, and since
    ALLOWED[f"{core}.multiarray._reconstruct"] = reconstruct
    ALLOWED[f"{core}.multiarray.scalar"] = scalar
    ALLOWED[f"{core}.numeric._frombuffer"] = from_buffer


class RestrictedUnpickler(pickle.Unpickler):
    """Makes numbers, texts, arrays and scalars of numpy, and plain containers of them.

    Args:
        file: as Python 3 or 2 wrote it, whose texts are taken for latin1, as Detectron2 does.
    """

    def __init__(self, file: BinaryIO):
        super().__init__(file, encoding="latin1")
        self.path = file.name

    def find_class(self, module: str, name: str) -> object:
        wanted = f"{module}.{name}"
        if wanted not in ALLOWED:
            raise UnsafePickle(
                f"'{self.path}' asks for {wanted}, which is refused: it could run code. A .pkl "
                "file may hold numpy arrays in plain containers and nothing else."
            )
        return ALLOWED[wanted]


def read_pickle(path: str | Path) -> object:
    """Read a pickle of numpy arrays in plain containers.

    Raises:
        UnsafePickle: it asks for anything else, by whose name; nothing of that is run.
        Exception: nearly any other, where the file is damaged.
    """
    with open(path, "rb") as file:
        return RestrictedUnpickler(file).load()
