"""Datasets in the format of YOLO: a text file for each image, with a line for each object."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import yaml

from .coco_dataset import CocoDataset
from .image_sizes import read_image_sizes
from .source import IMAGE_SUFFIXES, DatasetSource, find_files, read_lines

# Coordinates range from 0 to 1 over the image. Boxes may reach out a little, but what lies beyond
# these was not divided by the image's size.
LOWEST, HIGHEST = -0.5, 1.5


class YoloSource(DatasetSource):
    """A ``data.yaml`` as Ultralytics has it, and one of its splits."""

    usage = "data and split, or images and classes"
    required = ("data", "split")
    paths = ("data",)

    def read_classes(self) -> list[str]:
        """Read ``names``, a list or with the class numbers as keys."""
        path, data = self.config["data"], self._read_data()
        names = data.get("names")
        if isinstance(names, dict):
            if set(names) != set(range(len(names))):
                raise ValueError(
                    f"{path}: 'names' has the numbers {', '.join(map(str, names))}, but they must "
                    f"be 0 to {len(names) - 1}."
                )
            names = [names[i] for i in range(len(names))]
        if not isinstance(names, list) or not names:
            raise ValueError(f"{path}: 'names' must list the names of the classes.")
        if "nc" in data and data["nc"] != len(names):
            raise ValueError(f"{path}: 'nc' is {data['nc']}, but 'names' has {len(names)} names.")
        return names

    def read(self) -> CocoDataset:
        indices, places = self._class_indices(), self._image_places()
        files = [file for place in places for file in _listed_images(place)]
        if not files:
            raise ValueError(f"there are no images in {', '.join(map(str, places))}.")
        labels = [next(filter(Path.is_file, self._label_places(file)), None) for file in files]
        if not any(labels):
            raise ValueError(
                f"none of the {len(files)} images has a label file. Of '{files[0]}' it was looked "
                f"for at {' and '.join(map(str, self._label_places(files[0])))}."
            )
        if all(place.is_dir() for place in places):  # a list may leave images out
            _report_unused([label for label in labels if label])
        names = list(map(str, files))
        sizes = read_image_sizes(names)
        objects = [_read_label(label, indices, size) for label, size in zip(labels, sizes)]
        dataset = CocoDataset.from_objects(zip(names, sizes, objects), self.config["classes"])
        if empty := len(files) - len({x["image_id"] for x in dataset.annotations}):
            logging.getLogger("asff").info(
                f"{os.path.commonpath(files)}: {empty} of {len(files)} images have no label file "
                "or an empty one: they are without objects."
            )
        return dataset

    def _read_data(self) -> dict:
        path = Path(self.config["data"])
        try:
            data = yaml.safe_load(path.read_text(encoding="utf-8-sig"))
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise ValueError(f"{path} is not valid YAML: {error}") from error
        if not isinstance(data, dict):
            raise ValueError(f"{path} holds no KEY: VALUE pairs.")
        return data

    def _class_indices(self) -> list[int]:
        """List for each class number of the label files the index of its name in ``classes``."""
        names, classes = self.read_classes(), self.config["classes"]
        for name in names:
            if name not in classes:
                raise ValueError(
                    f"{self.config['data']}: the class '{name}' is not one of 'classes' "
                    f"({', '.join(classes)}). Correct it, or add it to the key 'classes'."
                )
        return [classes.index(name) for name in names]

    def _image_places(self) -> list[Path]:
        """List the folders and lists of images that ``data.yaml`` names for the split."""
        path, split, data = Path(self.config["data"]), self.config["split"], self._read_data()
        value = data.get(split)
        if not value:
            splits = ", ".join(key for key in ("train", "val", "test") if data.get(key))
            raise ValueError(
                f"split is '{split}', which {path} does not have. Splits there: {splits or 'none'}."
            )
        root = path.parent / os.path.expanduser(str(data.get("path") or ""))
        places = []
        for item in value if isinstance(value, list) else [value]:
            place = root / os.path.expanduser(str(item))
            # Some programs write paths from a folder beside data.yaml: ../train/images.
            places.append(place if place.exists() else root / str(item).removeprefix("../"))
            if not places[-1].exists():
                raise ValueError(f"{path}: {split} is '{item}', but '{place}' does not exist.")
        return [Path(os.path.normpath(place)) for place in places]

    def _label_places(self, image: Path) -> list[Path]:
        """List the places where the label file of an image may be.

        First that in the folder ``labels`` beside the last folder ``images`` of the path.
        """
        beside = image.with_suffix(".txt")
        before, found, after = str(beside).rpartition("/images/")
        return [Path(f"{before}/labels/{after}"), beside] if found else [beside]


class YoloWithoutData(YoloSource):
    """A folder or list of images and the names of the classes, as darknet has it."""

    required = ("images", "classes")
    optional = ("labels",)
    paths = ("images", "labels")

    def _class_indices(self) -> list[int]:
        return list(range(len(self.config["classes"])))

    def _image_places(self) -> list[Path]:
        return [Path(self.config["images"])]

    def _label_places(self, image: Path) -> list[Path]:
        if "labels" not in self.config:
            return super()._label_places(image)
        label, images = image.with_suffix(".txt"), Path(self.config["images"])
        inside = label.relative_to(images) if images.is_dir() else label.name
        return [Path(self.config["labels"], inside)]


def _listed_images(place: Path) -> list[Path]:
    """List the images of a folder by path, or those of a text file.

    Its paths start at its folder, or, as darknet has them, at one of those above: where the first
    image is.
    """
    if place.is_dir():
        return find_files(place, IMAGE_SUFFIXES)
    lines = [line for _, line in read_lines(place)]
    starts = [folder for folder in place.parents if lines and (folder / lines[0]).is_file()]
    start = starts[0] if starts else place.parent
    return [Path(os.path.normpath(start / line)) for line in lines]


def _report_unused(labels: Sequence[Path]) -> None:
    """Warn of text files beside the label files whose images are missing."""
    folders = {label.parent for label in labels}
    beside = {path for folder in folders for path in folder.glob("*.txt")}
    unused = sorted(path for path in beside.difference(labels) if path.name != "classes.txt")
    if unused:
        logging.getLogger("asff").warning(
            f"{len(unused)} label files have no image and are not used, as '{unused[0]}'."
        )


def _read_label(
    path: Path | None, indices: Sequence[int], size: tuple[int, int] | None
) -> Iterator[tuple]:
    """Yield class index, box in pixels and iscrowd of each object of an image."""
    width, height = size or (0, 0)
    for number, line in read_lines(path) if path else ():
        index, (cx, cy, w, h) = parse_label(line, f"{path}:{number}", len(indices))
        box = (cx - w / 2) * width, (cy - h / 2) * height, w * width, h * height
        yield indices[index], box, 0


def parse_label(line: str, where: str, num_classes: int) -> tuple[int, Sequence[float]]:
    """Parse a line ``class cx cy w h``, or ``class x1 y1 x2 y2 x3 y3 ...`` with an outline.

    Returns:
        Class number, and the box (or that around the outline) as centre x, centre y, width, height.

    Raises:
        ValueError: naming the place, the value, and what it must be.
    """
    first, *rest = line.split()
    if not first.isdecimal() or int(first) >= num_classes:
        raise ValueError(
            f"{where}: the class is '{first}', but must be a whole number from 0 to "
            f"{num_classes - 1}."
        )
    if len(rest) != 4 and (len(rest) < 6 or len(rest) % 2):
        raise ValueError(
            f"{where}: {len(rest)} values follow the class. There must be 4 (centre x, centre y, "
            "width, height), or x and y of 3 or more points."
        )
    values = [_parse_coordinate(value, where) for value in rest]
    if len(values) == 4:
        if min(values[2:]) < 0:
            raise ValueError(f"{where}: width and height are {rest[2]} and {rest[3]}: negative.")
        return int(first), values
    x0, x1 = min(values[::2]), max(values[::2])
    y0, y1 = min(values[1::2]), max(values[1::2])
    return int(first), ((x0 + x1) / 2, (y0 + y1) / 2, x1 - x0, y1 - y0)


def _parse_coordinate(value: str, where: str) -> float:
    try:
        number = float(value)
    except ValueError:
        number = math.nan
    if not LOWEST <= number <= HIGHEST:  # nor is nan
        raise ValueError(
            f"{where}: '{value}' is not a coordinate from 0 to 1. Divide pixels by the width or "
            "height of the image."
        )
    return number
