"""Matching ground truth to anchors of the dense output.

Shape letters: N images, M ground-truth boxes of the fullest image (the others are padded), R all
anchors of an image, K classes, S anchors whose shape a box sets (1 or 2).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from .adjacent_ignore import AdjacentIgnore
from .anchor_generator import AnchorGrid, YOLOv3AnchorGenerator, location_index
from .box_regression import shape_iou, to_corners
from .ground_truth import GroundTruth
from .predictions import DensePredictions


@dataclass
class Matches:
    """The assignment of ground truth to anchors.

    Attributes:
        anchor_idx: (N, M), the anchor that a box is matched to.
        positive: (N, M), False for padding and for boxes that a later one overwrites.
        same_anchor: (N, M, M), which valid boxes are matched to the same anchor (also with itself).
        shape_anchor_idx: (N, M, S), anchors whose predicted shapes are trained towards the box's.
        shape_positive: (N, M, S), False as for ``positive``.
        obj_targets: (N, R), 1 at positives, else 0.
        obj_weights: (N, R), the box's weight at positives, else 1, or 0 where ignored.
    """

    anchor_idx: Tensor
    positive: Tensor
    same_anchor: Tensor
    shape_anchor_idx: Tensor
    shape_positive: Tensor
    obj_targets: Tensor
    obj_weights: Tensor


class YOLOv3Matcher:
    """Match ground truth to anchors as the authors' code does.

    A box is matched to that one of all preset anchors whose shape fits best: this gives the level
    and the anchor of a location; the location holds the box's centre. The anchor-free anchor of the
    location competes: where its predicted shape fits better, the box is matched to it instead. Of
    several boxes on one anchor the last one overwrites the others.

    Args:
        anchor_generator: that of the head.
        ignore_thresh: anchors whose decoded box overlaps any ground truth by more IoU than this
            have no objectness loss, unless they are positive.
        adjacent_ignore: finds further such anchors, at adjacent levels.
    """

    def __init__(
        self,
        anchor_generator: YOLOv3AnchorGenerator,
        *,
        ignore_thresh: float = 0.7,
        adjacent_ignore: AdjacentIgnore | None = None,
    ):
        self.anchor_generator = anchor_generator
        self.ignore_thresh = ignore_thresh
        self.adjacent_ignore = adjacent_ignore

    @torch.no_grad()
    def __call__(self, predictions: DensePredictions, gt: GroundTruth) -> Matches:
        """Match N images at once, without loops over boxes or synchronisation with the device."""
        preset_iou, presets = self._best_presets(gt.boxes)
        preset_idx, free_idx = self._place(presets, predictions.grid, gt.boxes)
        anchor_idx, shape_anchor_idx = preset_idx, preset_idx[..., None]
        if self.anchor_generator.anchor_free:
            free_sizes = predictions.anchor_sizes(free_idx)
            free_is_better = shape_iou(free_sizes, gt.boxes[..., 2:]) > preset_iou
            anchor_idx = torch.where(free_is_better, free_idx, preset_idx)
            shape_anchor_idx = torch.stack([preset_idx, free_idx], dim=-1)
        positive, same_anchor = _resolve_collisions(anchor_idx, gt.valid)
        shape_positive = [
            _resolve_collisions(idx, gt.valid)[0] for idx in shape_anchor_idx.unbind(dim=-1)
        ]
        obj_targets, obj_weights = self._objectness(predictions, gt, anchor_idx, positive)
        return Matches(
            anchor_idx=anchor_idx,
            positive=positive,
            same_anchor=same_anchor,
            shape_anchor_idx=shape_anchor_idx,
            shape_positive=torch.stack(shape_positive, dim=-1),
            obj_targets=obj_targets,
            obj_weights=obj_weights,
        )

    def _best_presets(self, gt_boxes: Tensor) -> tuple[Tensor, Tensor]:
        """Find the preset anchors whose shapes fit boxes (N, M, 4) best.

        Returns:
            (N, M) their shape IoUs; (N, M) their indices, counted from the finest level on.
        """
        generator = self.anchor_generator
        levels = zip(generator.cell_anchors, generator.num_preset_anchors)
        presets = [cell_anchors[:count] for cell_anchors, count in levels]
        # Finest level first: of anchors that fit equally well, the smallest wins.
        return shape_iou(gt_boxes[..., None, 2:], torch.cat(presets[::-1])).max(dim=-1)

    def _place(self, presets: Tensor, grid: AnchorGrid, gt_boxes: Tensor) -> tuple[Tensor, Tensor]:
        """Find anchors at the locations of the centres of boxes (N, M, 4).

        Args:
            presets: (N, M), indices of preset anchors, counted from the finest level on.

        Returns:
            (N, M) index of that anchor at the location; (N, M) index of the anchor-free one there.
        """
        generator = self.anchor_generator
        preset_idx, free_idx = torch.zeros_like(presets), torch.zeros_like(presets)
        start = len(grid.sizes)
        for level, (height, width) in reversed(list(enumerate(grid.level_shapes))):
            stride, count = generator.strides[level], generator.num_preset_anchors[level]
            start -= generator.num_anchors[level] * height * width  # the level's first anchor
            x = location_index(gt_boxes[..., 0], stride, width)
            y = location_index(gt_boxes[..., 1], stride, height)
            first = start + y * width + x  # the location's first anchor
            is_here = (presets >= 0) & (presets < count)
            preset_idx = torch.where(is_here, first + presets * (height * width), preset_idx)
            free_idx = torch.where(is_here, first + count * (height * width), free_idx)
            presets = presets - count
        return preset_idx, free_idx

    def _objectness(
        self, predictions: DensePredictions, gt: GroundTruth, anchor_idx: Tensor, positive: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return targets and weights of the objectness loss, (N, R) each."""
        ignored = _overlaps_any(
            to_corners(predictions.boxes()), to_corners(gt.boxes), gt.valid, self.ignore_thresh
        )
        if self.adjacent_ignore is not None:
            ignored |= self.adjacent_ignore(predictions.grid, gt.boxes, gt.valid, anchor_idx)
        # Boxes that are not positive write to one more anchor, which is cut off.
        num_images, num_anchors = ignored.shape
        anchor_idx = torch.where(positive, anchor_idx, num_anchors)
        targets = gt.weights.new_zeros(num_images, num_anchors + 1)
        targets.scatter_(1, anchor_idx, 1.0)
        weights = F.pad((~ignored).to(gt.weights), (0, 1))
        weights.scatter_(1, anchor_idx, gt.weights)
        return targets[:, :-1], weights[:, :-1]


