"""Random geometry and colour (paper 3.1, "bag of freebies"), as Detectron2 Augmentations.

Each works in any Detectron2 mapper and, like Detectron2's own, draws from numpy's global generator.
Images are (H, W, 3), uint8; boxes (M, 4): x1, y1, x2, y2 in pixels.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from detectron2.data import transforms as T
from detectron2.structures import Boxes, pairwise_iou

from .transforms import AffineTransform, ExpandTransform, ResizeTransform

# Colour of the area outside the image: the mean of ImageNet, in RGB.
FILL = (124, 116, 104)


class RandomColor(T.Augmentation):
    """Distort brightness, contrast, saturation and hue, each with probability 0.5.

    Args:
        brightness: largest shift of a pixel value in [0, 255].
        contrast, saturation: factors are drawn from 1 - x to 1 + x.
        hue: largest rotation in degrees.
        image_format: "RGB" or "BGR".
    """

    def __init__(
        self,
        *,
        brightness: float = 32.0,
        contrast: float = 0.5,
        saturation: float = 0.5,
        hue: float = 36.0,
        image_format: str = "RGB",
    ):
        super().__init__()
        self._init(locals())
        rgb = image_format == "RGB"
        self.to_hsv = cv2.COLOR_RGB2HSV_FULL if rgb else cv2.COLOR_BGR2HSV_FULL
        self.from_hsv = cv2.COLOR_HSV2RGB_FULL if rgb else cv2.COLOR_HSV2BGR_FULL

    def get_transform(self, image: np.ndarray) -> T.Transform:
        strengths = (self.brightness, self.contrast, self.saturation, self.hue)
        draws = np.random.uniform(-1, 1, 4) * (np.random.uniform(size=4) < 0.5)
        shift, contrast, saturation, hue = draws * strengths
        levels = np.arange(256.0)
        light = levels * (1 + contrast) + shift
        # OpenCV's full range maps 360 degrees to 256 hues, but its inverse maps 255 hues to 360.
        rotated = (levels * 360 / 256 + hue) % 360 * 255 / 360
        table = np.stack([rotated, levels * (1 + saturation), levels], axis=-1)
        light, table = (x.round().clip(0, 255).astype(np.uint8) for x in (light, table))

        def distort(image: np.ndarray) -> np.ndarray:
            if shift or contrast:
                image = cv2.LUT(image, light)
            if saturation or hue:
                image = cv2.LUT(cv2.cvtColor(image, self.to_hsv), table[None])
                image = cv2.cvtColor(image, self.from_hsv)
            return image

        return T.ColorTransform(distort)


class RandomExpand(T.Augmentation):
    """Place the image at random on a canvas with 1 to ``max_ratio`` times its sides."""

    def __init__(self, max_ratio: float = 4.0, fill: Sequence[float] = FILL):
        super().__init__()
        self._init(locals())

    def get_transform(self, image: np.ndarray) -> T.Transform:
        height, width = image.shape[:2]
        ratio = np.random.uniform(1, self.max_ratio)
        right, bottom = int(width * (ratio - 1)), int(height * (ratio - 1))
        left, top = np.random.randint(right + 1), np.random.randint(bottom + 1)
        return ExpandTransform(left, top, right - left, bottom - top, self.fill)


class RandomAffine(T.Augmentation):
    """Rotate, shear, scale and translate the image a little, about its centre.

    Args:
        rotation, shear: largest angles in degrees.
        scale: factors are drawn from 1 - x to 1 + x.
        translation: largest shift, as a fraction of the sides.
    """

    def __init__(
        self,
        *,
        rotation: float = 3.0,
        shear: float = 2.0,
        scale: float = 0.1,
        translation: float = 0.05,
        fill: Sequence[float] = FILL,
    ):
        super().__init__()
        self._init(locals())

    def get_transform(self, image: np.ndarray) -> T.Transform:
        size = np.array(image.shape[1::-1], float)
        draws = np.random.uniform(-1, 1, 6)
        angle, shear_x, shear_y = np.radians(draws[:3] * (self.rotation, self.shear, self.shear))
        rotate = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        shear = np.array([[1, np.tan(shear_x)], [np.tan(shear_y), 1]])
        linear = (1 + draws[3] * self.scale) * rotate @ shear
        shift = draws[4:] * self.translation * size
        center = size / 2
        offset = center - linear @ center + shift
        return AffineTransform(np.column_stack([linear, offset]), self.fill)


class RandomMinIoUCrop(T.Augmentation):
    """Crop so that the IoU of the crop with every box is at least a random threshold (SSD).

    Like Detectron2's MinIoURandomCrop, but vectorized over the crops, which makes it many times as
    fast for many boxes.

    Args:
        min_ious: thresholds to draw from, besides "no crop" and a threshold of 0.
        min_size: smallest fraction of each side that is kept.
        trials: crops drawn for a threshold before another threshold is drawn.
    """

    def __init__(
        self,
        min_ious: Sequence[float] = (0.1, 0.3, 0.5, 0.7, 0.9),
        min_size: float = 0.3,
        trials: int = 50,
    ):
        super().__init__()
        self._init(locals())

    def get_transform(self, image: np.ndarray, boxes: np.ndarray | None) -> T.Transform:
        if boxes is None:  # Detectron2's mapper does not pass them: any crop might cut them
            return T.NoOpTransform()
        height, width = image.shape[:2]
        for threshold in np.random.permutation([1.0, 0.0, *self.min_ious]):
            if threshold == 1:
                break
            crops = self._draw_crops(height, width)
            x, y, right, bottom = crops[self._fits(crops, boxes, threshold)][:1].T
            if len(x):
                return T.CropTransform(*map(int, (x[0], y[0], right[0] - x[0], bottom[0] - y[0])))
        return T.NoOpTransform()

    def _draw_crops(self, height: int, width: int) -> np.ndarray:
        """Draw up to ``trials`` crops in whole pixels, with aspect ratios of at most 2."""
        sides = np.random.uniform(self.min_size, 1, (self.trials, 2)) * (width, height)
        corners = np.random.uniform(size=(self.trials, 2)) * ((width, height) - sides)
        crops = np.concatenate([corners, corners + sides], axis=1).astype(int)
        sides = crops[:, 2:] - crops[:, :2]
        return crops[(sides > 0).all(axis=1) & (sides.max(axis=1) <= 2 * sides.min(axis=1))]

    @staticmethod
    def _fits(crops: np.ndarray, boxes: np.ndarray, threshold: float) -> np.ndarray:
        """Check which crops overlap all boxes enough and hold the centre of at least one."""
        if not len(boxes):
            return np.ones(len(crops), bool)
        ious = pairwise_iou(Boxes(crops), Boxes(boxes)).numpy()
        centers = (boxes[:, :2] + boxes[:, 2:]) / 2
        inside = (crops[:, None, :2] < centers) & (centers < crops[:, None, 2:])
        return (ious.min(axis=1) >= threshold) & inside.all(axis=2).any(axis=1)


class ResizeLongestEdge(T.Augmentation):
    """Shrink an image so that its longer side has at most ``max_side`` pixels."""

    def __init__(self, max_side: int):
        super().__init__()
        self._init(locals())

    def get_transform(self, image: np.ndarray) -> T.Transform:
        height, width = image.shape[:2]
        ratio = self.max_side / max(height, width)
        if ratio >= 1:
            return T.NoOpTransform()
        new_h, new_w = max(round(height * ratio), 1), max(round(width * ratio), 1)
        return ResizeTransform(height, width, new_h, new_w, cv2.INTER_AREA)


class ResizeSquare(T.Augmentation):
    """Resize to a square of ``size`` pixels by one of OpenCV's ``interpolations``."""

    def __init__(self, size: int, interpolations: Sequence[int] = (cv2.INTER_LINEAR,)):
        super().__init__()
        self._init(locals())

    def get_transform(self, image: np.ndarray) -> T.Transform:
        interpolation = self.interpolations[np.random.randint(len(self.interpolations))]
        return ResizeTransform(*image.shape[:2], self.size, self.size, interpolation)
