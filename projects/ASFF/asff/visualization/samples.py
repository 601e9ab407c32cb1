"""Training samples as the network sees them, with boxes, classes and mixup weights."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from detectron2.data.detection_utils import convert_image_to_rgb
from PIL import Image

from .overlay import COLORS, Overlay

CELL = 480  # pixels that a sample should have at least, so that labels can be read
GAP = 8
BACKGROUND = (255, 255, 255)


def draw_samples(
    samples: Sequence[dict],
    class_names: Sequence[str],
    *,
    columns: int = 4,
    image_format: str = "RGB",
) -> np.ndarray:
    """Draw training samples side by side, in rows.

    Boxes have the colour of their class. Where two images are mixed, labels say the weight of a
    box, and the lower it is, the fainter the box.

    Args:
        samples: dicts with ``image`` (3, H, W), uint8, and, if there are any, ``instances`` with
            ``gt_boxes``, ``gt_classes`` and, if mixed, ``gt_weights``.
        class_names: of the dataset.
        columns: samples in a row.
        image_format: order of the channels: "RGB" or "BGR".

    Returns:
        (H, W, 3), RGB, uint8.

    Raises:
        ValueError: there are no samples.
    """
    if not samples:
        raise ValueError("There are no samples to draw.")
    cells = [draw_sample(sample, class_names, image_format) for sample in samples]
    columns = min(columns, len(cells))
    rows = math.ceil(len(cells) / columns)
    width, height = (max(sides) + GAP for sides in zip(*(cell.size for cell in cells)))
    picture = Image.new("RGB", (columns * width - GAP, rows * height - GAP), BACKGROUND)
    for index, cell in enumerate(cells):
        row, column = divmod(index, columns)
        picture.paste(cell, (column * width, row * height))
    return np.asarray(picture)


def draw_sample(sample: dict, class_names: Sequence[str], image_format: str) -> Image.Image:
    """Draw one sample, enlarged by a whole number where it is small."""
    pixels = convert_image_to_rgb(sample["image"].permute(1, 2, 0), image_format)
    image = Image.fromarray(pixels)
    scale = max(round(CELL / max(image.size)), 1)
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
    # From the faint to the strong, which stay on top.
    for weight, box, category in sorted(zip(weights, boxes, classes)):
        overlay.draw_box(box, COLORS[category % len(COLORS)], weight)
    # In the order of importance: the first ones find room.
    for weight, box, category in sorted(zip(weights, boxes, classes), reverse=True):
        text = class_names[category] + (f" {weight:.2f}" if weight < 1 else "")
        overlay.draw_label(text, box, COLORS[category % len(COLORS)], weight)
    return image
