"""Which rows of the dense output answer for which truths.

Shape letters: N images, M truths of the fullest image (the others are padded), R rows, K classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from detectron2.structures import Instances
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from .adjacent_ignore import AdjacentIgnore
from .anchor_generator import YOLOv3AnchorGenerator, location_index
from .box_regression import predict_anchors, shape_iou, to_centers, to_corners
from .head import DensePredictions


@dataclass
class GroundTruth:
    """The truths of a batch, padded to M per image.

    Attributes:
        boxes: (N, M, 4): cx, cy, w, h in pixels; a unit square where there is no truth.
        classes: (N, M).
        weights: (N, M): mixup weight in [0, 1]; 1 without mixup.
        valid: (N, M): False for padding and for boxes without area.
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


@dataclass
class Matches:
    """The result of matching.

    Attributes:
        row: (N, M), the row that answers for the truth.
        positive: (N, M), False for padding and for truths that a later one pushed off its row.
        same_anchor: (N, M, M), valid truths on the same row (a truth shares its own).
        shape_anchor_idx: (N, M, S), rows whose predicted anchors learn the truth's shape.
        shape_positive: (N, M, S), False as for ``positive``.
        obj_targets: (N, R), 1 at positives, else 0.
        obj_weights: (N, R), the truth's weight at positives, else 1, or 0 where ignored.
    """

    row: Tensor
    positive: Tensor
    same_anchor: Tensor
    shape_anchor_idx: Tensor
    shape_positive: Tensor
    obj_targets: Tensor
    obj_weights: Tensor


def gather_anchors(x: Tensor, row: Tensor) -> Tensor:
    """Take rows (N, M) of x (N, R, C): (N, M, C)."""
    return x.gather(1, row[..., None].expand(-1, -1, x.shape[-1]))


