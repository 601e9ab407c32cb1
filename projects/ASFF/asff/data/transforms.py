"""Geometric Detectron2 Transforms by OpenCV: resize, expand, affine.

Coordinates run from 0 to W and H, as Detectron2's: a pixel's centre is at its index + 0.5. Outside
the image, a semantic segmentation gets the ignored label; masks of instances must be polygons.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from detectron2.data.transforms import Transform

# Detectron2's label of pixels that a semantic segmentation ignores.
IGNORE_LABEL = 255


class ResizeTransform(Transform):
    """Resize to (new_h, new_w), not keeping the aspect ratio, by an interpolation of OpenCV."""

    def __init__(
        self, h: int, w: int, new_h: int, new_w: int, interpolation: int = cv2.INTER_LINEAR
    ):
        super().__init__()
        self._set_attributes(locals())

    def apply_image(self, img: np.ndarray, interp: int | None = None) -> np.ndarray:
        interpolation = self.interpolation if interp is None else interp
        return cv2.resize(img, (self.new_w, self.new_h), interpolation=interpolation)

    def apply_segmentation(self, segmentation: np.ndarray) -> np.ndarray:
        return self.apply_image(segmentation, cv2.INTER_NEAREST_EXACT)  # from the nearest centre

    def apply_coords(self, coords: np.ndarray) -> np.ndarray:
        return coords * np.array([self.new_w / self.w, self.new_h / self.h])


class ExpandTransform(Transform):
    """Pad the image with a colour."""

    def __init__(self, left: int, top: int, right: int, bottom: int, fill: Sequence[float]):
        super().__init__()
        self._set_attributes(locals())

    def _pad(self, img: np.ndarray, fill: Sequence[float]) -> np.ndarray:
        sides = (self.top, self.bottom, self.left, self.right)
        return cv2.copyMakeBorder(img, *sides, cv2.BORDER_CONSTANT, value=fill)

    def apply_image(self, img: np.ndarray) -> np.ndarray:
        return self._pad(img, self.fill)

    def apply_segmentation(self, segmentation: np.ndarray) -> np.ndarray:
        return self._pad(segmentation, (IGNORE_LABEL,))

    def apply_coords(self, coords: np.ndarray) -> np.ndarray:
        return coords + np.array([self.left, self.top])


class AffineTransform(Transform):
    """Map every point (x, y) to ``matrix`` (x, y, 1); the size of the image stays.

    Args:
        matrix: (2, 3).
    """

    def __init__(self, matrix: np.ndarray, fill: Sequence[float]):
        super().__init__()
        self._set_attributes(locals())

    def _warp(self, img: np.ndarray, interpolation: int, fill: Sequence[float]) -> np.ndarray:
        # OpenCV's origin is the centre of the first pixel.
        matrix = self.matrix.astype(float)
        matrix[:, 2] += matrix[:, :2] @ (0.5, 0.5) - 0.5
        size = img.shape[1], img.shape[0]
        return cv2.warpAffine(img, matrix, size, flags=interpolation, borderValue=fill)

    def apply_image(self, img: np.ndarray) -> np.ndarray:
        return self._warp(img, cv2.INTER_LINEAR, self.fill)

    def apply_segmentation(self, segmentation: np.ndarray) -> np.ndarray:
        return self._warp(segmentation, cv2.INTER_NEAREST, (IGNORE_LABEL,))

    def apply_coords(self, coords: np.ndarray) -> np.ndarray:
        return coords @ self.matrix[:, :2].T + self.matrix[:, 2]
