"""Pictures: detections, training samples as the network sees them, and how levels are fused."""

from .detections import draw_boxes, draw_detections, draw_instances
from .fusion_figure import draw_fusion
from .fusion_maps import FusionRecorder, FusionView, view_fusion
from .samples import draw_samples

__all__ = [
    "FusionRecorder",
    "FusionView",
    "draw_boxes",
    "draw_detections",
    "draw_fusion",
    "draw_instances",
    "draw_samples",
    "view_fusion",
]
