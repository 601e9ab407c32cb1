"""Average the fusion weights over a dataset: at objects of each size and in the background.

Shape letters: L fused levels, H and W of a level, M objects.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from ..data.boxes import COCO_AREA_LIMITS, COCO_SIZES, corner_boxes
from .fusion_maps import FusionView, LevelMaps

REGIONS = (*COCO_SIZES, "background", "everywhere")
# A level counts as never used if its mean weight is lower in every region of every level.
NEVER_USED = 0.01


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
        """Add an image, with ``annotations`` in its dataset dict."""
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
            (height, width), (x1, y1, x2, y2) = background.shape, box.tolist()
            y, x = _indices_between(y1, y2, height), _indices_between(x1, x2, width)
            background[y, x] = False
            if region:
                self._count(level, region, values[:, y, x].mean(axis=(1, 2)), 1)
        outside = values[:, background]
        self._count(level, "background", outside.sum(axis=1), outside.shape[1])
        self._count(level, "everywhere", values.sum(axis=(1, 2)), background.size)

    def _count(self, level: str, region: str, values: np.ndarray, number: int) -> None:
        self._sums[level, region] = self._sums.get((level, region), 0.0) + values
        self._counts[level, region] += number

    def _means(self, level: str, region: str) -> dict[str, Any] | None:
        """Return the means of a level in a region; None if there is nothing to average."""
        if not (number := self._counts[level, region]):
            return None
        *values, entropy = (self._sums[level, region] / number).tolist()
        weights = dict(zip(self.strides, values))
        shares = dict(zip(self.strides, values[len(weights) :]))
        return {
            "self_weight": weights[level],
            "weights": weights,
            "shares": shares,
            "entropy": entropy,
        }

    def to_json(self) -> dict[str, Any]:
        """Return all statistics; None for a region where there is nothing to average.

        ``never_used`` lists the levels to which no level, not even themselves, gives weight.
        """
        levels = {
            level: {
                "stride": stride,
                "regions": {region: self._means(level, region) for region in REGIONS},
            }
            for level, stride in self.strides.items()
        }
        means = [x for level in levels.values() for x in level["regions"].values() if x]
        return {
            "images": self.images,
            "objects": self.objects,
            "levels": levels,
            "never_used": [
                level for level in levels if all(x["weights"][level] < NEVER_USED for x in means)
            ],
        }


def _indices_between(low: float, high: float, size: int) -> slice:
    """Return the locations with the centre in [low, high), or else the one around the middle."""
    start, stop = math.ceil(low - 0.5), math.ceil(high - 0.5)
    if start < stop:
        return slice(start, stop)
    middle = min(int((low + high) / 2), size - 1)
    return slice(middle, middle + 1)
