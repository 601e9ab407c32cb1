"""The losses of YOLOv3 with guided anchoring: objectness, classes, box, IoU and anchor shape.

Shape letters: N images, M ground-truth boxes of the fullest image, R all anchors of an image, K
classes, S anchors whose shape a box sets.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .box_regression import apply_deltas, area, box_iou, get_deltas, shape_iou
from .ground_truth import GroundTruth
from .matcher import Matches
from .predictions import DensePredictions, gather_anchors


class YOLOv3Losses:
    """Sums over the batch divided by the number of images, as in the authors' code.

    Args:
        num_classes: K.
        iou_loss: 1 - IoU^2 of the decoded boxes (paper Table 1, "IoU").
        label_smoothing: class targets 1 - e and e instead of 1 and 0, with e = 1 / K.
        max_smoothing: the largest e. The authors have no such limit: with one class the target of
            every object would be 0, with two classes both would be 1/2. 1.0 restores that.
        weight_all_losses: mixup weights act on all terms; else on objectness alone.
    """

    def __init__(
        self,
        num_classes: int,
        *,
        iou_loss: bool = True,
        label_smoothing: bool = False,
        max_smoothing: float = 0.1,
        weight_all_losses: bool = False,
    ):
        self.iou_loss = iou_loss
        self.smoothing = min(1 / num_classes, max_smoothing) if label_smoothing else 0.0
        self.weight_all_losses = weight_all_losses

    def __call__(
        self, predictions: DensePredictions, matches: Matches, gt: GroundTruth, image_area: float
    ) -> dict[str, Tensor]:
        """Compute all terms.

        Args:
            image_area: pixels of one (padded) image; boxes count 2 - box area / image area.

        Returns:
            ``loss_obj``, ``loss_cls``, ``loss_box`` and, where they apply, ``loss_iou``,
            ``loss_shape``: terms to be summed, attached to the graph also without objects.
        """
        num_images = len(predictions.obj_logits)
        weights = gt.weights if self.weight_all_losses else torch.ones_like(gt.weights)
        positive_weights = matches.positive * weights
        losses = {
            "loss_obj": F.binary_cross_entropy_with_logits(
                predictions.obj_logits,
                matches.obj_targets,
                weight=matches.obj_weights,
                reduction="sum",
            ),
            "loss_cls": self._class_loss(predictions, matches, gt, positive_weights),
            **self._box_losses(predictions, matches, gt, positive_weights, image_area),
        }
        if predictions.shape_logits is not None:
            losses["loss_shape"] = self._shape_loss(predictions, matches, gt, weights)
        return {name: loss / num_images for name, loss in losses.items()}

    def _class_loss(
        self, predictions: DensePredictions, matches: Matches, gt: GroundTruth, weights: Tensor
    ) -> Tensor:
        logits = gather_anchors(predictions.cls_logits, matches.anchor_idx)
        targets = self._class_targets(matches, gt, logits.shape[-1])
        loss = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
        return (loss.sum(dim=-1) * weights).sum()

    def _class_targets(self, matches: Matches, gt: GroundTruth, num_classes: int) -> Tensor:
        """Return class targets (N, M, K).

        The classes of boxes on the same anchor unite; with smoothing, those of the last box count.
        """
        classes = torch.arange(num_classes, device=gt.classes.device)
        one_hot = (gt.classes[..., None] == classes).float()
        if self.smoothing:
            return one_hot * (1 - self.smoothing) + (1 - one_hot) * self.smoothing
        return (matches.same_anchor.float() @ one_hot).clamp(max=1)

    def _box_losses(
        self,
        predictions: DensePredictions,
        matches: Matches,
        gt: GroundTruth,
        weights: Tensor,
        image_area: float,
    ) -> dict[str, Tensor]:
        grid, anchor_idx = predictions.grid, matches.anchor_idx
        # Not detached: the box losses train the predicted anchors too.
        anchors = (
            predictions.anchor_sizes(anchor_idx),
            grid.locations[anchor_idx],
            grid.strides[anchor_idx],
        )
        logits = gather_anchors(predictions.box_logits, anchor_idx)
        targets = get_deltas(gt.boxes, *anchors)
        # Small boxes count more: up to 2, and 1 for a box as large as the image.
        scale = weights * (2 - area(gt.boxes[..., 2:]) / image_area)

        center = F.binary_cross_entropy_with_logits(
            logits[..., :2], targets[..., :2], reduction="none"
        )
        size = (logits[..., 2:] - targets[..., 2:]).abs()
        losses = {"loss_box": ((center + size).sum(dim=-1) * scale).sum()}
        if self.iou_loss:
            iou = box_iou(apply_deltas(logits, *anchors), gt.boxes)
            losses["loss_iou"] = ((1 - iou**2) * scale).sum()
        return losses

    def _shape_loss(
        self, predictions: DensePredictions, matches: Matches, gt: GroundTruth, weights: Tensor
    ) -> Tensor:
        """Sum 1 - IoU^2 of ground truth and predicted anchors, shapes only."""
        anchor_idx = matches.shape_anchor_idx.flatten(1)  # (N, M S)
        sizes = predictions.anchor_sizes(anchor_idx)
        sizes = sizes.view(*matches.shape_anchor_idx.shape, 2)
        iou = shape_iou(sizes, gt.boxes[..., None, 2:])
        return ((1 - iou**2) * matches.shape_positive * weights[..., None]).sum()
