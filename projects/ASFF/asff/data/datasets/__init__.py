"""Datasets on disk: their formats, what is wrong with them, and their registration."""

from . import builtin  # noqa: F401 (registers)
from .classes import (
    check_datasets,
    check_num_classes,
    check_same_classes,
    class_count,
    follow_classes,
)
from .content import Content, load_content
from .contents import check_annotations
from .sources import register_custom_datasets, resolve_custom_datasets
from .summary import summarize

__all__ = [
    "Content",
    "check_annotations",
    "check_datasets",
    "check_num_classes",
    "check_same_classes",
    "class_count",
    "follow_classes",
    "load_content",
    "register_custom_datasets",
    "resolve_custom_datasets",
    "summarize",
]
