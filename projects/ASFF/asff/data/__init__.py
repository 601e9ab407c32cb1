"""Datasets and the way of an image from its file to the model."""

from . import builtin  # noqa: F401 (registers)
from .build import (
    build_stream,
    build_test_loader,
    build_test_mapper,
    build_train_dataset,
    build_train_loader,
    build_train_mapper,
    load_training_dicts,
)
from .checks import (
    check_contents,
    check_datasets,
    check_input,
    check_num_classes,
    check_same_classes,
    follow_classes,
)
from .formats import register_sources, resolve_sources
from .inference import build_pixel_mapper, build_reader

__all__ = [
    "build_pixel_mapper",
    "build_reader",
    "build_stream",
    "build_test_loader",
    "build_test_mapper",
    "build_train_dataset",
    "build_train_loader",
    "build_train_mapper",
    "check_contents",
    "check_datasets",
    "check_input",
    "check_num_classes",
    "check_same_classes",
    "follow_classes",
    "load_training_dicts",
    "register_sources",
    "resolve_sources",
]
