"""The brief check of the training data that opens no image."""

from __future__ import annotations

import logging
import os

import numpy as np

from ..boxes import corner_boxes
from .file_status import missing_files

MAX_NAMES = 3


def summarize(records: list[dict]) -> list[tuple[int, str]]:
    """What there is to train on, and what of it will not be used.

    Args:
        records: dataset dicts.

    Returns:
        Lines for the log, each with its level.

    Raises:
        ValueError: not one of the image files exists.
    """
    counts = [len(record.get("annotations", ())) for record in records]
    annotations = [x for record in records for x in record.get("annotations", ())]
    # Where no size is stated, no box is outside.
    sizes = [(record.get("width", np.inf), record.get("height", np.inf)) for record in records]
    sizes = np.repeat(np.array(sizes, float).reshape(-1, 2), counts, axis=0)
    boxes = corner_boxes(annotations)
    crowd = np.array([bool(x.get("iscrowd", 0)) for x in annotations], bool)
    # Comparisons with nan are False: such boxes have no area either.
    flat = ~(boxes[:, 2:] > boxes[:, :2]).all(axis=1)
    outside = ~flat & ((boxes[:, 2:] <= 0) | (boxes[:, :2] >= sizes)).any(axis=1)

    lines = [
        (
            logging.INFO,
            f"Training data: {len(records)} images with {len(annotations)} objects; "
            f"{counts.count(0)} images without objects, {crowd.sum()} crowd boxes (not used).",
        )
    ]
    for lost, what in ((flat, "without area"), (outside, "outside their image")):
        if lost.any():
            lines.append((logging.WARNING, f"Not used: boxes {what} ({lost.sum()})."))
    return lines + report_missing([record["file_name"] for record in records])


def report_missing(paths: list[str]) -> list[tuple[int, str]]:
    """A line on image files that do not exist; a ValueError where there are no others."""
    absent = missing_files(paths)
    missing = [path for path in dict.fromkeys(paths) if path in absent]
    if not missing:
        return []
    names = ", ".join(missing[:MAX_NAMES]) + (", ..." if len(missing) > MAX_NAMES else "")
    if len(absent) == len(set(paths)):
        raise ValueError(
            f"None of the {len(missing)} image files exists, for example in "
            f"'{os.path.dirname(missing[0])}': {names}. Correct the image folder of the dataset, "
            "or set the environment variable DETECTRON2_DATASETS."
        )
    advice = "tools/check_dataset.py --fix writes annotations without them"
    return [(logging.WARNING, f"{len(missing)} image files do not exist ({advice}): {names}")]
