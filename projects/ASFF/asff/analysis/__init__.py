"""Measurements of a trained detector: fusion weights, gradients, anchors and mistakes."""

from .detection_metrics import Evaluation, evaluate
from .fusion_maps import FusionRecorder, FusionView, check_fusion_maps, view_fusion
from .fusion_statistics import FusionStatistics
from .gradients import LevelGradients, Measurement, measure_gradients

__all__ = [
    "Evaluation",
    "FusionRecorder",
    "FusionStatistics",
    "FusionView",
    "LevelGradients",
    "Measurement",
    "check_fusion_maps",
    "evaluate",
    "measure_gradients",
    "view_fusion",
]
