"""Bottom-ups, and the pyramid of bottom-up, neck and fusion as one backbone."""

from .darknet import DarkNet, build_darknet_backbone
from .mobilenet import MobileNetV2, build_mobilenetv2_backbone
from .pyramid import YOLOv3Pyramid
from .timm_backbone import TimmBackbone, build_timm_backbone

__all__ = [
    "DarkNet",
    "MobileNetV2",
    "TimmBackbone",
    "YOLOv3Pyramid",
    "build_darknet_backbone",
    "build_mobilenetv2_backbone",
    "build_timm_backbone",
]
