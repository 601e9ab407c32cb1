"""The YOLOv3 detector with guided anchoring: head, matching, losses and meta-architecture."""

from .adjacent_ignore import AdjacentIgnore
from .anchor_generator import AnchorGrid, YOLOv3AnchorGenerator
from .box_regression import shape_iou, to_corners
from .detector import YOLOv3
from .ground_truth import GroundTruth
from .head import YOLOv3Head
from .losses import YOLOv3Losses
from .matcher import Matches, YOLOv3Matcher
from .predictions import DensePredictions

__all__ = [
    "AdjacentIgnore",
    "AnchorGrid",
    "DensePredictions",
    "GroundTruth",
    "Matches",
    "YOLOv3",
    "YOLOv3AnchorGenerator",
    "YOLOv3Head",
    "YOLOv3Losses",
    "YOLOv3Matcher",
    "shape_iou",
    "to_corners",
]
