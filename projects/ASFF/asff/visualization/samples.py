"""Training samples as the network sees them, with boxes, classes and mixup weights."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from detectron2.data.detection_utils import convert_image_to_rgb
from PIL import Image, ImageDraw, ImageFont

# Colours that people with any colour vision tell apart (Okabe and Ito).
COLORS = (
    (230, 159, 0),
    (86, 180, 233),
    (0, 158, 115),
    (240, 228, 66),
    (0, 114, 178),
    (213, 94, 0),
    (204, 121, 167),
)
CELL = 480  # pixels that a sample should have at least, so that labels can be read
GAP = 8
FONT_SIZE = 14
LINE = 3
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
    overlay = Overlay(image.size)
    # From the faint to the strong, which stay on top.
    for weight, box, category in sorted(zip(weights, boxes, classes)):
        overlay.draw_box(box, COLORS[category % len(COLORS)], weight)
    # In the order of importance: the first ones find room.
    for weight, box, category in sorted(zip(weights, boxes, classes), reverse=True):
        text = class_names[category] + (f" {weight:.2f}" if weight < 1 else "")
        overlay.draw_label(text, box, COLORS[category % len(COLORS)], weight)
    return Image.alpha_composite(image.convert("RGBA"), overlay.image).convert("RGB")


class Overlay:
    """Boxes and labels on a transparent layer; labels keep clear of each other where they can.

    Args:
        size: width and height in pixels.
    """

    def __init__(self, size: tuple[int, int]):
        self.image = Image.new("RGBA", size)
        self.canvas = ImageDraw.Draw(self.image)
        self.font = ImageFont.load_default(FONT_SIZE)
        self.labels: list[tuple[float, float, float, float]] = []

    def draw_box(self, box: Sequence[float], color: tuple[int, int, int], weight: float) -> None:
        """Outline a box (x1, y1, x2, y2), between dark lines that part it from any ground."""
        x1, y1, x2, y2 = box
        alpha = opacity(weight)
        dark = (x1 - 1, y1 - 1, x2 + 1, y2 + 1)
        self.canvas.rectangle(dark, outline=(0, 0, 0, alpha // 2), width=LINE + 2)
        self.canvas.rectangle((x1, y1, x2, y2), outline=(*color, alpha), width=LINE)

    def draw_label(
        self, text: str, box: Sequence[float], color: tuple[int, int, int], weight: float
    ) -> None:
        """Write beside or into a box."""
        width, height = self.font.getlength(text) + 6, FONT_SIZE + 4
        x, y = self.find_room(box, width, height)
        self.labels.append((x, y, x + width, y + height))
        self.canvas.rectangle(self.labels[-1], fill=(*color, opacity(weight)))
        ink = (0, 0, 0, 255) if brightness(color) > 110 else (255, 255, 255, 255)
        self.canvas.text((x + 3, y + height / 2), text, fill=ink, font=self.font, anchor="lm")

    def find_room(self, box: Sequence[float], width: float, height: float) -> tuple[float, float]:
        """Upper left corner of a label: the first place without another label."""
        x1, y1, x2, y2 = box
        lefts, tops = (x1, (x1 + x2 - width) / 2, x2 - width), (y1 - height, y2, y1, y2 - height)
        places = [(left, top) for top in tops for left in lefts]
        limits = self.image.width - width - 1, self.image.height - height - 1
        places = [(min(max(x, 0), limits[0]), min(max(y, 0), limits[1])) for x, y in places]
        free = (place for place in places if not self.is_taken(*place, width, height))
        return next(free, places[0])

    def is_taken(self, x: float, y: float, width: float, height: float) -> bool:
        return any(
            x < x2 and x1 < x + width and y < y2 and y1 < y + height
            for x1, y1, x2, y2 in self.labels
        )


def opacity(weight: float) -> int:
    """0 to 255: even a box of little weight can be seen."""
    return round(80 + 175 * weight)


def brightness(color: tuple[int, int, int]) -> float:
    """As the eye sees it (BT.601), 0 to 255."""
    return 0.299 * color[0] + 0.587 * color[1] + 0.114 * color[2]
