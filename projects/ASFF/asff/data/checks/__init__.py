"""Questions asked before anything is trained: of the config, of the datasets, of every image."""

from .contents import check_contents
from .datasets import (
    check_datasets,
    check_num_classes,
    check_same_classes,
    class_count,
    follow_classes,
)
from .inputs import check_input
from .summary import summarize

__all__ = [
    "check_contents",
    "check_datasets",
    "check_input",
    "check_num_classes",
    "check_same_classes",
    "class_count",
    "follow_classes",
    "summarize",
]
