"""Boxes of annotations as arrays, and COCO's ranges of their areas."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from detectron2.structures import BoxMode

COCO_SIZES = ("small", "medium", "large")
COCO_AREA_LIMITS = (32**2, 96**2)  # between the sizes, in pixels of the image


def corner_boxes(annotations: Sequence[dict]) -> np.ndarray:
    """Convert boxes of annotations, in any of Detectron2's modes, to x1, y1, x2, y2.

    Returns:
        (M, 4), float64.
    """
    boxes = np.array([x["bbox"] for x in annotations], float).reshape(-1, 4)
    modes = np.array([x["bbox_mode"] for x in annotations], int)
    for mode in np.unique(modes):
        mine = modes == mode
        boxes[mine] = BoxMode.convert(boxes[mine], BoxMode(mode), BoxMode.XYXY_ABS)
    return boxes


def clip_boxes(boxes: np.ndarray, height: float, width: float) -> tuple[np.ndarray, np.ndarray]:
    """Clip corner boxes (M, 4) to an image; return them, and whether each has an area in it."""
    clipped = boxes.clip(0, (width, height, width, height))
    return clipped, (clipped[:, 2:] > clipped[:, :2]).all(axis=1)
