"""Draw training samples as the network gets them, with boxes, classes and mixup weights."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from detectron2.data.detection_utils import convert_image_to_rgb
from PIL import Image

from .overlay import COLORS, Overlay

MIN_SIDE = 480  # pixels; smaller samples are enlarged, for legible labels
GAP = 8
BACKGROUND = (255, 255, 255)


def draw_samples(
    samples: Sequence[dict],
    class_names: Sequence[str],
    *,
    columns: int = 4,
    image_format: str = "RGB",
) -> np.ndarray:
    """Draw training samples on a grid.

    Boxes have the colour of their class. Boxes of mixed images have their weight in the label, and
    are the more transparent the lower it is.

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
    width, height = (max(sides) + GAP for sides in zip(*(cell.size for cell in cells)))
    grid = Image.new("RGB", (columns * width - GAP, rows * height - GAP), BACKGROUND)
    for index, cell in enumerate(cells):
        row, column = divmod(index, columns)
        grid.paste(cell, (column * width, row * height))
    return np.asarray(grid)


def _draw_sample(sample: dict, class_names: Sequence[str], image_format: str) -> Image.Image:
    """Draw one sample, enlarged by a whole number if it is small."""
    pixels = convert_image_to_rgb(sample["image"].permute(1, 2, 0), image_format)
    image = Image.fromarray(pixels)
    scale = max(round(MIN_SIDE / max(image.size)), 1)
    image = image.resize([scale * side for side in image.size], Image.Resampling.BICUBIC)
    instances = sample.get("instances", ())
    if not len(instances):
        return image
    boxes = (instances.gt_boxes.tensor * scale).tolist()
    classes = instances.gt_classes.tolist()
    weights = [1.0] * len(boxes)
    if instances.has("gt_weights"):
        weights = instances.gt_weights.tolist()
    overlay = Overlay(image)
    # In ascending order of weight: the highest on top.
    for weight, box, category in sorted(zip(weights, boxes, classes)):
        overlay.draw_box(box, COLORS[category % len(COLORS)], weight)
    # In descending order: the first labels find room.
    for weight, box, category in sorted(zip(weights, boxes, classes), reverse=True):
        text = class_names[category] + (f" {weight:.2f}" if weight < 1 else "")
        overlay.draw_label(text, box, COLORS[category % len(COLORS)], weight)
    return image
