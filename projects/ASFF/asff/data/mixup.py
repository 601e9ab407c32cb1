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
    padded = [_pad(x, height, width) for x in (image, other)]
    return cv2.addWeighted(padded[0], weight, padded[1], 1 - weight, 0)


def _pad(image: np.ndarray, height: int, width: int) -> np.ndarray:
    if image.shape[:2] == (height, width):
        return image
    bottom, right = height - image.shape[0], width - image.shape[1]
    return cv2.copyMakeBorder(image, 0, bottom, 0, right, cv2.BORDER_CONSTANT, value=0)
