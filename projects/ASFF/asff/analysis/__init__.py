"""Measurements of a trained detector: fusion weights, gradients, anchors and mistakes."""

from .fusion_maps import FusionRecorder, FusionView, view_fusion

__all__ = ["FusionRecorder", "FusionView", "view_fusion"]
