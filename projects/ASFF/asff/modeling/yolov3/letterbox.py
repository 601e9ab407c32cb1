"""Darknet's letterbox: an image keeps its aspect ratio, in the middle of a grey square.

The original YOLOv3 (arXiv 1804.02767) evaluates like this, where ASFF resizes images to squares.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch.nn.functional as F
from detectron2.structures import Boxes
from torch import Tensor

_GREY = 127.5  # of 255


def letterbox(images: Sequence[Tensor], size_divisibility: int) -> list[Tensor]:
    """Put images (C, H, W), 0 to 255, in the middle of grey squares (C, side, side), float32.

    The side is the longest of all images, rounded up to a multiple of ``size_divisibility``.
    """
    longest = max(max(image.shape[-2:]) for image in images)
    side = math.ceil(longest / size_divisibility) * size_divisibility
    squares = []
    for image in images:
        height, width = image.shape[-2:]
        left, top = _margins(image.shape[-2:], side)
        padding = (left, side - width - left, top, side - height - top)
        squares.append(F.pad(image.float(), padding, value=_GREY))
    return squares


def undo_letterbox(boxes: Boxes, image_size: tuple[int, int], side: int) -> None:
    """Move boxes, in place, from pixels of the square to those of the image in its middle."""
    left, top = _margins(image_size, side)
    boxes.tensor[:, 0::2] -= left
    boxes.tensor[:, 1::2] -= top


def _margins(image_size: tuple[int, int], side: int) -> tuple[int, int]:
    """Return the width of the margin left of an image (height, width) and above it, in pixels."""
    height, width = image_size
    return (side - width) // 2, (side - height) // 2
