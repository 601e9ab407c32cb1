"""Necks: from bottom-up features to the levels of a pyramid."""

from .yolov3_neck import YOLOv3Neck

__all__ = ["YOLOv3Neck"]
