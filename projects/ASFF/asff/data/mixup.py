"""Mixup of detection images (Bag of Freebies, arXiv 1902.04103, section 3.1)."""

from __future__ import annotations

import cv2
import numpy as np


def mix_images(image: np.ndarray, other: np.ndarray, weight: float) -> np.ndarray:
    """Compute ``weight`` x image + (1 - ``weight``) x other on a canvas that holds both.

    Args:
        image, other: (H, W, 3), uint8, of any two sizes. Their upper left corners are aligned;
            the smaller one is padded with black.

    Returns:
        (max H, max W, 3), uint8. Boxes of both images keep their coordinates.
    """
    height, width = np.maximum(image.shape[:2], other.shape[:2])
    first, second = (
        cv2.copyMakeBorder(x, 0, height - x.shape[0], 0, width - x.shape[1], cv2.BORDER_CONSTANT)
        for x in (image, other)
    )
    return cv2.addWeighted(first, weight, second, 1 - weight, 0)
