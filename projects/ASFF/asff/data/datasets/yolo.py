"""Datasets in the format of YOLO: a text file for each image, with a line for each object.

Described by a ``data.yaml`` as Ultralytics has it, or by a folder or list of images and the names
of the classes, as darknet has it.
"""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Sequence
from pathlib import Path

import yaml

from .content import Content
from .files import IMAGE_SUFFIXES, find_files, read_lines
from .image_sizes import read_image_sizes

# Coordinates count from 0 to 1 over the image. Boxes may reach out a little, but what lies beyond
# these was not divided by the image's size.
LOWEST, HIGHEST = -0.5, 1.5


def read_yolo_classes(entry: dict) -> list[str]:
    """The names of ``data.yaml``, by class number."""
    return data_names(Path(entry["data"]), read_data_yaml(entry))


def read_yolo(entry: dict) -> Content:
    """Read the dataset.

    Args:
        entry: of ``DATASETS.CUSTOM``, with absolute paths and ``classes``.

    Returns:
        The content of a COCO file. An image that cannot be read has the size 0.

    Raises:
        ValueError: naming the malformed file and line.
    """
    ids = category_ids(entry)
    sources = image_sources(entry)
    files = [file for source in sources for file in listed_images(source)]
    if not files:
        raise ValueError(f"there are no images in {', '.join(map(str, sources))}.")
    labels = [label_file(file, entry) for file in files]
    if not any(labels):
        raise ValueError(
            f"none of the {len(files)} images has a label file. Of '{files[0]}' it was looked for "
            f"at {' and '.join(map(str, label_places(files[0], entry)))}."
        )
    if all(source.is_dir() for source in sources):  # a list is there to leave images out
        report_unused([label for label in labels if label])
    images, annotations = [], []
    sizes = read_image_sizes([str(file) for file in files])
    for image_id, (file, label, size) in enumerate(zip(files, labels, sizes), start=1):
        width, height = size or (0, 0)
        images.append({"id": image_id, "file_name": str(file), "height": height, "width": width})
        for index, (cx, cy, w, h) in read_labels(label, len(ids)) if label else ():
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image_id,
                    "category_id": ids[index],
                    "bbox": [(cx - w / 2) * width, (cy - h / 2) * height, w * width, h * height],
                    "area": w * width * h * height,
                    "iscrowd": 0,
                }
            )
    empty = len(images) - len({x["image_id"] for x in annotations})
    if empty:
        logging.getLogger("asff").info(
            f"{os.path.commonpath(files)}: {empty} of {len(images)} images have no label file or "
            "an empty one: they are without objects."
        )
    categories = [{"id": i, "name": name} for i, name in enumerate(entry["classes"], start=1)]
    return {"images": images, "annotations": annotations, "categories": categories}


def category_ids(entry: dict) -> list[int]:
    """For each class number of the label files, the place of its name in ``classes``, from 1."""
    classes = entry["classes"]
    names = read_yolo_classes(entry) if "data" in entry else classes
    for name in names:
        if name not in classes:
            raise ValueError(
                f"{entry['data']}: the class '{name}' is not one of 'classes' "
                f"({', '.join(classes)}). Correct it, or add it to the key 'classes'."
            )
    return [classes.index(name) + 1 for name in names]


def read_data_yaml(entry: dict) -> dict:
    path = Path(entry["data"])
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8-sig"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ValueError(f"{path} is not valid YAML: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds no KEY: VALUE pairs.")
    return content


def data_names(path: Path, content: dict) -> list[str]:
    """Class names of a ``data.yaml``, where they are a list or have their numbers as keys."""
    names = content.get("names")
    if isinstance(names, dict):
        if set(names) != set(range(len(names))):
            raise ValueError(
                f"{path}: 'names' has the numbers {', '.join(map(str, names))}, but they must be "
                f"0 to {len(names) - 1}."
            )
        names = [names[i] for i in range(len(names))]
    if not isinstance(names, list) or not names:
        raise ValueError(f"{path}: 'names' must list the names of the classes.")
    if "nc" in content and content["nc"] != len(names):
        raise ValueError(f"{path}: 'nc' is {content['nc']}, but 'names' has {len(names)} names.")
    return names


