"""The detector: bottom-ups, neck, fusion, head, matching, losses and the meta-architecture."""

from .backbone import (
    DarkNet,
    MobileNetV2,
    TimmBackbone,
    YOLOv3Pyramid,
    build_darknet_backbone,
    build_mobilenetv2_backbone,
    build_timm_backbone,
)
from .fusion import (
    ASFFFPN,
    FUSIONS,
    AdaptiveFusion,
    ConcatFusion,
    FusionOperation,
    PyramidFusion,
    SumFusion,
)
from .layers import DropBlock, block_sizes
from .yolov3 import (
    DensePredictions,
    GroundTruth,
    Matches,
    YOLOv3,
    YOLOv3Losses,
    YOLOv3Matcher,
    shape_iou,
)

__all__ = [
    "ASFFFPN",
    "FUSIONS",
    "AdaptiveFusion",
    "ConcatFusion",
    "DarkNet",
    "DensePredictions",
    "DropBlock",
    "FusionOperation",
    "GroundTruth",
    "Matches",
    "MobileNetV2",
    "PyramidFusion",
    "SumFusion",
    "TimmBackbone",
    "YOLOv3",
    "YOLOv3Losses",
    "YOLOv3Matcher",
    "YOLOv3Pyramid",
    "block_sizes",
    "build_darknet_backbone",
    "build_mobilenetv2_backbone",
    "build_timm_backbone",
    "shape_iou",
]
