"""Draw training samples as the network gets them, with boxes, classes and mixup weights."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from detectron2.data.detection_utils import convert_image_to_rgb

from .detections import draw_boxes

GAP = 8  # pixels between samples


def draw_samples(
    samples: Sequence[dict],
    class_names: Sequence[str],
    *,
    columns: int = 4,
    image_format: str = "RGB",
) -> np.ndarray:
    """Draw training samples on a white grid.

    Boxes have the colour of their class. Small samples are enlarged for legible labels. Boxes of
    mixed images have their weight in the label, and are the more transparent the lower it is.

    Args:
        samples: dicts with ``image`` (3, H, W), uint8, and optional ``instances`` with
            ``gt_boxes``, ``gt_classes`` and, if mixed, ``gt_weights``.
        class_names: of the dataset.
        columns: samples per row.
        image_format: order of the channels: "RGB" or "BGR".

    Returns:
        (H, W, 3), RGB, uint8.

    Raises:
        ValueError: there are no samples.
    """
    if not samples:
        raise ValueError("There are no samples to draw.")
    cells = [_draw_sample(sample, class_names, image_format) for sample in samples]
    columns = min(columns, len(cells))
    rows = math.ceil(len(cells) / columns)
    height, width = (max(sides) + GAP for sides in zip(*(cell.shape[:2] for cell in cells)))
    grid = np.full((rows * height - GAP, columns * width - GAP, 3), 255, np.uint8)
    for index, cell in enumerate(cells):
        y, x = index // columns * height, index % columns * width
        grid[y : y + cell.shape[0], x : x + cell.shape[1]] = cell
    return grid


def _draw_sample(sample: dict, class_names: Sequence[str], image_format: str) -> np.ndarray:
    """Draw one sample, with its boxes in descending order of weight."""
    image = convert_image_to_rgb(sample["image"].permute(1, 2, 0), image_format)
    instances = sample.get("instances", ())
    if not len(instances):
        return draw_boxes(image, (), (), ())
    boxes, classes = instances.gt_boxes.tensor.tolist(), instances.gt_classes.tolist()
    weights = [1.0] * len(boxes)
    if instances.has("gt_weights"):
        weights = instances.gt_weights.tolist()
    weights, boxes, classes = zip(*sorted(zip(weights, boxes, classes), reverse=True))
    labels = [
        class_names[category] + (f" {weight:.2f}" if weight < 1 else "")
        for weight, category in zip(weights, classes)
    ]
    return draw_boxes(image, boxes, classes, labels, weights=weights)
