"""Datasets and the way of an image from its file to the model."""

from . import builtin  # noqa: F401 (registers)
from .build import build_mapper, build_test_loader, build_train_loader, load_training_dicts
from .checks import check_datasets, check_num_classes

__all__ = [
    "build_mapper",
    "build_test_loader",
    "build_train_loader",
    "check_datasets",
    "check_num_classes",
    "load_training_dicts",
]
