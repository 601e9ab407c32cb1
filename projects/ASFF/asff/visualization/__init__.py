"""Pictures: detections, training samples as the network sees them, and how levels are fused."""

from .detections import draw_boxes, draw_detections, draw_instances
from .fusion_figure import draw_fusion
from .gradient_figure import draw_gradients
from .samples import draw_samples

__all__ = [
    "draw_boxes",
    "draw_detections",
    "draw_fusion",
    "draw_gradients",
    "draw_instances",
    "draw_samples",
]
