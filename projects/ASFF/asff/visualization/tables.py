"""Tables about a dataset for a terminal: what is wrong with it, and bars for what it contains.

Shape letter: M boxes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
from tabulate import tabulate

from ..analysis.anchor_fit import POOR_IOU, Fit
from ..analysis.dataset_statistics import DatasetStatistics
from ..data.boxes import COCO_AREA_LIMITS, COCO_SIZES
from ..data.datasets import Inspection

BAR_WIDTH = 30
INPUT_SIDES = (8, 16, 32, 64, 128, 256)  # limits between sides at the input, in pixels


def inspection_table(inspection: Inspection) -> str:
    """Format how large a dataset is, and what is wrong with it."""
    rows = []
    for finding in inspection.findings.values():
        more = ["..."] if finding.count > len(finding.examples) else []
        examples = "\n".join([*finding.examples, *more])
        rows.append((finding.rule.severity, finding.rule.description, finding.count, examples))
    table = tabulate(rows, ["", "found", "count", "examples"]) if rows else "Nothing is wrong."
    dataset = inspection.dataset
    title = (
        f"{inspection.name}: {len(dataset.images)} images, {len(dataset.annotations)} annotations, "
        f"{len(dataset.categories)} classes"
    )
    return f"{title}\n{'=' * len(title)}\n{table}"


def statistics_tables(statistics: DatasetStatistics) -> str:
    """Format the sizes of images and boxes, and the classes, of a dataset with boxes."""
    counts, sides = statistics.boxes_per_image, np.sqrt(COCO_AREA_LIMITS).astype(int).tolist()
    names, images, boxes = zip(*statistics.classes)
    lines = (
        f"Image sizes: {_describe_sizes(statistics.image_sizes)}.\n"
        f"Boxes per image: {min(counts)} to {max(counts)}, median {np.median(counts):g}, "
        f"mean {np.mean(counts):.1f}."
    )
    tables = (
        _histogram({"class": names, "images": images}, boxes),
        _side_table("side in the image", statistics.boxes, sides, COCO_SIZES),
        _side_table("side at the input", statistics.input_boxes, INPUT_SIDES),
    )
    return "\n\n".join([lines, *tables])


def anchor_table(fit: Fit, features: Sequence[str], anchors: Sequence, num_boxes: int) -> str:
    """Format how well the anchors of each feature fit boxes at the network's input."""
    sizes = [", ".join(f"{w}x{h}" for w, h in level) for level in anchors]
    table = _histogram(
        {"level": features, "anchors": sizes}, [round(share * num_boxes) for share in fit.levels]
    )
    return (
        f"{table}\n\nFit of the anchors: mean best IoU {fit.mean_iou:.3f}; {fit.poor:.1%} of the "
        f"boxes under {POOR_IOU}. (asff fit-anchors fits them to the boxes.)"
    )


def _describe_sizes(sizes: np.ndarray) -> str:
    (common, times), *others = Counter(map(tuple, sizes.tolist())).most_common()
    if not others:
        return f"all {common[0]} x {common[1]} pixels"
    low, high = np.min(sizes, axis=0), np.max(sizes, axis=0)
    return (
        f"{low[0]} to {high[0]} pixels wide, {low[1]} to {high[1]} high; "
        f"{times / len(sizes):.0%} have {common[0]} x {common[1]}"
    )


def _side_table(
    title: str, boxes: np.ndarray, limits: Sequence[int], names: Sequence[str] | None = None
) -> str:
    """Count the boxes (M, 2) by their side, that of a square of their area.

    Args:
        title: of the column of sides.
        limits: between the ranges of sides, in pixels, ascending.
        names: of the ranges, of which there is one more than of limits.
    """
    ranges = [f"{low} to {high}" for low, high in zip(limits, limits[1:])]
    columns = {title: [f"under {limits[0]}", *ranges, f"from {limits[-1]}"]}
    if names is not None:
        columns[""] = names
    indices = np.digitize(np.sqrt(boxes.prod(axis=1)), limits)
    return _histogram(columns, np.bincount(indices, minlength=len(limits) + 1).tolist())


def _histogram(columns: dict[str, Sequence], counts: Sequence[int]) -> str:
    """Format counts of boxes, not all 0, as numbers and bars.

    Args:
        columns: title and values of the columns that name what is counted.
    """
    rows = [
        (*labels, count, 100 * count / sum(counts), _bar(count / max(counts)))
        for *labels, count in zip(*columns.values(), counts)
    ]
    # Names of classes may look like numbers.
    return tabulate(rows, [*columns, "boxes", "%", ""], floatfmt=".1f", disable_numparse=[0])


def _bar(share: float) -> str:
    """Draw a bar for a share of the longest one; the least one that is not 0 is visible."""
    return "█" * round(share * BAR_WIDTH) or ("▏" if share else "")
