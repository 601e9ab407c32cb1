"""Which level feeds which, in numbers over a dataset: at objects of each size and in between.

Shape letters: L fused levels, H and W of a level, in cells, M objects.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from tabulate import tabulate

from ..data.boxes import corner_boxes
from .fusion_maps import FusionView, LevelMaps

SIZES = ("small", "medium", "large")
LIMITS = (32**2, 96**2)  # areas of boxes in pixels that part the sizes, as in COCO
REGIONS = (*SIZES, "background", "everywhere")
# A level is never used where its mean weight is lower in every region of every level.
NEVER = 0.01


class Means(NamedTuple):
    """What a level takes from all L levels, in one region.

    Attributes:
        weights: L of them.
        shares: L of them: see :class:`LevelMaps`.
        entropy: of the weights, from 0 to 1.
    """

    weights: list[float]
    shares: list[float]
    entropy: float


class FusionStatistics:
    """Means of ASFF's weights, shares and entropy over the images of a dataset.

    At objects it is the mean over objects of the mean over their cells: those whose centres lie in
    the box, or else the one that holds the box's centre. Background are all cells of no object and
    no crowd. Entropy is divided by its maximum: 1 where all levels weigh the same, 0 where one is
    alone.
    """

    def __init__(self):
        self.images = 0
        self.objects = dict.fromkeys(SIZES, 0)
        self.strides: dict[str, int] = {}
        # By level and region: sums of L weights, L shares and the entropy; and over how many.
        self.sums: dict[tuple[str, str], np.ndarray] = {}
        self.counts: Counter[tuple[str, str]] = Counter()

    def add(self, view: FusionView, record: dict) -> None:
        """Count an image.

        Args:
            view: of the image.
            record: its dataset dict, with ``annotations``.
        """
        objects = record.get("annotations", ())
        boxes, (height, width) = corner_boxes(objects), view.instances.image_size
        sizes = [SIZES[i] for i in np.digitize((boxes[:, 2:] - boxes[:, :2]).prod(axis=1), LIMITS)]
        boxes = boxes.clip(0, (width, height, width, height))
        valid = (boxes[:, 2:] > boxes[:, :2]).all(axis=1)
        boxes *= np.tile(np.divide(view.input_size[::-1], (width, height)), 2)
        # Crowds are neither objects nor background.
        regions = ["" if x.get("iscrowd", 0) else size for x, size in zip(objects, sizes)]
        regions = [region for region, is_valid in zip(regions, valid) if is_valid]
        self.images += 1
        for region in filter(None, regions):
            self.objects[region] += 1
        for level, maps in view.maps.items():
            self.strides[level] = maps.stride
            self.add_level(level, maps, boxes[valid], regions)

    def add_level(
        self, level: str, maps: LevelMaps, boxes: np.ndarray, regions: Sequence[str]
    ) -> None:
        """Count a level of an image.

        Args:
            boxes: (M, 4): x1, y1, x2, y2 in pixels of the network's input.
            regions: of the boxes; empty where a box only is no background.
        """
        entropy = torch.special.entr(maps.weights).sum(dim=0, keepdim=True)
        entropy /= math.log(len(maps.weights))
        values = torch.cat([maps.weights, maps.shares, entropy]).double().numpy()  # (2 L + 1, H, W)
        background = np.ones(values.shape[1:], bool)
        for box, region in zip(boxes / maps.stride, regions):
            rows, columns = cells_of(box, background.shape)
            background[rows, columns] = False
            if region:
                self.count(level, region, values[:, rows, columns].mean(axis=(1, 2)), 1)
        outside = values[:, background]
        self.count(level, "background", outside.sum(axis=1), outside.shape[1])
        self.count(level, "everywhere", values.sum(axis=(1, 2)), background.size)

    def count(self, level: str, region: str, values: np.ndarray, times: int) -> None:
        self.sums[level, region] = self.sums.get((level, region), 0.0) + values
        self.counts[level, region] += times

    def means(self, level: str, region: str) -> Means | None:
        """Of a level in a region; None where there is nothing to average."""
        if not (times := self.counts[level, region]):
            return None
        *values, entropy = (self.sums[level, region] / times).tolist()
        num_levels = len(values) // 2
        return Means(values[:num_levels], values[num_levels:], entropy)

    def never_used(self) -> list[str]:
        """The levels that no level takes anything from, not even themselves."""
        found = [means.weights for key in self.sums if (means := self.means(*key)) is not None]
        highest = np.max(found, axis=0) if found else ()
        return [level for level, weight in zip(self.strides, highest) if weight < NEVER]

    def to_json(self) -> dict:
        """All numbers, for a file; None where there is nothing to average."""
        levels = {}
        for index, (level, stride) in enumerate(self.strides.items()):
            regions = {}
            for region in REGIONS:
                means = self.means(level, region)
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
            "never_used": self.never_used(),
        }

    def to_markdown(self) -> str:
        """The tables, and an alarm for each level that is never used."""
        own, weights, shares = [], [], []
        for index, level in enumerate(self.strides):
            means = {region: self.means(level, region) for region in REGIONS}
            everywhere = means["everywhere"]
            row = [mean and mean.weights[index] for mean in means.values()]
            own.append((level, *row, everywhere.entropy))
            weights.append((level, *everywhere.weights))
            shares.append((level, *everywhere.shares))
        sizes = [f"{size} ({self.objects[size]})" for size in SIZES]
        style = {"tablefmt": "pipe", "floatfmt": ".3f", "missingval": "-"}
        levels = ["level", *self.strides]
        parts = [
            f"Mean weight that each level gives itself at objects by size, in the background and "
            f"everywhere, and entropy of its weights (1: all levels alike, 0: one level alone), "
            f"over {self.images} images:",
            tabulate(own, ["level", *sizes, *REGIONS[len(SIZES) :], "entropy"], **style),
            "Mean weights everywhere: what each level (row) takes from each level (column):",
            tabulate(weights, levels, **style),
            "Mean shares everywhere: what part of each level's fused feature (row) comes from each "
            "level (column), by the size of the weighted features:",
            tabulate(shares, levels, **style),
        ]
        parts += [
            f"Alarm: {level} is never used. At every level, at objects of every size and in the "
            f"background its mean weight is under {NEVER}."
            for level in self.never_used()
        ]
        return "\n\n".join(parts)


def cells_of(box: np.ndarray, shape: tuple[int, int]) -> tuple[slice, slice]:
    """AnchorGrid and columns of the cells of a box.

    Args:
        box: x1, y1, x2, y2 in cells.
        shape: how many rows and columns there are.
    """
    x1, y1, x2, y2 = box.tolist()
    return cells_between(y1, y2, shape[0]), cells_between(x1, x2, shape[1])


def cells_between(low: float, high: float, count: int) -> slice:
    """The cells along an axis whose centres are in [low, high), or that holds the middle."""
    start, stop = math.ceil(low - 0.5), math.ceil(high - 0.5)
    if start < stop:
        return slice(start, stop)
    middle = min(int((low + high) / 2), count - 1)
    return slice(middle, middle + 1)
