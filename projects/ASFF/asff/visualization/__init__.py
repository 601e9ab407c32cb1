"""Drawings: detections, training samples, fusion maps and gradients."""

from .detections import draw_boxes, draw_detections, draw_instances
from .fusion_figure import draw_fusion
from .fusion_table import fusion_tables
from .gradient_figure import draw_gradients, gradient_table
from .samples import draw_samples

__all__ = [
    "draw_boxes",
    "draw_detections",
    "draw_fusion",
    "draw_gradients",
    "draw_instances",
    "draw_samples",
    "fusion_tables",
    "gradient_table",
]
