"""The detector: bottom-ups, neck, fusion, head, matching, losses and the meta-architecture."""

from .backbone import DarkNet, MobileNetV2, TimmBackbone, YOLOv3Pyramid
from .fusion import ASFFFPN, FUSIONS, AdaptiveFusion, FusionOperation, PyramidFusion, SumFusion
from .layers import DropBlock, block_sizes
from .yolov3 import DensePredictions, GroundTruth, Matches, YOLOv3, YOLOv3Losses, shape_iou

__all__ = [
    "ASFFFPN",
    "FUSIONS",
    "AdaptiveFusion",
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
    "YOLOv3Pyramid",
    "block_sizes",
    "shape_iou",
]
