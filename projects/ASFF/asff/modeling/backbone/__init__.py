"""Bottom-ups, and the pyramid of bottom-up, neck and fusion as one backbone."""

from .darknet import DarkNet
from .mobilenet import MobileNetV2
from .pyramid import YOLOv3Pyramid, build_pyramid
from .timm_backbone import TimmBackbone

__all__ = ["DarkNet", "MobileNetV2", "TimmBackbone", "YOLOv3Pyramid", "build_pyramid"]