def resolve_collisions(row: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
    """Where several truths of an image want one row, the last one gets it.

    Args:
        row: (N, M); valid: (N, M).

    Returns:
        (N, M), True for valid truths that no later one pushes off; (N, M, M), valid pairs on a row.
    """
    same_anchor = (row[:, :, None] == row[:, None, :]) & valid[:, :, None] & valid[:, None, :]
    later = torch.ones_like(same_anchor[0]).triu(diagonal=1)
    return valid & ~(same_anchor & later).any(dim=-1), same_anchor


class YOLOv3Matcher:
    """Assign truths to rows as the authors' code does.

    A truth belongs to that one of all anchors whose shape fits best: this gives level and slot; the
    cell holds the truth's centre. There the anchor-free slot competes: where its predicted shape
    fits better than the best anchor, it answers for the truth instead.

    Args:
        anchors: the base anchors.
        ignore_thresh: a row whose decoded box overlaps any truth by more IoU than this, and that is
            not positive, has no objectness loss.
        adjacent_ignore: finds further rows, at the levels next to a truth's own, that have none
            unless they are positive; None: there are no such.
    """

    def __init__(
        self,
        anchors: YOLOv3AnchorGenerator,
        *,
        ignore_thresh: float = 0.7,
        adjacent_ignore: AdjacentIgnore | None = None,
    ):
        self.anchors = anchors
        self.ignore_thresh = ignore_thresh
        self.adjacent_ignore = adjacent_ignore

    @torch.no_grad()
    def __call__(self, predictions: DensePredictions, truths: GroundTruth) -> Matches:
        """Match N images at once; neither loops over truths nor waits for the device."""
        anchor_row, free_row, best_iou = self.candidate_anchors(predictions, truths)
        row, shape_anchor_idx = anchor_row, anchor_row[..., None]
        if self.anchors.anchor_free:
            free_size = gather_anchors(predictions.grid.anchors.expand(len(row), -1, -1), free_row)
            if predictions.shape_logits is not None:
                logits = gather_anchors(predictions.shape_logits, free_row)
                free_size = predict_anchors(logits, free_size)
            free_wins = shape_iou(free_size, truths.boxes[..., 2:]) > best_iou
            row = torch.where(free_wins, free_row, anchor_row)
            shape_anchor_idx = torch.stack([anchor_row, free_row], dim=-1)
        positive, same_anchor = resolve_collisions(row, truths.valid)
        shape_positive = [
            resolve_collisions(r, truths.valid)[0] for r in shape_anchor_idx.unbind(dim=-1)
        ]
        obj_targets, obj_weights = self.objectness(predictions, truths, row, positive)
        return Matches(
            row,
            positive,
            same_anchor,
            shape_anchor_idx,
            torch.stack(shape_positive, dim=-1),
            obj_targets,
            obj_weights,
        )

    def candidate_anchors(
        self, predictions: DensePredictions, truths: GroundTruth
    ) -> tuple[Tensor, Tensor, Tensor]:
        """(N, M) row of the best anchor, of its cell's anchor-free slot, and best shape IoU."""
        # Finest level first: of anchors that fit equally well, the smallest wins.
        levels = list(enumerate(self.anchors.base))[::-1]
        base = torch.cat(
            [b[:n] for (_, b), n in zip(levels, self.anchors.num_preset_anchors[::-1])]
        )
        ious = shape_iou(truths.boxes[..., None, 2:], base)
        best_iou, best = ious.max(dim=-1)

        anchor_row, free_row = torch.zeros_like(best), torch.zeros_like(best)
        starts = [0]
        for slots, (height, width) in zip(self.anchors.num_anchors, predictions.grid.sizes):
            starts.append(starts[-1] + slots * height * width)
        first = 0
        for level, _ in levels:
            count, stride = self.anchors.num_preset_anchors[level], self.anchors.strides[level]
            height, width = predictions.grid.sizes[level]
            x = location_index(truths.boxes[..., 0], stride, width)
            y = location_index(truths.boxes[..., 1], stride, height)
            cell = starts[level] + y * width + x
            here = (best >= first) & (best < first + count)
            slot_size = height * width
            anchor_row = torch.where(here, cell + (best - first) * slot_size, anchor_row)
            free_row = torch.where(here, cell + count * slot_size, free_row)
            first += count
        return anchor_row, free_row, best_iou

    def objectness(
        self, predictions: DensePredictions, truths: GroundTruth, row: Tensor, positive: Tensor
    ) -> tuple[Tensor, Tensor]:
        """(N, R) targets and weights of the objectness loss."""
        ignored = overlaps_any(
            to_corners(predictions.boxes()),
            to_corners(truths.boxes),
            truths.valid,
            self.ignore_thresh,
        )
        if self.adjacent_ignore is not None:
            ignored |= self.adjacent_ignore(predictions.grid, truths.boxes, truths.valid, row)
        # What is not positive is written to a row behind the last one.
        num_rows = ignored.shape[1]
        row = torch.where(positive, row, num_rows)
        targets = truths.weights.new_zeros(len(row), num_rows + 1)
        targets.scatter_(1, row, 1.0)
        weights = F.pad((~ignored).to(truths.weights), (0, 1))
        weights.scatter_(1, row, truths.weights)
        return targets[:, :-1], weights[:, :-1]


def overlaps_any(boxes: Tensor, others: Tensor, valid: Tensor, thresh: float) -> Tensor:
    """Whether a box has an IoU above ``thresh`` with any valid other box of its image.

    Args:
        boxes: (N, R, 4); others: (N, M, 4), corners in pixels; valid: (N, M).

    Returns:
        (N, R), bool.
    """
    # In blocks of rows: on a CPU the pairs then stay in its cache (five times as fast), on a GPU a
    # crowded batch does not fill the memory.
    pairs = 2**20 if boxes.device.type == "cpu" else 2**26
    blocks = boxes.split(max(pairs // max(valid.numel(), 1), 1), dim=1)
    return torch.cat([block_overlaps_any(block, others, valid, thresh) for block in blocks], dim=1)


def block_overlaps_any(boxes: Tensor, others: Tensor, valid: Tensor, thresh: float) -> Tensor:
    """:func:`overlaps_any` with all N M R pairs in memory at once."""
    # IoU > t is inter > t / (1 + t) (area + other area): no division, few passes over the pairs.
    x1, y1, x2, y2 = (c.contiguous()[:, None, :] for c in boxes.unbind(dim=-1))
    u1, v1, u2, v2 = (c[:, :, None] for c in others.unbind(dim=-1))
    inter = torch.minimum(x2, u2).sub_(torch.maximum(x1, u1)).clamp_(min=0)
    inter.mul_(torch.minimum(y2, v2).sub_(torch.maximum(y1, v1)).clamp_(min=0))
    scale = thresh / (1 + thresh)
    area, other_area = (x2 - x1) * (y2 - y1) * scale, (u2 - u1) * (v2 - v1) * scale
    other_area = other_area.masked_fill(~valid[:, :, None], torch.inf)
    return (inter > area + other_area).any(dim=1)
