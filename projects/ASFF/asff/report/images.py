"""Choose the images of the report, and describe their objects and detections."""

from __future__ import annotations

import io
import logging
import os
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from ..analysis.detection_errors import CORRECT, MISTAKES
from ..analysis.detection_metrics import (
    SCORES,
    Evaluation,
    best_score,
    detections_from,
    worst_images,
)
from ..data.boxes import COCO_SIZES
from ..data.image_io import UnreadableImage, read_image

NUM_IMAGES = 12
SIDE = 640  # pixels at most
MAX_BYTES = 150_000  # per image; all together stay under 3 MB, encoded in base64
QUALITIES = (85, 70, 50, 30, 15)

KINDS = {CORRECT: "correct", **MISTAKES}


@dataclass(frozen=True)
class ShownImage:
    """An image of the report."""

    path: str
    content: dict[str, Any]  # file_name, width, height (pixels), objects and detections
    jpeg: bytes  # a small copy


def choose_images(evaluation: Evaluation, image_root: str) -> list[ShownImage]:
    """Choose the readable images below a folder with the most mistakes at the best score."""
    images: list[ShownImage] = []
    for index in worst_images(evaluation, best_score(evaluation)):
        path = os.path.join(image_root, evaluation.images[index]["file_name"])
        try:
            pixels = read_image(path)
        except UnreadableImage as error:
            logging.getLogger("asff").warning(f"Left out: {error}")
            continue
        height, width = pixels.shape[:2]
        content = {"file_name": os.path.basename(path), "width": width, "height": height}
        content.update(_describe_boxes(evaluation, index))
        images.append(ShownImage(path, content, encode_jpeg(pixels)))
        if len(images) == NUM_IMAGES:
            break
    return images


def _describe_boxes(evaluation: Evaluation, image: int) -> dict[str, list[dict[str, Any]]]:
    """Return objects and detections of an image, in ascending order of scores.

    Boxes are x, y, w, h in pixels. The ``covered_score`` of an object is the highest score of its
    correct detections and its classification and localization mistakes; -1 without any.
    """
    detections = detections_from(evaluation, SCORES[0])
    detections = np.sort(detections[detections["image"] == image], order="score")
    objects = evaluation.objects[evaluation.objects["image"] == image]
    return {
        "objects": [
            _describe_box(x, size=COCO_SIZES[x["size"]], covered_score=float(x["covered_score"]))
            for x in objects
        ],
        "detections": [
            _describe_box(x, score=float(x["score"]), kind=KINDS[x["kind"]]) for x in detections
        ],
    }


def _describe_box(box: np.void, **more: Any) -> dict[str, Any]:
    return {"label": int(box["label"]), "box": [round(float(x), 1) for x in box["box"]], **more}


def encode_jpeg(pixels: np.ndarray) -> bytes:
    """Encode as a JPEG of at most SIDE pixels, with the best quality that keeps it small."""
    image = Image.fromarray(pixels)
    image.thumbnail((SIDE, SIDE))
    for quality in QUALITIES:
        file = io.BytesIO()
        image.save(file, "JPEG", quality=quality, optimize=True)
        if file.tell() <= MAX_BYTES:
            break
    return file.getvalue()
