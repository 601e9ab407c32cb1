"""Between YOLOv3's box logits and boxes (cx, cy, w, h) in input pixels: a pair of inverses.

All arguments broadcast over their leading dimensions.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

# Larger width and height logits are cut before exp, so that a bad step cannot overflow
# (the limit that Detectron2's box_regression uses too).
SCALE_CLAMP = math.log(1000.0 / 16)


def predict_anchors(shape_logits: Tensor, base: Tensor) -> Tensor:
    """Predicted anchor = exp(shape logits) x base: (..., 2), width and height in pixels."""
    # From below too: an anchor of 0 has no finite logarithm in get_deltas.
    return shape_logits.clamp(-SCALE_CLAMP, SCALE_CLAMP).exp() * base


def apply_deltas(box_logits: Tensor, anchors: Tensor, cells: Tensor, strides: Tensor) -> Tensor:
    """Decode box logits.

    Args:
        box_logits: (..., 4), logits of x and y in the cell, logarithms of width and height.
        anchors: (..., 2), (predicted) anchors in pixels.
        cells: (..., 2), x and y index of the cell.
        strides: (..., 1), pixels per cell.

    Returns:
        (..., 4): cx, cy, w, h in pixels.
    """
    centers = (box_logits[..., :2].sigmoid() + cells) * strides
    sizes = box_logits[..., 2:].clamp(max=SCALE_CLAMP).exp() * anchors
    return torch.cat([centers, sizes], dim=-1)


def get_deltas(boxes: Tensor, anchors: Tensor, cells: Tensor, strides: Tensor) -> Tensor:
    """Encode boxes: where x and y lie in the cell, in [0, 1], and log(size / anchor): (..., 4)."""
    offsets = boxes[..., :2] / strides - cells
    return torch.cat([offsets, (boxes[..., 2:] / anchors).log()], dim=-1)


def to_corners(boxes: Tensor) -> Tensor:
    """(cx, cy, w, h) to (x1, y1, x2, y2)."""
    centers, half = boxes[..., :2], boxes[..., 2:] / 2
    return torch.cat([centers - half, centers + half], dim=-1)


def to_centers(boxes: Tensor) -> Tensor:
    """(x1, y1, x2, y2) to (cx, cy, w, h)."""
    low, high = boxes[..., :2], boxes[..., 2:]
    return torch.cat([(low + high) / 2, high - low], dim=-1)


def shape_iou(sizes: Tensor, others: Tensor) -> Tensor:
    """IoU of two (..., 2) sizes with a common centre: (...)."""
    inter = torch.minimum(sizes, others).prod(dim=-1)
    return inter / (sizes.prod(dim=-1) + others.prod(dim=-1) - inter)


def box_iou(boxes: Tensor, others: Tensor) -> Tensor:
    """IoU of boxes (cx, cy, w, h) with others, one to one: (...)."""
    a, b = to_corners(boxes), to_corners(others)
    overlap = torch.minimum(a[..., 2:], b[..., 2:]) - torch.maximum(a[..., :2], b[..., :2])
    inter = overlap.clamp(min=0).prod(dim=-1)
    return inter / (boxes[..., 2:].prod(dim=-1) + others[..., 2:].prod(dim=-1) - inter)
