"""What a dataset is like, as tables with bars for a terminal.

Shape letter: M boxes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
from tabulate import tabulate

from ..data.datasets.content import Content
from ..data.datasets.inspection import Findings

BAR_WIDTH = 30


def findings_table(findings: Findings) -> str:
    """What was found, how often, and the first examples."""
    rows = []
    for kind, finding in findings.items():
        more = ["..."] if finding.count > len(finding.examples) else []
        examples = "\n".join([*finding.examples, *more])
        rows.append((kind.severity, kind.description, finding.count, examples))
    return tabulate(rows, ["", "found", "count", "examples"]) if rows else "Nothing is wrong."


def describe_sizes(sizes: Sequence[tuple[int, int]]) -> str:
    """Widths and heights of images, in a phrase."""
    (common, times), *others = Counter(sizes).most_common()
    if not others:
        return f"all {common[0]} x {common[1]} pixels"
    low, high = np.min(sizes, axis=0), np.max(sizes, axis=0)
    return (
        f"{low[0]} to {high[0]} pixels wide, {low[1]} to {high[1]} high; "
        f"{times / len(sizes):.0%} have {common[0]} x {common[1]}"
    )


def class_table(content: Content, annotations: Sequence[dict]) -> str:
    """How many of the annotations, and of the images with them, each class has."""
    boxes = Counter(annotation["category_id"] for annotation in annotations)
    pairs = {(annotation["category_id"], annotation["image_id"]) for annotation in annotations}
    images = Counter(category_id for category_id, _ in pairs)
    ids = [category["id"] for category in content["categories"]]
    names = [category["name"] for category in content["categories"]]
    columns = {"class": names, "images": [images[category_id] for category_id in ids]}
    return histogram(columns, [boxes[category_id] for category_id in ids])


def side_table(
    title: str, boxes: np.ndarray, limits: Sequence[int], names: Sequence[str] | None = None
) -> str:
    """How many boxes have a side, that of a square of their area, between each two limits.

    Args:
        title: of the column of sides.
        boxes: (M, 2), width and height in pixels.
        limits: in pixels, ascending.
        names: of the ranges, of which there is one more than of limits.
    """
    ranges = [f"{low} to {high}" for low, high in zip(limits, limits[1:])]
    columns = {title: [f"under {limits[0]}", *ranges, f"from {limits[-1]}"]}
    if names is not None:
        columns[""] = names
    places = np.digitize(np.sqrt(boxes.prod(axis=1)), limits)
    return histogram(columns, np.bincount(places, minlength=len(limits) + 1).tolist())


def histogram(columns: dict[str, Sequence], counts: Sequence[int]) -> str:
    """A table with a line for each count of boxes: what is counted, and the count as a bar.

    Args:
        columns: title and values of those that say what is counted.
        counts: not all 0.
    """
    rows = [
        (*labels, count, 100 * count / sum(counts), bar(count / max(counts)))
        for *labels, count in zip(*columns.values(), counts)
    ]
    headers = [*columns, "boxes", "%", ""]
    # Names of classes may look like numbers.
    return tabulate(rows, headers, floatfmt=".1f", disable_numparse=[0])


def bar(share: float) -> str:
    """A bar for a share of the longest one; what is there is seen."""
    return "█" * round(share * BAR_WIDTH) or ("▏" if share else "")
