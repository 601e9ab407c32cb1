"""The detector: bottom-ups, neck, fusion, head, matching, losses and the meta-architecture."""

from .backbone.darknet import DarkNet
from .backbone.mobilenet import MobileNetV2
from .backbone.pyramid import YOLOv3Pyramid
from .backbone.timm_backbone import TimmBackbone
from .fusion.asff_fpn import ASFFFPN
from .fusion.operations import AdaptiveFusion, FusionOperation, SumFusion
from .fusion.pyramid_fusion import FUSIONS, PyramidFusion
from .layers import DropBlock, block_sizes, fuse_norms, pack_convolutions, synchronize_norms
from .yolov3.anchor_generator import YOLOv3AnchorGenerator
from .yolov3.box_regression import shape_iou
from .yolov3.detector import YOLOv3
from .yolov3.ground_truth import GroundTruth
from .yolov3.losses import YOLOv3Losses
from .yolov3.matcher import Matches, YOLOv3Matcher
from .yolov3.predictions import DensePredictions

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
    "YOLOv3AnchorGenerator",
    "YOLOv3Losses",
    "YOLOv3Matcher",
    "YOLOv3Pyramid",
    "block_sizes",
    "fuse_norms",
    "pack_convolutions",
    "shape_iou",
    "synchronize_norms",
]
