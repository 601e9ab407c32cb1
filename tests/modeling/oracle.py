"""Targets and losses as slow loops, from the specification in shared/reference/README.md.

Nothing of the package computes here: of its classes only the tensors inside are read. All is in
float64, and gradients flow, so that they can be compared too.

Shape letters: N images, R rows of the dense output, K classes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
import torch.nn.functional as F
from detectron2.structures import Instances
from torch import Tensor

# As the config has them: (width, height) in pixels at strides 8, 16, 32.
ANCHORS = (
    ((10, 13), (16, 30), (33, 23)),
    ((30, 61), (62, 45), (42, 119)),
    ((116, 90), (156, 198), (373, 326)),
)


@dataclass
class Row:
    """Place of one row: pixels per cell, cell, base anchor in pixels."""

    stride: int
    x: int
    y: int
    width: float
    height: float


class Layout:
    """All rows for an input of ``height`` x ``width`` pixels.

    Stride 32, then 16, then 8; in a level by slot (anchors, then the anchor-free one), then y,
    then x.
    """

    def __init__(
        self,
        height: int,
        width: int,
        *,
        anchors: Sequence[Sequence[Sequence[float]]] = ANCHORS,
        anchor_free: bool = True,
    ):
        self.height, self.width = height, width
        self.anchors, self.anchor_free = anchors, anchor_free
        self.rows: list[Row] = []
        self.number: dict[tuple[int, int, int, int], int] = {}  # (stride, slot, y, x) -> row
        for stride, sizes in zip((32, 16, 8), anchors[::-1]):
            slots = [*sizes, (4 * stride, 4 * stride)] if anchor_free else sizes
            for slot, (anchor_width, anchor_height) in enumerate(slots):
                for y in range(height // stride):
                    for x in range(width // stride):
                        self.number[stride, slot, y, x] = len(self.rows)
                        self.rows.append(Row(stride, x, y, anchor_width, anchor_height))

    @property
    def sizes(self) -> list[tuple[int, int]]:
        """(height, width) of the levels in cells, coarsest first."""
        return [(self.height // stride, self.width // stride) for stride in (32, 16, 8)]


@dataclass
class Truth:
    """One truth: its number in the image, box in pixels, class and mixup weight."""

    index: int
    cx: float
    cy: float
    w: float
    h: float
    category: int
    weight: float


@dataclass
class Targets:
    """Of one image: the truth at every positive row, the classes that unite there, the truth whose
    shape a row learns, and the rows without objectness loss."""

    positives: dict[int, Truth] = field(default_factory=dict)
    classes: dict[int, set[int]] = field(default_factory=dict)
    shapes: dict[int, Truth] = field(default_factory=dict)
    ignored: set[int] = field(default_factory=set)
    # What happened, so that a test can see that its example holds the case.
    num_anchor_free: int = 0
    num_collisions: int = 0


def list_truths(instances: Instances) -> list[Truth]:
    """The truths of an image; those without area count nowhere."""
    weights = instances.gt_weights.tolist() if instances.has("gt_weights") else None
    truths = []
    boxes, classes = instances.gt_boxes.tensor.tolist(), instances.gt_classes.tolist()
    for index, ((x1, y1, x2, y2), category) in enumerate(zip(boxes, classes)):
        weight = 1.0 if weights is None else weights[index]
        if x2 > x1 and y2 > y1:
            center = (x1 + x2) / 2, (y1 + y2) / 2
            truths.append(Truth(index, *center, x2 - x1, y2 - y1, category, weight))
    return truths


def iou_of_shapes(w: float, h: float, other_w: float, other_h: float) -> float:
    inter = min(w, other_w) * min(h, other_h)
    return inter / (w * h + other_w * other_h - inter)


def slow_targets(
    layout: Layout,
    box_logits: Tensor,
    shape_logits: Tensor | None,
    instances: Instances,
    ignore_thresh: float = 0.7,
) -> Targets:
    """Targets of one image from its (R, 4) box logits and (R, 2) shape logits."""
    targets = Targets()
    shapes = None if shape_logits is None else shape_logits.detach().double().numpy()
    truths = list_truths(instances)
    for truth in truths:
        best, stride, slot = -1.0, 0, 0
        for level_stride, sizes in zip((8, 16, 32), layout.anchors):
            for number, (anchor_width, anchor_height) in enumerate(sizes):
                iou = iou_of_shapes(truth.w, truth.h, anchor_width, anchor_height)
                if iou > best:
                    best, stride, slot = iou, level_stride, number
        # A centre on the right or lower border is in the last cell.
        x = min(int(truth.cx // stride), layout.width // stride - 1)
        y = min(int(truth.cy // stride), layout.height // stride - 1)
        row = layout.number[stride, slot, y, x]
        targets.shapes[row] = truth
        if layout.anchor_free:
            num_preset_anchors = len(layout.anchors[(8, 16, 32).index(stride)])
            free = layout.number[stride, num_preset_anchors, y, x]
            targets.shapes[free] = truth
            free_width = free_height = 4.0 * stride
            if shapes is not None:
                free_width *= math.exp(shapes[free, 0])
                free_height *= math.exp(shapes[free, 1])
            if iou_of_shapes(truth.w, truth.h, free_width, free_height) > best:
                row = free
                targets.num_anchor_free += 1
        targets.num_collisions += row in targets.positives
        targets.positives[row] = truth
        targets.classes.setdefault(row, set()).add(truth.category)

    cx, cy, w, h = slow_decode(layout, box_logits, shapes)
    for truth in truths:
        left = np.maximum(cx - w / 2, truth.cx - truth.w / 2)
        right = np.minimum(cx + w / 2, truth.cx + truth.w / 2)
        top = np.maximum(cy - h / 2, truth.cy - truth.h / 2)
        bottom = np.minimum(cy + h / 2, truth.cy + truth.h / 2)
        inter = np.maximum(right - left, 0) * np.maximum(bottom - top, 0)
        iou = inter / (w * h + truth.w * truth.h - inter)
        targets.ignored.update(np.flatnonzero(iou > ignore_thresh).tolist())
    targets.ignored -= set(targets.positives)
    return targets


def slow_decode(layout: Layout, box_logits: Tensor, shapes: np.ndarray | None) -> np.ndarray:
    """(4, R): cx, cy, w, h of all boxes in pixels."""
    logits = box_logits.detach().double().numpy()
    strides = np.array([row.stride for row in layout.rows])
    cells = np.array([(row.x, row.y) for row in layout.rows])
    anchors = np.array([(row.width, row.height) for row in layout.rows], dtype=np.float64)
    if shapes is not None:
        anchors = anchors * np.exp(shapes)
    centers = (1 / (1 + np.exp(-logits[:, :2])) + cells) * strides[:, None]
    return np.concatenate([centers, np.exp(logits[:, 2:]) * anchors], axis=1).T


def cross_entropy(logit: Tensor, target: float | Tensor) -> Tensor:
    """-t log p - (1 - t) log (1 - p) with p = sigmoid(logit)."""
    return -target * F.logsigmoid(logit) - (1 - target) * F.logsigmoid(-logit)


def slow_losses(
    layout: Layout,
    box_logits: Tensor,
    obj_logits: Tensor,
    cls_logits: Tensor,
    shape_logits: Tensor | None,
    instances: Sequence[Instances],
    *,
    iou_loss: bool = True,
    smoothing: float | None = None,
    weight_all_losses: bool = False,
) -> dict[str, Tensor]:
    """All loss terms of N images under the package's names.

    Args:
        box_logits, obj_logits, cls_logits, shape_logits: (N, R, 4), (N, R), (N, R, K), (N, R, 2).
        smoothing: e of the class targets 1 - e and e; None for 1 and 0 (not the same as e = 0:
            without smoothing the classes of truths on one slot unite).
        weight_all_losses: mixup weights act on every term, not on objectness alone.
    """
    names = ["loss_obj", "loss_cls", "loss_box"]
    names += ["loss_iou"] * iou_loss + ["loss_shape"] * (shape_logits is not None)
    total = {name: torch.zeros((), dtype=torch.float64) for name in names}
    num_images = len(cls_logits)
    for image in range(num_images):
        boxes, classes = box_logits[image].double(), cls_logits[image].double()
        shapes = None if shape_logits is None else shape_logits[image].double()
        targets = slow_targets(layout, boxes, shapes, instances[image])
        loss = slow_objectness(obj_logits[image].double(), targets)
        total["loss_obj"] = total["loss_obj"] + loss

        rows = list(targets.positives)
        # Taken out at once: the gradient of each single index would be as large as all rows.
        for row, deltas, logits in zip(rows, boxes[rows], classes[rows]):
            truth = targets.positives[row]
            weight = truth.weight if weight_all_losses else 1.0
            for category, logit in enumerate(logits):
                if smoothing is None:
                    wanted = float(category in targets.classes[row])
                else:
                    wanted = 1 - smoothing if category == truth.category else smoothing
                total["loss_cls"] = total["loss_cls"] + weight * cross_entropy(logit, wanted)

            scale = weight * (2 - truth.w * truth.h / (layout.width * layout.height))
            anchor = predicted_anchor(layout.rows[row], None if shapes is None else shapes[row])
            difference, iou = slow_box(layout.rows[row], truth, deltas, anchor)
            total["loss_box"] = total["loss_box"] + scale * difference
            if iou_loss:
                total["loss_iou"] = total["loss_iou"] + scale * (1 - iou**2)

        if shapes is not None:
            for row, truth in targets.shapes.items():
                w, h = predicted_anchor(layout.rows[row], shapes[row])
                inter = w.clamp(max=truth.w) * h.clamp(max=truth.h)
                iou = inter / (w * h + truth.w * truth.h - inter)
                weight = truth.weight if weight_all_losses else 1.0
                total["loss_shape"] = total["loss_shape"] + weight * (1 - iou**2)
    return {name: loss / num_images for name, loss in total.items()}


def slow_objectness(logits: Tensor, targets: Targets) -> Tensor:
    """Of one image, from its (R,) logits."""
    positive, weights = torch.zeros_like(logits), torch.ones_like(logits)
    weights[sorted(targets.ignored)] = 0
    for row, truth in targets.positives.items():
        positive[row], weights[row] = 1, truth.weight
    return (cross_entropy(logits, positive) * weights).sum()


def predicted_anchor(row: Row, shape_logits: Tensor | None) -> tuple[Tensor, Tensor]:
    """Width and height in pixels."""
    width, height = torch.tensor([row.width, row.height], dtype=torch.float64)
    if shape_logits is None:
        return width, height
    return width * shape_logits[0].exp(), height * shape_logits[1].exp()


def slow_box(
    row: Row, truth: Truth, deltas: Tensor, anchor: tuple[Tensor, Tensor]
) -> tuple[Tensor, Tensor]:
    """Of one truth: the loss of x, y, w, h; and the IoU with the decoded box."""
    x, y, log_w, log_h = deltas.unbind()
    loss = cross_entropy(x, truth.cx / row.stride - row.x)
    loss = loss + cross_entropy(y, truth.cy / row.stride - row.y)
    loss = loss + (log_w - torch.log(truth.w / anchor[0])).abs()
    loss = loss + (log_h - torch.log(truth.h / anchor[1])).abs()

    cx, cy = (x.sigmoid() + row.x) * row.stride, (y.sigmoid() + row.y) * row.stride
    w, h = log_w.exp() * anchor[0], log_h.exp() * anchor[1]
    inter = overlap(cx, w, truth.cx, truth.w) * overlap(cy, h, truth.cy, truth.h)
    return loss, inter / (w * h + truth.w * truth.h - inter)


def overlap(center: Tensor, size: Tensor, other_center: float, other_size: float) -> Tensor:
    """Length that two intervals share."""
    low = (center - size / 2).clamp(min=other_center - other_size / 2)
    high = (center + size / 2).clamp(max=other_center + other_size / 2)
    return (high - low).clamp(min=0)
