"""The brief check of annotations: what loaders and the evaluation stumble over, or pass over."""

from __future__ import annotations

from collections.abc import Sequence

from detectron2.data import MetadataCatalog

from . import load_content
from .file_status import examine_files
from .inspection import Kind, inspect

# What Detectron2's loader ends at, or puts in the wrong place without a word.
FATAL = (
    *(Kind.IMAGE_ID, Kind.CATEGORY, Kind.UNKNOWN_CATEGORY, Kind.ANNOTATION_ID),
    *(Kind.NO_BOX, Kind.WRONG_SIZE),  # images are not opened here: one without a size
)
# What the evaluation ends at. In training another image takes the place of a missing one.
FATAL_IN_TESTS = (*FATAL, Kind.MISSING, Kind.INCOMPLETE)


def check_annotations(names: Sequence[str], key: str) -> None:
    """Read the annotations of datasets, without opening their images.

    Args:
        names: of registered datasets. Those that come from Python code are left out.
        key: of the config, DATASETS.TRAIN or DATASETS.TEST, that names them.

    Raises:
        ValueError: annotations cannot be read, or would end a training or its evaluation later.
    """
    for name in names:
        metadata = MetadataCatalog.get(name)
        if metadata.get("evaluator_type") != "coco" or "://" in metadata.get("json_file", ""):
            continue
        try:
            content, image_root = load_content(name)
        except ValueError as error:
            raise ValueError(f"{key} names the dataset '{name}': {error}") from error
        found = inspect(content, examine_files(content, image_root, opened=False))
        for kind in FATAL_IN_TESTS if key == "DATASETS.TEST" else FATAL:
            if kind in found:
                raise ValueError(
                    f"{key} names the dataset '{name}', which has {kind.description} "
                    f"({found[kind].count}), as {found[kind].examples[0]}. "
                    "tools/check_dataset.py lists what is wrong, and can write a cleaned copy."
                )
