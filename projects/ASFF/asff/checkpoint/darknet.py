"""Weights of darknet, the program that YOLOv3 was published with (arXiv 1804.02767).

A file is a header and then, without names or shapes, every float of every convolution in the order
of the network's layers.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from .mismatch import Mismatch

# The tensors of a convolution in darknet's order, with batch norm and without.
WITH_NORM = ("norm.bias", "norm.weight", "norm.running_mean", "norm.running_var", "weight")
WITHOUT_NORM = ("bias", "weight")
# Batch norm's number of batches, which darknet lacks.
COUNTER = ".num_batches_tracked"


def convert_darknet(values: Tensor, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Convert the values of a darknet file to tensors under our key names.

    The number of values tells a file of DarkNet-53 alone, as ``darknet53.conv.74``, from one of the
    whole detector, as ``yolov3.weights``. The network's input is RGB
    / 255 (``PIXEL_MEAN`` 0, ``PIXEL_STD`` 255). Batch norm divides by sqrt(variance + 1e-5), as
    darknet does on a GPU; on a CPU it divides by sqrt(variance) + 1e-6.

    Args:
        values: see :func:`read_values`.
        state: of the detector of ``coco/yolov3_d53_original.yaml``; only its names and shapes are
            used, so that it may be on the meta device.

    Returns:
        All tensors of ``state``, or all of its bottom-up; every value is used.

    Raises:
        ValueError: the values are not those of such a network, or ``state`` is of another
            detector.
    """
    bottom_up, detector = _layouts(state)
    sizes = [sum(state[key].numel() for key in keys) for keys in (bottom_up, detector)]
    if len(values) not in sizes:
        raise ValueError(
            f"{len(values)} values follow the header, but {sizes[0]} are expected for "
            f"DarkNet-53 (as in darknet53.conv.74), or {sizes[1]} for the detector (as in "
            "yolov3.weights). The file is cut off, or belongs to another network."
        )
    keys = bottom_up if len(values) == sizes[0] else detector
    parts = values.split([state[key].numel() for key in keys])
    weights = {key: part.view(state[key].shape).clone() for key, part in zip(keys, parts)}
    for key in keys:
        counter = key.replace(".running_var", COUNTER)
        if counter != key and counter in state:
            weights[counter] = torch.tensor(0)
    return weights


def _layouts(state: Mapping[str, Tensor]) -> tuple[list[str], list[str]]:
    """Return our keys in the order of a file of DarkNet-53, and of one of the detector.

    Raises:
        ValueError: ``state`` is not that of YOLOv3 as darknet has it.
    """
    # Within DarkNet-53 our order is darknet's.
    convs = [
        key.removesuffix(".weight")
        for key in state
        if key.startswith("backbone.bottom_up.") and key.endswith(".weight") and ".norm." not in key
    ]
    num_bottom_up = len(convs)
    for level in range(3):
        if level > 0:
            convs.append(f"backbone.neck.laterals.{level - 1}")
        convs += [f"backbone.neck.conv_sets.{level}.conv{number}" for number in range(1, 6)]
        convs += [f"head.levels.{level}.conv", f"head.levels.{level}.predict"]
    groups = [
        [f"{conv}.{name}" for name in (WITHOUT_NORM if f"{conv}.bias" in state else WITH_NORM)]
        for conv in convs
    ]
    bottom_up = [key for group in groups[:num_bottom_up] for key in group]
    detector = [key for group in groups for key in group]
    ours = {key for key in state if not key.endswith(COUNTER)}
    difference = Mismatch(list(set(detector) - ours), list(ours - set(detector)))
    if difference:
        raise ValueError(
            f"The model is not darknet's YOLOv3: {difference}. Use coco/yolov3_d53_original.yaml."
        )
    return bottom_up, detector


def read_values(path: str | Path) -> Tensor:
    """Read all values of a darknet file, without its header.

    Raises:
        ValueError: there is no file, it has another header, or its last value is cut off.
    """
    if not Path(path).is_file():
        raise ValueError(f"{path}: there is no such file.")
    data = Path(path).read_bytes()
    # Version numbers, then the number of training images: 64 bits from 0.2 on.
    major, minor = struct.unpack_from("<ii", data) if len(data) >= 8 else (-1, -1)
    if not (0 <= major < 1000 and 0 <= minor < 1000):
        raise ValueError(
            f"{path} does not begin with a header of darknet (version numbers). Use a .weights or "
            ".conv file as darknet writes it; it may be an unfinished download."
        )
    header = 20 if 10 * major + minor >= 2 else 16
    num_bytes = len(data) - header
    if num_bytes <= 0 or num_bytes % 4:
        raise ValueError(
            f"{path} is cut off: its {len(data)} bytes are not a header of {header} bytes followed "
            "by values of 4 bytes each. Download or copy it again."
        )
    return torch.frombuffer(bytearray(data), dtype=torch.float32, offset=header)
