"""Pictures: detections beside the truth, and training samples as the network sees them."""

from .detections import draw_detections
from .samples import draw_samples

__all__ = ["draw_detections", "draw_samples"]
