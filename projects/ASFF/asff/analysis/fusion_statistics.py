"""Average the fusion weights over a dataset: at objects of each size and in the background.

Shape letters: L fused levels, H and W of a level, M objects.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch

from ..data.boxes import COCO_AREA_LIMITS, COCO_SIZES, corner_boxes
from .fusion_maps import FusionView, LevelMaps

REGIONS = (*COCO_SIZES, "background", "everywhere")
# A level counts as never used if its mean weight is lower in every region of every level.
NEVER_USED = 0.01


class _Means(NamedTuple):
    """Means of a level in one region.

    Attributes:
        weights: L weights of the source levels.
        shares: L shares, see :class:`LevelMaps`.
        entropy: of the weights, from 0 to 1.
    """

    weights: list[float]
    shares: list[float]
    entropy: float


class FusionStatistics:
    """Mean weights, shares and entropy of ASFF over the images of a dataset.

    The mean at objects is the mean over objects of the mean over their locations: those with the
    centre in the box, or else the one that contains the centre of the box. The background is every
    location of no object and no crowd. The entropy is divided by its maximum: 1 if all weights are
    equal, 0 if one weight is 1.
    """

    def __init__(self):
        self.images = 0
        self.objects = dict.fromkeys(COCO_SIZES, 0)
        self.strides: dict[str, int] = {}
        # By level and region: sums of L weights, L shares and the entropy; and their numbers.
        self._sums: dict[tuple[str, str], np.ndarray] = {}
        self._counts: Counter[tuple[str, str]] = Counter()

    def add(self, view: FusionView, dataset_dict: dict) -> None:
        """Add an image.

        Args:
            view: of the image.
            dataset_dict: of the image, with ``annotations``.
        """
        annotations = dataset_dict.get("annotations", ())
        boxes, (height, width) = corner_boxes(annotations), view.instances.image_size
        sizes = np.digitize((boxes[:, 2:] - boxes[:, :2]).prod(axis=1), COCO_AREA_LIMITS)
        boxes = boxes.clip(0, (width, height, width, height))
        valid = (boxes[:, 2:] > boxes[:, :2]).all(axis=1)
        boxes *= np.tile(np.divide(view.input_size[::-1], (width, height)), 2)
        # Crowds are neither objects nor background.
        regions = [
            "" if x.get("iscrowd", 0) else COCO_SIZES[size]
            for x, size, is_valid in zip(annotations, sizes, valid)
            if is_valid
        ]
        self.images += 1
        for region in filter(None, regions):
            self.objects[region] += 1
        for level, maps in view.maps.items():
            self.strides[level] = maps.stride
            self._add_level(level, maps, boxes[valid], regions)

    def _add_level(
        self, level: str, maps: LevelMaps, boxes: np.ndarray, regions: Sequence[str]
    ) -> None:
        """Add a level of an image.

        Args:
            boxes: (M, 4): x1, y1, x2, y2 in pixels of the network's input.
            regions: of the boxes; empty for a crowd.
        """
        entropy = torch.special.entr(maps.weights).sum(dim=0, keepdim=True)
        entropy /= math.log(len(maps.weights))
        values = torch.cat([maps.weights, maps.shares, entropy]).double().numpy()  # (2 L + 1, H, W)
        background = np.ones(values.shape[1:], bool)
        for box, region in zip(boxes / maps.stride, regions):
            y, x = _locations_in(box, background.shape)
            background[y, x] = False
            if region:
                self._count(level, region, values[:, y, x].mean(axis=(1, 2)), 1)
        outside = values[:, background]
        self._count(level, "background", outside.sum(axis=1), outside.shape[1])
        self._count(level, "everywhere", values.sum(axis=(1, 2)), background.size)

    def _count(self, level: str, region: str, values: np.ndarray, number: int) -> None:
        self._sums[level, region] = self._sums.get((level, region), 0.0) + values
        self._counts[level, region] += number

    def _means(self, level: str, region: str) -> _Means | None:
        """Return the means of a level in a region; None if there is nothing to average."""
        if not (number := self._counts[level, region]):
            return None
        *values, entropy = (self._sums[level, region] / number).tolist()
        num_levels = len(values) // 2
        return _Means(values[:num_levels], values[num_levels:], entropy)

    def _never_used(self) -> list[str]:
        """Return the levels to which no level, not even themselves, gives weight."""
        found = [means.weights for key in self._sums if (means := self._means(*key)) is not None]
        highest = np.max(found, axis=0) if found else ()
        return [level for level, weight in zip(self.strides, highest) if weight < NEVER_USED]

    def to_json(self) -> dict:
        """Return all statistics; None for a region where there is nothing to average."""
        levels = {}
        for index, (level, stride) in enumerate(self.strides.items()):
            regions = {}
            for region in REGIONS:
                means = self._means(level, region)
                regions[region] = means and {
                    "self_weight": means.weights[index],
                    "weights": dict(zip(self.strides, means.weights)),
                    "shares": dict(zip(self.strides, means.shares)),
                    "entropy": means.entropy,
                }
            levels[level] = {"stride": stride, "regions": regions}
        return {
            "images": self.images,
            "objects": self.objects,
            "levels": levels,
            "never_used": self._never_used(),
        }


def _locations_in(box: np.ndarray, shape: tuple[int, int]) -> tuple[slice, slice]:
    """Return the y and x indices of the locations of a box.

    Args:
        box: x1, y1, x2, y2 in units of the stride.
        shape: H and W.
    """
    x1, y1, x2, y2 = box.tolist()
    return _indices_between(y1, y2, shape[0]), _indices_between(x1, x2, shape[1])


def _indices_between(low: float, high: float, size: int) -> slice:
    """Return the locations with the centre in [low, high), or else the one around the middle."""
    start, stop = math.ceil(low - 0.5), math.ceil(high - 0.5)
    if start < stop:
        return slice(start, stop)
    middle = min(int((low + high) / 2), size - 1)
    return slice(middle, middle + 1)