def image_sources(entry: dict) -> list[Path]:
    """Folders and lists of the images."""
    if "data" not in entry:
        return [Path(entry["images"])]
    return data_sources(Path(entry["data"]), read_data_yaml(entry), entry["split"])


def data_sources(path: Path, content: dict, split: str) -> list[Path]:
    """Folders and lists of images that ``data.yaml`` names for a split."""
    value = content.get(split)
    if not value:
        splits = [key for key in ("train", "val", "test") if content.get(key)]
        raise ValueError(
            f"split is '{split}', which {path} does not have. Splits there: "
            f"{', '.join(splits) or 'none'}."
        )
    root = path.parent / os.path.expanduser(str(content.get("path") or ""))
    sources = []
    for item in value if isinstance(value, list) else [value]:
        source = root / os.path.expanduser(str(item))
        # Some programs write paths from a folder beside data.yaml: ../train/images.
        sources.append(source if source.exists() else root / str(item).removeprefix("../"))
        if not sources[-1].exists():
            raise ValueError(f"{path}: {split} is '{item}', but '{source}' does not exist.")
    return [Path(os.path.normpath(source)) for source in sources]


def listed_images(source: Path) -> list[Path]:
    """The images of a folder by path, or those of a list.

    Its paths start at its folder, or, as darknet has them, at one of those above: where the first
    image is.
    """
    if source.is_dir():
        return find_files(source, IMAGE_SUFFIXES)
    lines = [line for _, line in read_lines(source)]
    starts = [folder for folder in source.parents if lines and (folder / lines[0]).is_file()]
    start = starts[0] if starts else source.parent
    return [Path(os.path.normpath(start / line)) for line in lines]


def label_file(image: Path, entry: dict) -> Path | None:
    """The label file of an image, where there is one."""
    return next((place for place in label_places(image, entry) if place.is_file()), None)


def label_places(image: Path, entry: dict) -> list[Path]:
    """Where the label file of an image may be.

    In the folder ``labels``, if the entry names one; else in that beside the last folder
    ``images`` of the path, or beside the image.
    """
    beside = image.with_suffix(".txt")
    if "labels" in entry:
        images = Path(entry["images"])
        inside = beside.relative_to(images) if images.is_dir() else beside.name
        return [Path(entry["labels"], inside)]
    before, found, after = str(beside).rpartition("/images/")
    return [Path(f"{before}/labels/{after}"), beside] if found else [beside]


def read_labels(path: Path, num_classes: int) -> list[tuple[int, Sequence[float]]]:
    """Class number and normalised box (centre x, centre y, width, height) of each object."""
    return [parse_label(line, f"{path}:{number}", num_classes) for number, line in read_lines(path)]


def report_unused(labels: Sequence[Path]) -> None:
    """Warn of text files beside the label files whose images are missing."""
    folders = {label.parent for label in labels}
    beside = {path for folder in folders for path in folder.glob("*.txt")}
    unused = sorted(path for path in beside.difference(labels) if path.name != "classes.txt")
    if unused:
        logging.getLogger("asff").warning(
            f"{len(unused)} label files have no image and are not used, as '{unused[0]}'."
        )


def parse_label(line: str, where: str, num_classes: int) -> tuple[int, Sequence[float]]:
    """A line ``class cx cy w h``, or ``class x1 y1 x2 y2 x3 y3 ...`` with the points of an outline.

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
    values = [parse_coordinate(text, where) for text in rest]
    if len(values) == 4:
        if min(values[2:]) < 0:
            raise ValueError(f"{where}: width and height are {rest[2]} and {rest[3]}: negative.")
        return int(first), values
    x0, x1 = min(values[::2]), max(values[::2])
    y0, y1 = min(values[1::2]), max(values[1::2])
    return int(first), ((x0 + x1) / 2, (y0 + y1) / 2, x1 - x0, y1 - y0)


def parse_coordinate(text: str, where: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not LOWEST <= value <= HIGHEST:  # nor is nan
        raise ValueError(
            f"{where}: '{text}' is not a coordinate from 0 to 1. Divide pixels by the width or "
            "height of the image."
        )
    return value
