"""Datasets, and the way of an image from its file to the model."""

from .boxes import clip_boxes, corner_boxes
from .build import (
    build_batch_plan,
    build_train_dataset,
    build_train_loader,
    build_train_mapper,
    load_training_dicts,
    resolve_seed,
)
from .datasets import (
    check_annotations,
    check_datasets,
    check_num_classes,
    check_same_classes,
    class_count,
    follow_classes,
    register_custom_datasets,
    resolve_custom_datasets,
)
from .image_io import UnreadableImage, check_size, read_image
from .inference import (
    build_pixel_mapper,
    build_reader,
    build_test_loader,
    build_test_mapper,
    read_ahead,
    resized_shape,
)
from .input_checks import check_input
from .loader import LoaderStats, TrainingLoader

__all__ = [
    "LoaderStats",
    "TrainingLoader",
    "UnreadableImage",
    "build_batch_plan",
    "build_pixel_mapper",
    "build_reader",
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
    "check_size",
    "class_count",
    "clip_boxes",
    "corner_boxes",
    "follow_classes",
    "load_training_dicts",
    "read_ahead",
    "read_image",
    "register_custom_datasets",
    "resized_shape",
    "resolve_custom_datasets",
    "resolve_seed",
]
