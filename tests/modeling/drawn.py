"""Random truths and predictions, with collisions and with ignored and anchor-free rows."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from detectron2.structures import Instances

from asff.modeling.yolov3 import DensePredictions, YOLOv3AnchorGenerator
from tests.helpers import make_instances
from tests.modeling.oracle import Layout


def draw_truths(
    rng: np.random.Generator, count: int, *, layout: Layout, num_classes: int
) -> Instances:
    """Boxes of all sizes, some on nearly the same place, with weights."""
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
    """Random logits, where many rows near truths predict about these truths. They are leaf tensors
    that collect gradients."""
    num_images, num_rows = len(instances), len(layout.rows)
    box, obj, cls, shape = (
        rng.normal(0, 1, (num_images, num_rows, size)).astype(np.float32)
        for size in (4, 1, num_classes, 2)
    )
    shape *= guided_anchoring
    for image, truths in enumerate(instances):
        for x1, y1, x2, y2 in truths.gt_boxes.tensor.tolist():
            for stride in (8, 16, 32):
                # A slot of the truth's cell or of one beside it.
                cx, cy = (x1 + x2) / 2 / stride, (y1 + y2) / 2 / stride
                x = int(np.clip(cx + rng.uniform(-0.3, 0.3), 0, layout.width // stride - 1))
                y = int(np.clip(cy + rng.uniform(-0.3, 0.3), 0, layout.height // stride - 1))
                number = layout.number[stride, rng.integers(3 + layout.anchor_free), y, x]
                row = layout.rows[number]
                offset = np.clip([cx - x, cy - y], 0.02, 0.98)
                size = np.log([(x2 - x1) / row.width, (y2 - y1) / row.height])
                if guided_anchoring:
                    shape[image, number] = size + rng.normal(0, 0.2, 2)
                box[image, number, :2] = np.log(offset / (1 - offset))
                box[image, number, 2:] = size - shape[image, number] + rng.normal(0, 0.05, 2)
    box, obj, cls, shape = (torch.from_numpy(x).requires_grad_() for x in (box, obj, cls, shape))
    return DensePredictions(
        box_logits=box,
        obj_logits=obj.detach().squeeze(-1).requires_grad_(),
        cls_logits=cls,
        shape_logits=shape if guided_anchoring else None,
        grid=make_anchors(layout)(layout.sizes),
    )


def make_anchors(layout: Layout) -> YOLOv3AnchorGenerator:
    """The package's anchors for a layout; they come coarsest level first."""
    return YOLOv3AnchorGenerator(layout.anchors[::-1], (32, 16, 8), anchor_free=layout.anchor_free)
