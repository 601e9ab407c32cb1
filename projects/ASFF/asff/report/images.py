"""Images of the report: what is in them as numbers, and their pixels as small JPEGs."""

from __future__ import annotations

import io
import logging
import os
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from ..analysis.detection_errors import CORRECT, SIZES
from ..analysis.detection_metrics import (
    MISTAKES,
    SCORES,
    Evaluation,
    best_score,
    shown_from,
    worst_images,
)
from ..data.image_io import UnreadableImage, read_image

NUM_IMAGES = 12
SIDE = 640  # pixels at most
MAX_BYTES = 150_000  # of a picture; all together stay under 3 MB, as text too
QUALITIES = (85, 70, 50, 30, 15)

KINDS = {CORRECT: "correct", **{kind: name for name, kind in MISTAKES.items()}}


@dataclass(frozen=True)
class ShownImage:
    """An image of the report.

    Attributes:
        path: of its file.
        content: ``file_name``, ``width``, ``height`` in pixels, and its ``truths`` and
            ``detections``.
        jpeg: a small copy.
    """

    path: str
    content: dict[str, Any]
    jpeg: bytes


def choose_images(evaluation: Evaluation, image_root: str) -> list[ShownImage]:
    """The images with the most mistakes, at the best score, of those that can be read.

    Args:
        image_root: folder that their file names start from.
    """
    params, known = evaluation.evaluator.params, evaluation.evaluator.cocoGt.imgs
    images: list[ShownImage] = []
    for place in worst_images(evaluation, best_score(evaluation)):
        path = os.path.join(image_root, known[params.imgIds[place]]["file_name"])
        try:
            pixels = read_image(path)
        except UnreadableImage as error:
            logging.getLogger("asff").warning(f"Left out: {error}")
            continue
        height, width = pixels.shape[:2]
        content = {"file_name": os.path.basename(path), "width": width, "height": height}
        content.update(boxes(evaluation, place))
        images.append(ShownImage(path, content, encode(pixels)))
        if len(images) == NUM_IMAGES:
            break
    return images


def boxes(evaluation: Evaluation, place: int) -> dict[str, list[dict[str, Any]]]:
    """GroundTruth and detections of an image, the most certain last, to be drawn on top.

    Boxes are x, y, w, h in pixels. GroundTruth have the highest score of a detection that ``explained``
    them: one that is right, of a wrong class, or has a poor box; -1 where there is none.
    """
    detections = shown_from(evaluation, SCORES[0])
    detections = np.sort(detections[detections["image"] == place], order="score")
    truths = evaluation.truths[evaluation.truths["image"] == place]
    return {
        "truths": [
            {**describe(x), "size": SIZES[x["size"]], "explained": float(x["explained"])}
            for x in truths
        ],
        "detections": [
            {**describe(x), "score": float(x["score"]), "kind": KINDS[x["kind"]]}
            for x in detections
        ],
    }


def describe(row: np.void) -> dict[str, Any]:
    return {"label": int(row["label"]), "box": [round(float(x), 1) for x in row["box"]]}


def encode(pixels: np.ndarray) -> bytes:
    """A JPEG of at most SIDE pixels, of the best quality that keeps it small."""
    image = Image.fromarray(pixels)
    image.thumbnail((SIDE, SIDE))
    for quality in QUALITIES:
        file = io.BytesIO()
        image.save(file, "JPEG", quality=quality, optimize=True)
        if file.tell() <= MAX_BYTES:
            break
    return file.getvalue()
