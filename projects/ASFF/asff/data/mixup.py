"""Mixup of detection images (Bag of Freebies, arXiv 1902.04103, section 3.1)."""

from __future__ import annotations

import cv2
import numpy as np


def mix_images(image: np.ndarray, other: np.ndarray, weight: float) -> np.ndarray:
    """``weight`` x image + (1 - ``weight``) x other, at full size on a canvas that holds both.

    Args:
        image, other: (H, W, 3), uint8, of any two sizes. Their upper left corners meet; beyond its
            border an image is black.

    Returns:
        (max H, max W, 3), uint8. Boxes of both images keep their coordinates.
    """
    height, width = np.maximum(image.shape[:2], other.shape[:2])
    image, other = (
        cv2.copyMakeBorder(
            x, 0, height - x.shape[0], 0, width - x.shape[1], cv2.BORDER_CONSTANT, value=0
        )
        if x.shape[:2] != (height, width)
        else x
        for x in (image, other)
    )
    return cv2.addWeighted(image, weight, other, 1 - weight, 0)
