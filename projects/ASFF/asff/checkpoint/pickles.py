"""Reading of pickled numpy arrays without running code from the file."""

from __future__ import annotations

import pickle
from collections import OrderedDict
from pathlib import Path
from typing import BinaryIO

import numpy as np


class UnsafePickle(ValueError):
    """A pickle needs an object that could run code."""


class NumberType:
    """Replacement of ``numpy.dtype`` that takes nothing but the byte order from its pickled state.

    Flags set by a file could make numpy take bytes of the file for pointers to objects.

    Args:
        name: as ``f4``.
        align, copy: without meaning for numbers.
    """

    def __init__(self, name: str, align: bool = False, copy: bool = False):
        self.dtype = np.dtype(name)
        if self.dtype.kind not in "biufc":
            raise TypeError(f"an array of {self.dtype}, not of numbers")

    def __setstate__(self, state: tuple) -> None:
        self.dtype = self.dtype.newbyteorder(state[1])


class PickledArray(np.ndarray):
    """Array whose dtype is a :class:`NumberType` in its pickled state."""

    def __setstate__(self, state: tuple) -> None:
        version, shape, number_type, *layout = state
        super().__setstate__((version, shape, number_type.dtype, *layout))


# numpy's functions, whose modules are private and were renamed.
numpy_scalar = np.float64().__reduce__()[0]
numpy_from_buffer = np.zeros(1).__reduce_ex__(5)[0]


def reconstruct(kind: None, shape: tuple, typecode: str | bytes) -> PickledArray:
    """Return an empty array, whose content follows as its pickled state."""
    return PickledArray(0)


def scalar(number_type: NumberType, data: str | bytes) -> np.generic:
    return numpy_scalar(number_type.dtype, data)


def from_buffer(buffer: bytes, number_type: NumberType, *layout: object) -> np.ndarray:
    return numpy_from_buffer(buffer, number_type.dtype, *layout)


def encode(string: str, encoding: str) -> bytes:
    """Decode bytes that Python 3 wrote for Python 2, which are encoded as latin1."""
    if encoding != "latin1":
        raise ValueError(f"bytes encoded by {encoding}")
    return string.encode(encoding)


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
    """Unpickler of numbers, strings, numpy's arrays and scalars, and plain containers of them.

    Args:
        file: written by Python 3 or 2, whose strings are read as latin1, as by Detectron2.
    """

    def __init__(self, file: BinaryIO):
        super().__init__(file, encoding="latin1")
        self.path = file.name

    def find_class(self, module: str, name: str) -> object:
        wanted = f"{module}.{name}"
        if wanted not in ALLOWED:
            raise UnsafePickle(
                f"'{self.path}' needs {wanted}, which is refused: it could run code. A .pkl "
                "file may hold numpy arrays in plain containers and nothing else."
            )
        return ALLOWED[wanted]


def read_pickle(path: str | Path) -> object:
    """Read a pickle of numpy arrays in plain containers.

    Raises:
        UnsafePickle: it needs another object, which is named and not created.
        Exception: nearly any other, where the file is damaged.
    """
    with open(path, "rb") as file:
        return RestrictedUnpickler(file).load()
