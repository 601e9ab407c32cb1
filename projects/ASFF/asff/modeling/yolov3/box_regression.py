"""YOLOv3's box logits and boxes (cx, cy, w, h) in input pixels, and IoUs of boxes.

All arguments broadcast over their leading dimensions.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

# Larger width and height logits are cut before exp, so that a bad step cannot overflow
# (the limit that Detectron2's box_regression uses too).
_SCALE_CLAMP = math.log(1000.0 / 16)


def predict_anchors(shape_logits: Tensor, base_sizes: Tensor) -> Tensor:
    """Predict anchors as exp(shape logits) x base: (..., 2), width and height in pixels."""
    # From below too: an anchor of 0 has no finite logarithm in get_deltas.
    return shape_logits.clamp(-_SCALE_CLAMP, _SCALE_CLAMP).exp() * base_sizes


def apply_deltas(
    box_logits: Tensor, anchor_sizes: Tensor, locations: Tensor, strides: Tensor
) -> Tensor:
    """Decode box logits.

    Args:
        box_logits: (..., 4), logits of x and y in the location's square, logarithms of width and
            height over the anchor's.
        anchor_sizes: (..., 2), of the (predicted) anchors in pixels.
        locations: (..., 2), x and y index.
        strides: (..., 1), pixels per location.

    Returns:
        (..., 4): cx, cy, w, h in pixels.
    """
    centers = (box_logits[..., :2].sigmoid() + locations) * strides
    sizes = box_logits[..., 2:].clamp(max=_SCALE_CLAMP).exp() * anchor_sizes
    return torch.cat([centers, sizes], dim=-1)


def get_deltas(boxes: Tensor, anchor_sizes: Tensor, locations: Tensor, strides: Tensor) -> Tensor:
    """Encode boxes (cx, cy, w, h); see :func:`apply_deltas` for the other arguments.

    Returns:
        (..., 4): position of the centre in the location's square, in [0, 1] along x and y, and
        logarithms of width and height over the anchor's.
    """
    offsets = boxes[..., :2] / strides - locations
    return torch.cat([offsets, (boxes[..., 2:] / anchor_sizes).log()], dim=-1)


def to_corners(boxes: Tensor) -> Tensor:
    """Convert (cx, cy, w, h) to (x1, y1, x2, y2)."""
    centers, half = boxes[..., :2], boxes[..., 2:] / 2
    return torch.cat([centers - half, centers + half], dim=-1)


def to_centers(boxes: Tensor) -> Tensor:
    """Convert (x1, y1, x2, y2) to (cx, cy, w, h)."""
    low, high = boxes[..., :2], boxes[..., 2:]
    return torch.cat([(low + high) / 2, high - low], dim=-1)


def area(sizes: Tensor) -> Tensor:
    """Multiply width and height (..., 2): (...)."""
    # The backward pass of prod() waits for the device.
    return sizes[..., 0] * sizes[..., 1]


def shape_iou(sizes: Tensor, others: Tensor) -> Tensor:
    """Compute the IoU of two (..., 2) sizes with a common centre: (...)."""
    inter = area(torch.minimum(sizes, others))
    return inter / (area(sizes) + area(others) - inter)


def box_iou(boxes: Tensor, others: Tensor) -> Tensor:
    """Compute the IoU of boxes (cx, cy, w, h) with others, one to one: (...)."""
    a, b = to_corners(boxes), to_corners(others)
    overlap = torch.minimum(a[..., 2:], b[..., 2:]) - torch.maximum(a[..., :2], b[..., :2])
    inter = area(overlap.clamp(min=0))
    return inter / (area(boxes[..., 2:]) + area(others[..., 2:]) - inter)
