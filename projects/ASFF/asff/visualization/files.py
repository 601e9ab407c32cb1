"""Write what was detected: images, videos and a COCO JSON file."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from detectron2.evaluation.coco_evaluation import instances_to_coco_json
from detectron2.structures import Instances
from PIL import Image

JPEG_QUALITY = 92


class OutputFolder:
    """A folder to write to, in which every input gets a file name of its own.

    Args:
        folder: made if it does not exist.
        inputs: files to be read, none of which may lie in the folder.

    Raises:
        ValueError: the folder cannot be made or written to, or holds an input.
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
        """Return the file to write for an input: its name, numbered if that is taken."""
        stem = Path(file).stem
        name, number = stem + suffix, 1
        while name.lower() in self.names:
            number += 1
            name = f"{stem}_{number}{suffix}"
        self.names.add(name.lower())
        return self.folder / name

    def save(self, file: str, image: np.ndarray) -> None:
        """Write an image (H, W, 3), RGB, as the JPEG of an input."""
        Image.fromarray(image).save(self.name(file, ".jpg"), quality=JPEG_QUALITY)


class VideoFile:
    """A video written frame by frame; the first frame determines its size."""

    def __init__(self, path: Path, fps: float):
        self.path, self.fps = path, fps
        self.writer: cv2.VideoWriter | None = None

    def write(self, frame: np.ndarray) -> None:
        """Append a frame (H, W, 3), RGB."""
        if self.writer is None:
            codec = cv2.VideoWriter_fourcc(*"mp4v")  # in every build of OpenCV
            size = frame.shape[1], frame.shape[0]
            self.writer = cv2.VideoWriter(str(self.path), codec, self.fps, size)
            if not self.writer.isOpened():
                raise ValueError(f"{self.path}: this OpenCV cannot write mp4 videos.")
        self.writer.write(cv2.cvtColor(frame, cv2.COLOR_RGB2BGR))

    def __enter__(self) -> VideoFile:
        return self

    def __exit__(self, *error: object) -> None:
        if self.writer is not None:
            self.writer.release()


class DetectionsFile:
    """Detections in COCO's format, with scores, written image by image to bound the memory.

    ``categories``: ``id``, from 1 in the order of the classes, and ``name``. ``images``: ``id``,
    ``file_name`` as it was given, ``width``, ``height`` and, in a video, ``frame``, from 0.
    ``annotations``: ``id``, ``image_id``, ``category_id``, ``bbox`` (x, y, width, height; pixels),
    ``area``, ``score`` and ``iscrowd``.
    """

    def __init__(self, path: Path, class_names: Sequence[str]):
        self.path = path
        self.categories = [{"id": i, "name": x} for i, x in enumerate(class_names, start=1)]
        self.num_images = self.num_detections = 0

    def __enter__(self) -> DetectionsFile:
        self.file = self.path.open("w")
        self.images = tempfile.TemporaryFile("w+")  # appended after all annotations
        self.file.write(f'{{"categories": {json.dumps(self.categories)},\n"annotations": [')
        return self

    def add(self, info: dict, shape: tuple[int, ...], instances: Instances) -> None:
        """Add an image of shape (H, W, ...), its further fields, and its detections."""
        self.images.write(",\n" if self.num_images else "\n")
        self.num_images += 1
        height, width = shape[:2]
        image = {"id": self.num_images, **info, "width": width, "height": height}
        self.images.write(json.dumps(image))
        for detection in instances_to_coco_json(instances, self.num_images):
            self.file.write(",\n" if self.num_detections else "\n")
            self.num_detections += 1
            category_id = detection["category_id"] + 1
            area = detection["bbox"][2] * detection["bbox"][3]
            rest = {"category_id": category_id, "area": area, "iscrowd": 0}
            self.file.write(json.dumps({"id": self.num_detections, **detection, **rest}))

    def __exit__(self, *error: object) -> None:
        self.file.write('\n],\n"images": [')
        self.images.seek(0)
        shutil.copyfileobj(self.images, self.file)
        self.file.write("\n]}\n")
        self.images.close()
        self.file.close()
