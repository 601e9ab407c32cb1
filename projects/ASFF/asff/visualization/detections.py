"""Draw detections, alone or beside the ground truth."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from detectron2.data import Metadata
from detectron2.data.detection_utils import read_image
from detectron2.structures import BoxMode, Instances
from PIL import Image

from .overlay import COLORS, Overlay

MIN_SIDE, MAX_SIDE = 480, 4096  # pixels: labels are legible, and viewers open the image


def draw_instances(
    image: np.ndarray,
    instances: Instances,
    class_names: Sequence[str],
    *,
    min_score: float = 0.3,
    scale: float | None = None,
) -> np.ndarray:
    """Draw detections with class and score on an image, in the colour of their class.

    Args:
        image: (H, W, 3), RGB, uint8.
        instances: detections on the image, on the CPU, in its pixels.
        class_names: names of ``pred_classes``.
        min_score: detections with a lower score are not drawn.
        scale: factor of the size; by default small images are enlarged by a whole number, and huge
            ones are reduced.

    Returns:
        (scale H, scale W, 3), RGB, uint8.
    """
    kept = instances[instances.scores >= min_score]
    order = kept.scores.argsort(descending=True).tolist()
    boxes, scores = kept.pred_boxes.tensor.tolist(), kept.scores.tolist()
    classes = kept.pred_classes.tolist()
    labels = [f"{class_names[classes[i]]} {scores[i]:.2f}" for i in order]
    return draw_boxes(image, [boxes[i] for i in order], [classes[i] for i in order], labels, scale)


def draw_detections(
    dataset_dict: dict,
    instances: Instances,
    metadata: Metadata,
    *,
    min_score: float = 0.3,
    scale: float | None = None,
) -> np.ndarray:
    """Draw an image twice, side by side: with its ground truth and with its detections.

    Args:
        dataset_dict: with ``file_name`` and, if there is ground truth, ``annotations``.
        instances: detections on the image, on the CPU, in its pixels.
        metadata: of the dataset, for class names.
        min_score, scale: as of :func:`draw_instances`.

    Returns:
        (scale H, 2 scale W, 3), RGB, uint8.
    """
    image, names = read_image(dataset_dict["file_name"], format="RGB"), metadata.thing_classes
    annotations = dataset_dict.get("annotations", ())
    boxes = [BoxMode.convert(x["bbox"], x["bbox_mode"], BoxMode.XYXY_ABS) for x in annotations]
    classes = [x["category_id"] for x in annotations]
    ground_truth = draw_boxes(image, boxes, classes, [names[i] for i in classes], scale)
    detected = draw_instances(image, instances, names, min_score=min_score, scale=scale)
    return np.concatenate([ground_truth, detected], axis=1)


def draw_boxes(
    image: np.ndarray,
    boxes: Sequence[Sequence[float]],
    classes: Sequence[int],
    labels: Iterable[str],
    scale: float | None = None,
    weights: Sequence[float] | None = None,
) -> np.ndarray:
    """Draw boxes (x1, y1, x2, y2), the first on top, on an image (H, W, 3), RGB, uint8.

    Args:
        classes: of the boxes; they determine the colours.
        scale: as of :func:`draw_instances`.
        weights: of the boxes, 0 to 1; the lower, the more transparent. Default: 1.
    """
    canvas = resize(Image.fromarray(image), scale)
    factor = canvas.width / image.shape[1], canvas.height / image.shape[0]
    boxes = [[x * factor[i % 2] for i, x in enumerate(box)] for box in boxes]
    colors = [COLORS[category % len(COLORS)] for category in classes]
    styles = list(zip(boxes, colors, weights or [1.0] * len(boxes)))
    overlay = Overlay(canvas)
    for style in reversed(styles):
        overlay.draw_box(*style)
    for text, style in zip(labels, styles):  # the first labels find room
        overlay.draw_label(text, *style)
    return np.asarray(canvas)


def resize(image: Image.Image, scale: float | None) -> Image.Image:
    """Resize an image by a factor; by default so that labels are legible."""
    if scale is None:
        side = max(image.size)
        scale = min(max(round(MIN_SIDE / side), 1), MAX_SIDE / side)
    size = [max(round(scale * side), 1) for side in image.size]
    return image.resize(size, Image.Resampling.BICUBIC)
