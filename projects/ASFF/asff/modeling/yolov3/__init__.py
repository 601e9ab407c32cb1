"""The YOLOv3 detector with guided anchoring: head, matching, losses and meta-architecture."""

from .detector import YOLOv3

__all__ = ["YOLOv3"]
