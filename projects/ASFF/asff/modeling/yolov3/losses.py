"""The losses of YOLOv3 with guided anchoring: objectness, classes, box, IoU and anchor shape.

Shape letters: N images, M truths of the fullest image, R rows, K classes, S shape rows of a truth.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .box_regression import apply_deltas, box_iou, get_deltas, predict_anchors, shape_iou
from .head import DensePredictions
from .matcher import GroundTruth, Matches, gather_anchors


class YOLOv3Losses:
    """Sums over the batch divided by the number of images, as in the authors' code.

    Args:
        num_classes: K.
        iou_loss: 1 - IoU^2 of the decoded boxes (paper Table 1, "IoU").
        label_smoothing: class targets 1 - e and e instead of 1 and 0, with e = 1 / K.
        max_smoothing: the largest e. The authors have no such limit: with one class the target of
            every object would be 0, with two classes both would be 1/2. 1.0 restores that.
        weight_all_losses: truths' weights act on all terms; else on objectness alone.
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
        self,
        predictions: DensePredictions,
        matches: Matches,
        truths: GroundTruth,
        image_area: float,
    ) -> dict[str, Tensor]:
        """Compute all terms.

        Args:
            image_area: pixels of one (padded) image; boxes count 2 - box area / image area.

        Returns:
            ``loss_obj``, ``loss_cls``, ``loss_box`` and, where they apply, ``loss_iou``,
            ``loss_shape``: terms to be summed. Each reaches every parameter also without truths.
        """
        num_images = len(predictions.obj_logits)
        weights = truths.weights if self.weight_all_losses else torch.ones_like(truths.weights)
        positive_weights = matches.positive * weights
        losses = {
            "loss_obj": self.objectness(predictions, matches),
            "loss_cls": self.classes(predictions, matches, truths, positive_weights),
            **self.boxes(predictions, matches, truths, positive_weights, image_area),
        }
        if predictions.shape_logits is not None:
            losses["loss_shape"] = self.shapes(predictions, matches, truths, weights)
        return {name: loss / num_images for name, loss in losses.items()}

    def objectness(self, predictions: DensePredictions, matches: Matches) -> Tensor:
        return F.binary_cross_entropy_with_logits(
            predictions.obj_logits,
            matches.obj_targets,
            weight=matches.obj_weights,
            reduction="sum",
        )

    def classes(
        self, predictions: DensePredictions, matches: Matches, truths: GroundTruth, weights: Tensor
    ) -> Tensor:
        logits = gather_anchors(predictions.cls_logits, matches.row)
        targets = self.class_targets(matches, truths, logits.shape[-1])
        loss = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
        return (loss.sum(dim=-1) * weights).sum()

    def class_targets(self, matches: Matches, truths: GroundTruth, num_classes: int) -> Tensor:
        """(N, M, K): on a shared row classes unite; with smoothing, the last truth's counts."""
        classes = torch.arange(num_classes, device=truths.classes.device)
        one_hot = (truths.classes[..., None] == classes).float()
        if self.smoothing:
            return one_hot * (1 - self.smoothing) + (1 - one_hot) * self.smoothing
        return (matches.same_anchor.float() @ one_hot).clamp(max=1)

    def boxes(
        self,
        predictions: DensePredictions,
        matches: Matches,
        truths: GroundTruth,
        weights: Tensor,
        image_area: float,
    ) -> dict[str, Tensor]:
        rows, row = predictions.grid, matches.row
        anchors = rows.anchors[row]
        if predictions.shape_logits is not None:
            # Not detached: the box losses train the predicted anchor too.
            anchors = predict_anchors(gather_anchors(predictions.shape_logits, row), anchors)
        place = anchors, rows.cells[row], rows.strides[row]
        logits = gather_anchors(predictions.box_logits, row)
        targets = get_deltas(truths.boxes, *place)
        # Small boxes count more: up to 2, and 1 for a box as large as the image.
        scale = weights * (2 - truths.boxes[..., 2:].prod(dim=-1) / image_area)

        center = F.binary_cross_entropy_with_logits(
            logits[..., :2], targets[..., :2], reduction="none"
        )
        size = (logits[..., 2:] - targets[..., 2:]).abs()
        losses = {"loss_box": ((center + size).sum(dim=-1) * scale).sum()}
        if self.iou_loss:
            iou = box_iou(apply_deltas(logits, *place), truths.boxes)
            losses["loss_iou"] = ((1 - iou**2) * scale).sum()
        return losses

    def shapes(
        self, predictions: DensePredictions, matches: Matches, truths: GroundTruth, weights: Tensor
    ) -> Tensor:
        """1 - IoU^2 between truths and the predicted anchors of both candidate slots."""
        row = matches.shape_anchor_idx.flatten(1)  # (N, M S)
        predicted = predict_anchors(
            gather_anchors(predictions.shape_logits, row), predictions.grid.anchors[row]
        ).view(*matches.shape_anchor_idx.shape, 2)
        iou = shape_iou(predicted, truths.boxes[..., None, 2:])
        return ((1 - iou**2) * matches.shape_positive * weights[..., None]).sum()
