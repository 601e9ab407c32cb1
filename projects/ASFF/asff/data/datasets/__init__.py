"""Datasets on disk: their formats, what is wrong with them, and their registration."""

from . import builtin  # noqa: F401 (registers)
from .catalog import register_custom_datasets, resolve_custom_datasets
from .classes import (
    check_datasets,
    check_num_classes,
    check_same_classes,
    class_count,
    follow_classes,
    known_classes,
    set_num_classes,
    shorten,
)
from .coco_dataset import CocoDataset, load_dataset
from .image_files import shared_files
from .inspection import (
    Inspection,
    check_annotations,
    inspect_dataset,
    repair,
    summarize,
    usable_annotations,
)
from .source import IMAGE_SUFFIXES

__all__ = [
    "IMAGE_SUFFIXES",
    "CocoDataset",
    "Inspection",
    "check_annotations",
    "check_datasets",
    "check_num_classes",
    "check_same_classes",
    "class_count",
    "follow_classes",
    "inspect_dataset",
    "known_classes",
    "load_dataset",
    "register_custom_datasets",
    "repair",
    "resolve_custom_datasets",
    "set_num_classes",
    "shared_files",
    "shorten",
    "summarize",
    "usable_annotations",
]
