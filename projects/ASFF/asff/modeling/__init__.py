"""The detector: bottom-ups, neck, fusion, head, matching, losses and the meta-architecture."""

from .backbone.darknet import DarkNet, build_darknet_backbone
from .backbone.mobilenet import MobileNetV2, build_mobilenetv2_backbone
from .backbone.pyramid import YOLOv3Pyramid
from .backbone.timm_backbone import TimmBackbone, build_timm_backbone
from .fusion.asff_fpn import ASFFFPN
from .fusion.pyramid_fusion import FUSIONS, AdaptiveFusion, PyramidFusion, Resize
from .yolov3.detector import YOLOv3

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
