"""The ground truth of a batch in one tensor each.

Shape letters: N images, M ground-truth boxes of the fullest image (the others are padded).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from detectron2.structures import Instances
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from .box_regression import to_centers


@dataclass
class GroundTruth:
    """The ground truth of a batch, padded to M boxes per image.

    Attributes:
        boxes: (N, M, 4): cx, cy, w, h in pixels; a unit square where ``valid`` is False.
        classes: (N, M).
        weights: (N, M): mixup weight in [0, 1]; 1 without mixup.
        valid: (N, M): False for padding and for degenerate boxes.
    """

    boxes: Tensor
    classes: Tensor
    weights: Tensor
    valid: Tensor

    @classmethod
    def from_instances(cls, instances: Sequence[Instances]) -> GroundTruth:
        """Pad `gt_boxes`, `gt_classes` and, where present, `gt_weights` of N images."""
        boxes = [x.gt_boxes.tensor.float() for x in instances]
        weights = [
            x.gt_weights.float() if x.has("gt_weights") else torch.ones_like(b[:, 0])
            for x, b in zip(instances, boxes)
        ]
        classes = [x.gt_classes for x in instances]
        boxes = to_centers(pad_sequence(boxes, batch_first=True))
        weights = pad_sequence(weights, batch_first=True)
        classes = pad_sequence(classes, batch_first=True, padding_value=-1)
        valid = (classes >= 0) & (boxes[..., 2:] > 0).all(dim=-1)
        unit = boxes.new_ones(())
        return cls(torch.where(valid[..., None], boxes, unit), classes.clamp(min=0), weights, valid)
