"""Whether an exported model detects what the detector in PyTorch does."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from detectron2.structures import Instances
from torch import Tensor

from .metadata import Thresholds

# Maps Detectron2's inputs to its outputs.
Detector = Callable[[list[dict]], list[dict[str, Instances]]]


@dataclass(frozen=True)
class Tolerance:
    """By how much boxes (in pixels of the image) and scores of a detection may differ."""

    box: float
    score: float


@dataclass
class Agreement:
    """How far the detections of an exported model are those of the detector.

    Attributes:
        matched, unmatched: number of detections of either; unmatched ones have no counterpart of
            the same class within the tolerance.
        box, score: largest difference among the matched.
    """

    matched: int = 0
    unmatched: int = 0
    box: float = 0.0
    score: float = 0.0

    def __str__(self) -> str:
        return (
            f"{self.matched} detections agree (boxes within {self.box:.2g} pixels, scores within "
            f"{self.score:.2g}), {self.unmatched} do not"
        )


@torch.no_grad()
def compare(
    reference: Detector,
    exported: Detector,
    batches: Sequence[list[dict]],
    thresholds: Thresholds,
    tolerance: Tolerance,
) -> Agreement:
    """Compare the detections of batches.

    Detections whose score is so close to the threshold, or to that of the last detection of a full
    image, that the tolerance decides whether they are there, need no counterpart.
    """
    total = Agreement()
    for batch in batches:
        for outputs in zip(reference(batch), exported(batch)):
            expected, found = (x["instances"] for x in outputs)
            _compare_image(expected, found, thresholds, tolerance, total)
    return total


def _compare_image(
    expected: Instances,
    found: Instances,
    thresholds: Thresholds,
    tolerance: Tolerance,
    total: Agreement,
) -> None:
    """Add the comparison of one image to ``total``."""
    boxes = _differences(expected.pred_boxes.tensor, found.pred_boxes.tensor).amax(dim=-1)
    scores = _differences(expected.scores, found.scores)
    same = expected.pred_classes[:, None] == found.pred_classes
    allowed = same & (boxes <= tolerance.box) & (scores <= tolerance.score)
    free = torch.ones(len(found), dtype=torch.bool)
    lowest = thresholds.score
    for x in (expected, found):
        if len(x) == thresholds.detections:
            lowest = max(lowest, float(x.scores.min()))
    lowest += tolerance.score
    for i, score in enumerate(expected.scores.tolist()):
        cost = boxes[i].masked_fill(~(allowed[i] & free), float("inf"))
        if len(found) == 0 or cost.min() == float("inf"):
            total.unmatched += score > lowest
            continue
        j = int(cost.argmin())
        free[j] = False
        total.matched += 1
        total.box = max(total.box, float(boxes[i, j]))
        total.score = max(total.score, float(scores[i, j]))
    total.unmatched += int((free & (found.scores > lowest)).sum())


def _differences(a: Tensor, b: Tensor) -> Tensor:
    """Return |a - b| of all pairs."""
    return (a[:, None] - b[None]).abs()


def another_size(inputs: dict, divisor: int) -> dict:
    """Resize an input, to see that the model takes other sizes than those it was verified at."""
    image = inputs["image"]
    height, width = image.shape[-2:]
    size = (height + divisor, width + 2 * divisor)
    resized = F.interpolate(image[None].float(), size, mode="bilinear")[0]
    return {"image": resized, "height": size[0], "width": size[1]}
