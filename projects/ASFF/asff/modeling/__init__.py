"""The detector: bottom-ups, neck, fusion, head, matching, losses and the meta-architecture."""

from .asff_fpn import ASFFFPN
from .darknet import DarkNet, build_darknet_backbone
from .fusion import FUSIONS, AdaptiveFusion, PyramidFusion, Resize
from .mobilenet import MobileNetV2, build_mobilenetv2_backbone
from .pyramid import YOLOv3Pyramid
from .timm_backbone import TimmBackbone, build_timm_backbone
from .yolov3 import YOLOv3

__all__ = [
    "ASFFFPN",
    "FUSIONS",
    "AdaptiveFusion",
    "DarkNet",
    "MobileNetV2",
    "PyramidFusion",
    "Resize",
    "TimmBackbone",
    "YOLOv3",
    "YOLOv3Pyramid",
    "build_darknet_backbone",
    "build_mobilenetv2_backbone",
    "build_timm_backbone",
]
