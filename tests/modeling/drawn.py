"""Ground truth and predictions for tests: random ones, with collisions, and constant ones."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from detectron2.structures import Instances

from asff.modeling import DensePredictions, YOLOv3AnchorGenerator
from tests.helpers import make_instances
from tests.modeling.oracle import Layout


def draw_gt(rng: np.random.Generator, count: int, *, layout: Layout, num_classes: int) -> Instances:
    """Draw boxes of all sizes, some of nearly the same place, with weights."""
    boxes = []
    for _ in range(count):
        width, height = np.exp(rng.uniform(np.log(5), np.log((layout.width, layout.height))))
        cx, cy = rng.uniform(0, layout.width), rng.uniform(0, layout.height)
        if boxes and rng.random() < 0.4:
            x1, y1, x2, y2 = boxes[rng.integers(len(boxes))]
            width, height = np.array([x2 - x1, y2 - y1]) * rng.uniform(0.7, 1.4, 2)
            cx, cy = np.array([x1 + x2, y1 + y2]) / 2 + rng.uniform(-1, 1, 2)
        half = np.array([width, height]) / 2
        low = np.clip([cx, cy] - half, 0, (layout.width - 2, layout.height - 2))
        high = np.clip([cx, cy] + half, low + 2, (layout.width, layout.height))
        boxes.append([*low, *high])
    return make_instances(
        boxes,
        rng.integers(0, num_classes, count),
        rng.uniform(0.1, 1, count),
        image_size=(layout.height, layout.width),
    )


def draw_predictions(
    rng: np.random.Generator,
    instances: Sequence[Instances],
    *,
    layout: Layout,
    num_classes: int,
    guided_anchoring: bool = True,
) -> DensePredictions:
    """Draw logits, many of which predict ground-truth boxes; they are leaf tensors."""
    num_images, num_anchors = len(instances), len(layout.anchors)
    box, obj, cls, shape = (
        rng.normal(0, 1, (num_images, num_anchors, size)).astype(np.float32)
        for size in (4, 1, num_classes, 2)
    )
    shape *= guided_anchoring
    for image, gt in enumerate(instances):
        for x1, y1, x2, y2 in gt.gt_boxes.tensor.tolist():
            for stride in (8, 16, 32):
                # An anchor of the box's location or of one beside it.
                cx, cy = (x1 + x2) / 2 / stride, (y1 + y2) / 2 / stride
                x = int(np.clip(cx + rng.uniform(-0.3, 0.3), 0, layout.width // stride - 1))
                y = int(np.clip(cy + rng.uniform(-0.3, 0.3), 0, layout.height // stride - 1))
                index = layout.index[stride, rng.integers(3 + layout.anchor_free), y, x]
                anchor = layout.anchors[index]
                offset = np.clip([cx - x, cy - y], 0.02, 0.98)
                size = np.log([(x2 - x1) / anchor.width, (y2 - y1) / anchor.height])
                if guided_anchoring:
                    shape[image, index] = size + rng.normal(0, 0.2, 2)
                box[image, index, :2] = np.log(offset / (1 - offset))
                box[image, index, 2:] = size - shape[image, index] + rng.normal(0, 0.05, 2)
    box, obj, cls, shape = map(torch.from_numpy, (box, obj[..., 0], cls, shape))
    return DensePredictions(
        box_logits=box.requires_grad_(),
        obj_logits=obj.requires_grad_(),
        cls_logits=cls.requires_grad_(),
        shape_logits=shape.requires_grad_() if guided_anchoring else None,
        grid=make_generator(layout)(layout.level_shapes),
    )


def constant_predictions(layout: Layout, *, num_images: int = 1) -> DensePredictions:
    """Predict the base anchors in the middle of their locations, of two classes: all logits 0."""
    shape = (num_images, len(layout.anchors))
    return DensePredictions(
        box_logits=torch.zeros(*shape, 4),
        obj_logits=torch.zeros(shape),
        cls_logits=torch.zeros(*shape, 2),
        shape_logits=torch.zeros(*shape, 2),
        grid=make_generator(layout)(layout.level_shapes),
    )


def make_generator(layout: Layout) -> YOLOv3AnchorGenerator:
    """Build the package's anchor generator for a layout; its levels come coarsest first."""
    presets = layout.presets[::-1]
    return YOLOv3AnchorGenerator(presets, (32, 16, 8), anchor_free=layout.anchor_free)
