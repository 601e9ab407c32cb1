"""Targets and losses as slow loops, from the specification in shared/reference/README.md.

No code of the package is used. All is in float64 and differentiable, so that gradients can be
compared too.

Shape letters: N images, R all anchors of an image, K classes.
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

# As in the config: (width, height) in pixels at strides 8, 16, 32.
PRESETS = (
    ((10, 13), (16, 30), (33, 23)),
    ((30, 61), (62, 45), (42, 119)),
    ((116, 90), (156, 198), (373, 326)),
)


@dataclass
class Anchor:
    """Stride in pixels, location, and base size in pixels."""

    stride: int
    x: int
    y: int
    width: float
    height: float


class Layout:
    """All anchors for an input of ``height`` x ``width`` pixels.

    They are ordered by stride (32, 16, 8), then by anchor of a location (the anchor-free one last),
    then by y, then by x.
    """

    def __init__(
        self,
        height: int,
        width: int,
        *,
        presets: Sequence[Sequence[Sequence[float]]] = PRESETS,
        anchor_free: bool = True,
    ):
        self.height, self.width = height, width
        self.presets, self.anchor_free = presets, anchor_free
        self.anchors: list[Anchor] = []
        # (stride, anchor of the location, y, x) -> index
        self.index: dict[tuple[int, int, int, int], int] = {}
        for stride, sizes in zip((32, 16, 8), presets[::-1]):
            sizes = [*sizes, (4 * stride, 4 * stride)] if anchor_free else sizes
            for a, size in enumerate(sizes):
                for y in range(height // stride):
                    for x in range(width // stride):
                        self.index[stride, a, y, x] = len(self.anchors)
                        self.anchors.append(Anchor(stride, x, y, *size))

    @property
    def level_shapes(self) -> list[tuple[int, int]]:
        """(H, W) of the levels, coarsest first."""
        return [(self.height // stride, self.width // stride) for stride in (32, 16, 8)]


@dataclass
class GtBox:
    """A ground-truth box: its number in the image, place in pixels, class and mixup weight."""

    number: int
    cx: float
    cy: float
    w: float
    h: float
    category: int
    weight: float


@dataclass
class Targets:
    """Targets of one image, by index of the anchor."""

    positives: dict[int, GtBox] = field(default_factory=dict)
    classes: dict[int, set[int]] = field(default_factory=dict)  # that unite
    shapes: dict[int, GtBox] = field(default_factory=dict)
    ignored: set[int] = field(default_factory=set)
    # So that a test can see that its example holds the case.
    num_anchor_free: int = 0
    num_collisions: int = 0

    def objectness(self, num_anchors: int) -> tuple[Tensor, Tensor]:
        """Return targets and weights of the objectness loss, (R,) each."""
        targets, weights = torch.zeros(num_anchors), torch.ones(num_anchors)
        weights[sorted(self.ignored)] = 0
        for anchor_idx, gt in self.positives.items():
            targets[anchor_idx], weights[anchor_idx] = 1, gt.weight
        return targets, weights


def list_gt(instances: Instances) -> list[GtBox]:
    """List the ground-truth boxes of an image but for degenerate ones, which count nowhere."""
    weights = [1.0] * len(instances)
    if instances.has("gt_weights"):
        weights = instances.gt_weights.tolist()
    boxes, classes = instances.gt_boxes.tensor.tolist(), instances.gt_classes.tolist()
    return [
        GtBox(number, (x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1, category, weight)
        for number, ((x1, y1, x2, y2), category, weight) in enumerate(zip(boxes, classes, weights))
        if x2 > x1 and y2 > y1
    ]


def iou_of_shapes(
    w: float | Tensor, h: float | Tensor, other_w: float, other_h: float
) -> float | Tensor:
    inter = min(w, other_w) * min(h, other_h)
    return inter / (w * h + other_w * other_h - inter)


def slow_targets(
    layout: Layout,
    box_logits: Tensor,
    shape_logits: Tensor | None,
    instances: Instances,
    ignore_thresh: float = 0.7,
) -> Targets:
    """Compute the targets of one image from its (R, 4) box logits and (R, 2) shape logits."""
    targets, boxes = Targets(), list_gt(instances)
    shapes = None if shape_logits is None else shape_logits.detach().double().numpy()
    for gt in boxes:
        best, stride, preset = -1.0, 0, 0
        for level_stride, sizes in zip((8, 16, 32), layout.presets):
            for a, size in enumerate(sizes):
                iou = iou_of_shapes(gt.w, gt.h, *size)
                if iou > best:
                    best, stride, preset = iou, level_stride, a
        # A centre on the right or lower border is in the last location.
        x = min(int(gt.cx // stride), layout.width // stride - 1)
        y = min(int(gt.cy // stride), layout.height // stride - 1)
        anchor_idx = layout.index[stride, preset, y, x]
        targets.shapes[anchor_idx] = gt
        if layout.anchor_free:
            free = layout.index[stride, len(layout.presets[(8, 16, 32).index(stride)]), y, x]
            targets.shapes[free] = gt
            free_width = free_height = 4.0 * stride
            if shapes is not None:
                free_width *= math.exp(shapes[free, 0])
                free_height *= math.exp(shapes[free, 1])
            if iou_of_shapes(gt.w, gt.h, free_width, free_height) > best:
                anchor_idx = free
                targets.num_anchor_free += 1
        targets.num_collisions += anchor_idx in targets.positives
        targets.positives[anchor_idx] = gt
        targets.classes.setdefault(anchor_idx, set()).add(gt.category)

    cx, cy, w, h = slow_decode(layout, box_logits, shapes)
    for gt in boxes:
        left = np.maximum(cx - w / 2, gt.cx - gt.w / 2)
        right = np.minimum(cx + w / 2, gt.cx + gt.w / 2)
        top = np.maximum(cy - h / 2, gt.cy - gt.h / 2)
        bottom = np.minimum(cy + h / 2, gt.cy + gt.h / 2)
        inter = np.maximum(right - left, 0) * np.maximum(bottom - top, 0)
        iou = inter / (w * h + gt.w * gt.h - inter)
        targets.ignored.update(np.flatnonzero(iou > ignore_thresh).tolist())
    targets.ignored -= set(targets.positives)
    return targets


def slow_decode(layout: Layout, box_logits: Tensor, shapes: np.ndarray | None) -> np.ndarray:
    """Decode all boxes: (4, R), cx, cy, w, h in pixels."""
    logits = box_logits.detach().double().numpy()
    strides = np.array([anchor.stride for anchor in layout.anchors])
    locations = np.array([(anchor.x, anchor.y) for anchor in layout.anchors])
    sizes = np.array([(anchor.width, anchor.height) for anchor in layout.anchors], np.float64)
    if shapes is not None:
        sizes = sizes * np.exp(shapes)
    centers = (1 / (1 + np.exp(-logits[:, :2])) + locations) * strides[:, None]
    return np.concatenate([centers, np.exp(logits[:, 2:]) * sizes], axis=1).T


def cross_entropy(logit: Tensor, target: float | Tensor) -> Tensor:
    """Compute -t log p - (1 - t) log (1 - p) with p = sigmoid(logit)."""
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
    """Compute all loss terms of N images, by the package's names.

    Args:
        box_logits, obj_logits, cls_logits, shape_logits: (N, R, 4), (N, R), (N, R, K), (N, R, 2).
        smoothing: e of the class targets 1 - e and e; None for 1 and 0 (not the same as e = 0:
            without smoothing the classes of boxes on one anchor unite).
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
        positive, weights = (x.double() for x in targets.objectness(len(layout.anchors)))
        loss = cross_entropy(obj_logits[image].double(), positive) * weights
        total["loss_obj"] = total["loss_obj"] + loss.sum()

        positives = list(targets.positives)
        # Indexed once: the gradient of each single index would be as large as the whole tensor.
        for anchor_idx, deltas, logits in zip(positives, boxes[positives], classes[positives]):
            gt = targets.positives[anchor_idx]
            weight = gt.weight if weight_all_losses else 1.0
            for category, logit in enumerate(logits):
                if smoothing is None:
                    wanted = float(category in targets.classes[anchor_idx])
                else:
                    wanted = 1 - smoothing if category == gt.category else smoothing
                total["loss_cls"] = total["loss_cls"] + weight * cross_entropy(logit, wanted)

            scale = weight * (2 - gt.w * gt.h / (layout.width * layout.height))
            anchor = layout.anchors[anchor_idx]
            size = predicted_size(anchor, None if shapes is None else shapes[anchor_idx])
            difference, iou = slow_box(anchor, gt, deltas, size)
            total["loss_box"] = total["loss_box"] + scale * difference
            if iou_loss:
                total["loss_iou"] = total["loss_iou"] + scale * (1 - iou**2)

        if shapes is not None:
            for anchor_idx, gt in targets.shapes.items():
                w, h = predicted_size(layout.anchors[anchor_idx], shapes[anchor_idx])
                loss = 1 - iou_of_shapes(w, h, gt.w, gt.h) ** 2
                weight = gt.weight if weight_all_losses else 1.0
                total["loss_shape"] = total["loss_shape"] + weight * loss
    return {name: loss / num_images for name, loss in total.items()}


