"""Images of bright rectangles, whose extent tells where their boxes must be."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from detectron2.structures import BoxMode

BRIGHT = 250


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Draw random pixels: (H, W, 3), uint8."""
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3)).astype(np.uint8)


def draw(height: int, width: int, boxes: dict[int, Sequence[int]]) -> np.ndarray:
    """Draw black, but each box x1, y1, x2, y2 bright in the channel that is its key."""
    image = np.zeros((height, width, 3), np.uint8)
    for channel, (x1, y1, x2, y2) in boxes.items():
        image[y1:y2, x1:x2, channel] = BRIGHT
    return image


def write(path: Path, height: int, width: int, boxes: dict[int, Sequence[int]]) -> dict:
    """Write such an image as RGB PNG; return its dataset dict, where classes are channels."""
    assert cv2.imwrite(str(path), draw(height, width, boxes)[..., ::-1])
    annotations = [
        {"bbox": [float(x) for x in box], "bbox_mode": BoxMode.XYXY_ABS, "category_id": channel}
        for channel, box in boxes.items()
    ]
    return {"file_name": str(path), "height": height, "width": width, "annotations": annotations}


def extent(plane: np.ndarray, least: float = 20) -> np.ndarray | None:
    """Return x1, y1, x2, y2 of what is bright in a plane (H, W); None if nothing is.

    Bright is above the middle between the darkest and the brightest, if these differ by ``least``.
    """
    plane = plane.astype(float)
    if plane.max() - plane.min() < least:
        return None
    y, x = np.nonzero(plane > (plane.max() + plane.min()) / 2)
    return np.array([x.min(), y.min(), x.max() + 1, y.max() + 1], float)


def mapped_boxes(mapped: dict) -> list[list[float]]:
    """Return x1, y1, x2, y2 of the boxes that a mapper returns."""
    return mapped["instances"].gt_boxes.tensor.tolist()
