"""Own data without Python: datasets in the formats of COCO, Pascal VOC and YOLO."""

from .content import Content, load_content
from .sources import register_sources, resolve_sources

__all__ = ["Content", "load_content", "register_sources", "resolve_sources"]
