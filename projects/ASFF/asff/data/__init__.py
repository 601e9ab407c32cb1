"""Datasets and the way of an image from its file to the model."""

from .build import (
    build_batch_plan,
    build_test_loader,
    build_test_mapper,
    build_train_dataset,
    build_train_loader,
    build_train_mapper,
    load_training_dicts,
)
from .datasets import (
    check_annotations,
    check_datasets,
    check_num_classes,
    check_same_classes,
    follow_classes,
    register_custom_datasets,
    resolve_custom_datasets,
)
from .inference import build_pixel_mapper, build_reader
from .input_checks import check_input

__all__ = [
    "build_pixel_mapper",
    "build_reader",
    "build_batch_plan",
    "build_test_loader",
    "build_test_mapper",
    "build_train_dataset",
    "build_train_loader",
    "build_train_mapper",
    "check_annotations",
    "check_datasets",
    "check_input",
    "check_num_classes",
    "check_same_classes",
    "follow_classes",
    "load_training_dicts",
    "register_custom_datasets",
    "resolve_custom_datasets",
]