def _resolve_collisions(anchor_idx: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
    """Keep the last of several boxes of an image that are matched to one anchor.

    Args:
        anchor_idx: (N, M); valid: (N, M).

    Returns:
        (N, M), True for valid boxes that no later one overwrites; (N, M, M), which valid boxes are
        matched to the same anchor.
    """
    same_anchor = anchor_idx[:, :, None] == anchor_idx[:, None, :]
    same_anchor = same_anchor & valid[:, :, None] & valid[:, None, :]
    later = torch.ones_like(same_anchor[0]).triu(diagonal=1)
    return valid & ~(same_anchor & later).any(dim=-1), same_anchor


def _overlaps_any(boxes: Tensor, gt_boxes: Tensor, valid: Tensor, thresh: float) -> Tensor:
    """Mark boxes that have an IoU above ``thresh`` with any valid ground-truth box of their image.

    Args:
        boxes: (N, R, 4); gt_boxes: (N, M, 4), corners in pixels; valid: (N, M).

    Returns:
        (N, R), bool.
    """
    # IoU > t is inter > t / (1 + t) (area + gt area): no division, few passes over the pairs.
    scale = thresh / (1 + thresh)
    u1, v1, u2, v2 = (c[:, :, None] for c in gt_boxes.unbind(dim=-1))
    gt_area = ((u2 - u1) * (v2 - v1) * scale).masked_fill(~valid[:, :, None], torch.inf)
    # In blocks of anchors: on a CPU the pairs then stay in its cache (five times as fast), on a GPU
    # a crowded batch does not fill the memory.
    pairs = 2**20 if boxes.device.type == "cpu" else 2**26
    overlaps = []
    for block in boxes.split(max(pairs // max(valid.numel(), 1), 1), dim=1):
        x1, y1, x2, y2 = (c.contiguous()[:, None, :] for c in block.unbind(dim=-1))
        inter = torch.minimum(x2, u2).sub_(torch.maximum(x1, u1)).clamp_(min=0)
        inter.mul_(torch.minimum(y2, v2).sub_(torch.maximum(y1, v1)).clamp_(min=0))
        overlaps.append((inter > (x2 - x1) * (y2 - y1) * scale + gt_area).any(dim=1))
    return torch.cat(overlaps, dim=1)
