"""What tools/demo.py makes: pictures, videos, a JSON file and a window."""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from detectron2.evaluation.coco_evaluation import instances_to_coco_json
from detectron2.structures import Instances
from PIL import Image

WINDOW = "detections (any key: next, q: end)"
QUALITY = 92  # of JPEG


class OutputFolder:
    """The folder of the pictures and videos; it gives each a name of its own.

    Raises:
        ValueError: it cannot be made or written to, or holds what is to be read.
    """

    def __init__(self, folder: Path, inputs: Sequence[str]):
        if folder.resolve() in {Path(file).resolve().parent for file in inputs}:
            raise ValueError(
                f"--output {folder}: this folder holds images that are to be read, and they could "
                "be overwritten. Name another folder."
            )
        try:
            folder.mkdir(parents=True, exist_ok=True)
            tempfile.TemporaryFile(dir=folder).close()
        except OSError as error:
            raise ValueError(f"--output {folder}: {error.strerror}.") from error
        self.folder = folder
        self.names: set[str] = set()

    def name(self, file: str, suffix: str) -> Path:
        """The file to write for one that was read: its name, numbered if that is taken."""
        stem = Path(file).stem
        name, number = stem + suffix, 1
        while name.lower() in self.names:
            number += 1
            name = f"{stem}_{number}{suffix}"
        self.names.add(name.lower())
        return self.folder / name

    def save(self, file: str, picture: np.ndarray) -> None:
        """Write a picture (H, W, 3), RGB."""
        Image.fromarray(picture).save(self.name(file, ".jpg"), quality=QUALITY)


class VideoFile:
    """A video that is written frame by frame; the first one says how large it is."""

    def __init__(self, path: Path, fps: float):
        self.path, self.fps = path, fps
        self.writer: cv2.VideoWriter | None = None

    def write(self, picture: np.ndarray) -> None:
        """Append a frame (H, W, 3), RGB."""
        if self.writer is None:
            codec = cv2.VideoWriter_fourcc(*"mp4v")  # in every build of OpenCV
            size = picture.shape[1], picture.shape[0]
            self.writer = cv2.VideoWriter(str(self.path), codec, self.fps, size)
            if not self.writer.isOpened():
                raise ValueError(f"{self.path}: this OpenCV cannot write mp4 videos.")
        self.writer.write(cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))

    def __enter__(self) -> VideoFile:
        return self

    def __exit__(self, *error: object) -> None:
        if self.writer is not None:
            self.writer.release()


class CocoFile:
    """Detections in COCO's format, with scores; written as they come, for there may be many.

    ``categories``: ``id``, from 1 in the order of the classes, and ``name``. ``images``: ``id``,
    ``file_name`` as it was given, ``width``, ``height`` and, in a video, ``frame``, from 0.
    ``annotations``: ``id``, ``image_id``, ``category_id``, ``bbox`` (x, y, width, height; pixels),
    ``area``, ``score`` and ``iscrowd``.
    """

    def __init__(self, path: Path, class_names: Sequence[str]):
        self.path = path
        self.categories = [{"id": i, "name": x} for i, x in enumerate(class_names, start=1)]
        self.num_images = self.num_detections = 0

    def __enter__(self) -> CocoFile:
        self.file = self.path.open("w")
        self.images = tempfile.TemporaryFile("w+")  # they come after all annotations
        self.file.write(f'{{"categories": {json.dumps(self.categories)},\n"annotations": [')
        return self

    def add(self, info: dict, shape: tuple[int, ...], instances: Instances) -> None:
        """Add an image of shape (H, W, ...), what is known of it, and its detections."""
        self.images.write(",\n" if self.num_images else "\n")
        self.num_images += 1
        height, width = shape[:2]
        image = {"id": self.num_images, **info, "width": width, "height": height}
        self.images.write(json.dumps(image))
        for found in instances_to_coco_json(instances, self.num_images):
            self.file.write(",\n" if self.num_detections else "\n")
            self.num_detections += 1
            category = found["category_id"] + 1
            area = found["bbox"][2] * found["bbox"][3]
            rest = {"category_id": category, "area": area, "iscrowd": 0}
            self.file.write(json.dumps({"id": self.num_detections, **found, **rest}))

    def __exit__(self, *error: object) -> None:
        self.file.write('\n],\n"images": [')
        self.images.seek(0)
        shutil.copyfileobj(self.images, self.file)
        self.file.write("\n]}\n")
        self.images.close()
        self.file.close()


def open_window() -> None:
    """Open the window of --show.

    Raises:
        ValueError: there is no display, or OpenCV knows no windows.
    """
    advice = "or leave --show out: pictures are written in any case"
    # Where there is no display, OpenCV ends the process.
    linux = sys.platform.startswith("linux")
    if linux and not (os.getenv("DISPLAY") or os.getenv("WAYLAND_DISPLAY")):
        raise ValueError(f"--show: there is no display here. Use a desktop, {advice}.")
    try:
        cv2.namedWindow(WINDOW, cv2.WINDOW_NORMAL)
    except cv2.error as error:
        raise ValueError(
            f"--show: this OpenCV has no windows. Install opencv-python in place of "
            f"opencv-python-headless, {advice}."
        ) from error


def show(picture: np.ndarray, *, wait: bool) -> None:
    """Show a picture (H, W, 3), RGB.

    Args:
        wait: for a key.

    Raises:
        KeyboardInterrupt: the key is q or Escape.
    """
    cv2.imshow(WINDOW, cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))
    if cv2.waitKey(0 if wait else 1) & 0xFF in (ord("q"), 27):
        raise KeyboardInterrupt