def predicted_size(anchor: Anchor, shape_logits: Tensor | None) -> tuple[Tensor, Tensor]:
    """Compute width and height of a predicted anchor in pixels."""
    width, height = torch.tensor([anchor.width, anchor.height], dtype=torch.float64)
    if shape_logits is None:
        return width, height
    return width * shape_logits[0].exp(), height * shape_logits[1].exp()


def slow_box(
    anchor: Anchor, gt: GtBox, deltas: Tensor, size: tuple[Tensor, Tensor]
) -> tuple[Tensor, Tensor]:
    """Compute the loss of x, y, w, h of one box, and its IoU with the decoded box."""
    x, y, log_w, log_h = deltas.unbind()
    loss = cross_entropy(x, gt.cx / anchor.stride - anchor.x)
    loss = loss + cross_entropy(y, gt.cy / anchor.stride - anchor.y)
    loss = loss + (log_w - torch.log(gt.w / size[0])).abs()
    loss = loss + (log_h - torch.log(gt.h / size[1])).abs()

    cx, cy = (x.sigmoid() + anchor.x) * anchor.stride, (y.sigmoid() + anchor.y) * anchor.stride
    w, h = log_w.exp() * size[0], log_h.exp() * size[1]
    inter = overlap(cx, w, gt.cx, gt.w) * overlap(cy, h, gt.cy, gt.h)
    return loss, inter / (w * h + gt.w * gt.h - inter)


def overlap(center: Tensor, size: Tensor, other_center: float, other_size: float) -> Tensor:
    """Compute the length that two intervals share."""
    low = (center - size / 2).clamp(min=other_center - other_size / 2)
    high = (center + size / 2).clamp(max=other_center + other_size / 2)
    return (high - low).clamp(min=0)
