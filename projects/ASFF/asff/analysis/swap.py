"""Compare two detectors on the same images: how far features move, and which detections stay."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from detectron2.structures import Instances, pairwise_iou
from torch import Tensor, nn
from tqdm import tqdm

MIN_SCORE, MIN_IOU = 0.3, 0.95


@dataclass
class Change:
    """Differences between a detector and a second one over a dataset.

    Attributes:
        moved: per level, norm of the difference of the features relative to the first features.
        kept, lost: detections of the first detector, with a score above 0.3, that the second one
            has or lacks: of the same class, at an IoU of at least 0.95, whatever the score.
        new: detections of the second one that the first one lacks, by the same rule.
    """

    moved: dict[str, float]
    kept: int
    lost: int
    new: int

    def __str__(self) -> str:
        total = self.kept + self.lost
        share = f"{self.kept / total:.1%}" if total else "n/a"
        return (
            f"Features move by {', '.join(f'{k} {v:.1%}' for k, v in self.moved.items())}\n"
            f"Of {total} boxes with a score over {MIN_SCORE}, {self.kept} ({share}) are found "
            f"again with the same class at IoU {MIN_IOU}; {self.new} are new."
        )


@torch.no_grad()
def compare_detectors(first: nn.Module, second: nn.Module, batches: Iterable[list[dict]]) -> Change:
    """Run two detectors, whose backbones have the same levels, over the same batches."""
    features: list[dict[str, Tensor]] = []
    hooks = [
        model.backbone.register_forward_hook(lambda module, args, out: features.append(out))
        for model in (first, second)
    ]
    squares, differences = {}, {}
    kept = lost = new = 0
    for batch in tqdm(batches, unit="batch", disable=None):
        features.clear()
        results = [model(batch) for model in (first, second)]
        for name, x in features[0].items():
            squares[name] = squares.get(name, 0) + x.double().square().sum().item()
            difference = (features[1][name] - x).double().square().sum().item()
            differences[name] = differences.get(name, 0) + difference
        for a, b in zip(*results):
            again = found_again(a["instances"], b["instances"])
            kept, lost = kept + int(again.sum()), lost + int((~again).sum())
            new += int((~found_again(b["instances"], a["instances"])).sum())
    for hook in hooks:
        hook.remove()
    moved = {name: (differences[name] / squares[name]) ** 0.5 for name in squares}
    return Change(moved, kept, lost, new)


def found_again(detections: Instances, others: Instances) -> Tensor:
    """Check which detections with a score above 0.3 the others contain, whatever their score."""
    detections = detections[detections.scores > MIN_SCORE]
    ious = pairwise_iou(detections.pred_boxes, others.pred_boxes)
    same_class = detections.pred_classes[:, None] == others.pred_classes
    return ((ious >= MIN_IOU) & same_class).any(dim=1)
