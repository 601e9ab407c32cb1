"""Configs of small detectors, and ground truth for them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from detectron2.config import CfgNode, get_cfg
from detectron2.structures import Boxes, Instances

from asff import add_asff_config

# Everything of the paper's DarkNet-53 detector, at a size that builds and trains within a second.
TINY_DARKNET = (
    *("MODEL.BACKBONE.NAME", "build_darknet_backbone"),
    *("MODEL.DARKNET.DEPTHS", [1, 1, 1, 1, 1]),
    *("MODEL.DARKNET.WIDTH", 0.25),
    *("MODEL.YOLOV3.NECK.WIDTH", 0.125),
    *("MODEL.YOLOV3.NECK.WIDEN_FINEST", True),
    *("MODEL.YOLOV3.NUM_CLASSES", 5),
)
MOBILENET = (
    *("MODEL.BACKBONE.NAME", "build_mobilenetv2_backbone"),
    *("MODEL.YOLOV3.ACTIVATION", "relu6"),
    *("MODEL.YOLOV3.FEATURE_ADAPTION", False),
)


def detector_cfg(*options: object) -> CfgNode:
    """Return the default config of YOLOv3 on the CPU with ``options``: key, value, key, value."""
    cfg = get_cfg()
    add_asff_config(cfg)
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.META_ARCHITECTURE = "YOLOv3"
    cfg.merge_from_list(list(options))
    return cfg


def make_instances(
    boxes: Sequence[Sequence[float]],
    classes: Sequence[int],
    weights: Sequence[float] | None = None,
    *,
    image_size: tuple[int, int] = (416, 416),
) -> Instances:
    """Make the ground truth of one image.

    Args:
        boxes: x1, y1, x2, y2 in pixels.
        weights: mixup weights; without them there is no field ``gt_weights``.
        image_size: height and width in pixels.
    """
    instances = Instances(image_size)
    instances.gt_boxes = Boxes(torch.tensor(boxes, dtype=torch.float32).view(-1, 4))
    instances.gt_classes = torch.tensor(classes, dtype=torch.int64)
    if weights is not None:
        instances.gt_weights = torch.tensor(weights, dtype=torch.float32)
    return instances
