"""What is wrong with the content of a dataset, found before training stumbles on it.

Boxes are (x, y, w, h) in pixels, sizes (width, height).
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from . import Content
from .file_status import FileStatus

MAX_EXAMPLES = 3  # shown of each kind
TOLERANCE = 1  # pixels by which a box may reach beyond its image: rounding, or counting from 1


class Kind(Enum):
    """What may be found: its severity, and a description.

    An error stops training or evaluation, or loses labels; a warning spoils results; a note is to
    be known.
    """

    MISSING = "error", "images whose file does not exist"
    UNREADABLE = "error", "images whose file cannot be read"
    WRONG_SIZE = "error", "images of another size than stated"
    IMAGE_ID = "error", "images with the id of another"
    SAME_FILE = "error", "images with the file of another"
    CATEGORY = "error", "categories with the id or name of another"
    UNKNOWN_IMAGE = "error", "annotations of unknown images"
    UNKNOWN_CATEGORY = "error", "annotations of unknown categories"
    ANNOTATION_ID = "error", "annotations without an id of their own"
    INCOMPLETE = "error", "annotations that lack 'area' or 'iscrowd'"
    NO_OUTLINE = "error", "boxes with a segmentation that has no outline"
    NO_BOX = "error", "boxes that are not four finite numbers"
    NO_AREA = "error", "boxes without area"
    OUTSIDE = "error", "boxes outside their image"
    BEYOND = "warning", "boxes that reach beyond their image"
    SAME_BOX = "warning", "boxes that repeat another"
    CROWD = "note", "crowd boxes, not trained on"
    EMPTY_IMAGE = "note", "images without objects"
    EMPTY_CLASS = "note", "classes without objects"

    @property
    def severity(self) -> str:
        return self.value[0]

    @property
    def description(self) -> str:
        return self.value[1]


@dataclass
class Finding:
    """How often a kind was found, and where first."""

    count: int = 0
    examples: list[str] = field(default_factory=list)

    def add(self, example: str) -> None:
        self.count += 1
        if len(self.examples) < MAX_EXAMPLES:
            self.examples.append(example)


Findings = dict[Kind, Finding]


def inspect(content: Content, files: dict[str, FileStatus]) -> Findings:
    """Find what is wrong with a dataset.

    Args:
        files: status of the image files, by ``file_name``.

    Returns:
        What was found, in the order of :class:`Kind`. Of the faults that :func:`annotation_fault`
        knows, an annotation counts for the first alone.
    """
    found = defaultdict(Finding)
    inspect_images(content, files, found)
    inspect_annotations(content, files, found)
    inspect_categories(content, found)
    return {kind: found[kind] for kind in Kind if kind in found}


def inspect_images(content: Content, files: dict[str, FileStatus], found: Findings) -> None:
    ids: dict[Any, str] = {}
    paths: dict[str, Any] = {}
    annotated = {annotation["image_id"] for annotation in content["annotations"]}
    for image in content["images"]:
        file = files[image["file_name"]]
        label = f"{image['file_name']} (image {image['id']!r})"
        if file.missing:
            found[Kind.MISSING].add(f"{label}: {file.path}")
        if file.damage:
            found[Kind.UNREADABLE].add(f"{label}: {file.damage}")
        stated, size = (image.get("width"), image.get("height")), image_size(image, file)
        if stated != size:
            actual = "no size" if size is None else f"the file has {size[0]} x {size[1]}"
            found[Kind.WRONG_SIZE].add(f"{label}: stated {stated[0]} x {stated[1]}, {actual}")
        if image["id"] in ids:
            found[Kind.IMAGE_ID].add(f"{label}: also {ids[image['id']]}")
        elif file.path in paths:
            found[Kind.SAME_FILE].add(f"{label}: also image {paths[file.path]!r}")
        if image["id"] not in annotated:
            found[Kind.EMPTY_IMAGE].add(label)
        ids.setdefault(image["id"], image["file_name"])
        paths.setdefault(file.path, image["id"])


def inspect_annotations(content: Content, files: dict[str, FileStatus], found: Findings) -> None:
    names = {image["id"]: image["file_name"] for image in content["images"]}
    sizes = image_sizes(content, files)
    categories = {category["id"] for category in content["categories"]}
    ids, boxes = set(), set()
    for annotation in content["annotations"]:
        own_id, image_id = annotation.get("id"), annotation["image_id"]
        faults = []
        if own_id is None or own_id in ids:
            faults.append(Kind.ANNOTATION_ID)
        ids.add(own_id)
        if not is_complete(annotation):
            faults.append(Kind.INCOMPLETE)
        if not has_outline(annotation):
            faults.append(Kind.NO_OUTLINE)
        if annotation.get("iscrowd"):
            faults.append(Kind.CROWD)
        fault = annotation_fault(annotation, sizes, categories)
        if fault is not None:
            faults.append(fault)
        if fault in (None, Kind.BEYOND):
            key = box_key(annotation)
            if key in boxes:
                faults.append(Kind.SAME_BOX)
            boxes.add(key)
        for kind in faults:
            label = f"{names.get(image_id, f'image {image_id!r}')}: annotation {own_id!r}"
            found[kind].add(f"{label}, {describe(kind, annotation, sizes)}")


def describe(kind: Kind, annotation: dict, sizes: dict) -> str:
    """The values of an annotation that are at fault."""
    if kind is Kind.UNKNOWN_CATEGORY:
        return f"category {annotation['category_id']!r}"
    if kind is Kind.INCOMPLETE:
        return f"area {annotation.get('area')}, iscrowd {annotation.get('iscrowd')}"
    if kind in (Kind.OUTSIDE, Kind.BEYOND):
        width, height = sizes[annotation["image_id"]]
        return f"box {annotation['bbox']} in {width} x {height}"
    return f"box {annotation.get('bbox')}"


def inspect_categories(content: Content, found: Findings) -> None:
    ids = Counter(category["id"] for category in content["categories"])
    names = Counter(category["name"] for category in content["categories"])
    used = {annotation["category_id"] for annotation in content["annotations"]}
    for category in content["categories"]:
        label = f"{category['name']} (category {category['id']!r})"
        if ids[category["id"]] > 1 or names[category["name"]] > 1:
            found[Kind.CATEGORY].add(label)
        if category["id"] not in used:
            found[Kind.EMPTY_CLASS].add(label)


def image_size(image: dict, file: FileStatus) -> tuple[int, int] | None:
    """Size of the file where it was opened, else the stated one; None where that is no size."""
    if file.size is not None:
        return file.size
    stated = image.get("width"), image.get("height")
    return stated if all(is_number(side) and side > 0 for side in stated) else None


def image_sizes(
    content: Content, files: dict[str, FileStatus]
) -> dict[Any, tuple[int, int] | None]:
    """:func:`image_size` of all images, by id."""
    return {x["id"]: image_size(x, files[x["file_name"]]) for x in content["images"]}


def is_number(value: Any) -> bool:
    """Whether it is a number, and finite."""
    return isinstance(value, (int, float)) and math.isfinite(value)


def is_complete(annotation: dict) -> bool:
    """Whether it has what the evaluation needs beside the box."""
    return is_number(annotation.get("area")) and annotation.get("iscrowd") in (0, 1)


def has_outline(annotation: dict) -> bool:
    """Whether its segmentation, if there is one, is a mask or has three points.

    Detectron2 leaves out others, their boxes too.
    """
    segmentation = annotation.get("segmentation")
    if not segmentation or isinstance(segmentation, dict):
        return True
    return any(len(points) >= 6 and len(points) % 2 == 0 for points in segmentation)


def annotation_fault(annotation: dict, sizes: dict, categories: set) -> Kind | None:
    """What is wrong with the image, the category or else the box of an annotation; None if nothing.

    Args:
        sizes: of the images by id, None where not known.
        categories: their ids.
    """
    if annotation["image_id"] not in sizes:
        return Kind.UNKNOWN_IMAGE
    if annotation["category_id"] not in categories:
        return Kind.UNKNOWN_CATEGORY
    return box_fault(annotation.get("bbox"), sizes[annotation["image_id"]])


def box_fault(box: Any, size: tuple[int, int] | None) -> Kind | None:
    """NO_BOX, NO_AREA, OUTSIDE, BEYOND or None. ``size`` is that of the image, None if unknown."""
    if not isinstance(box, (list, tuple)) or len(box) != 4 or not all(map(is_number, box)):
        return Kind.NO_BOX
    x, y, w, h = box
    if w <= 0 or h <= 0:
        return Kind.NO_AREA
    if size is None:
        return None
    width, height = size
    if x >= width or y >= height or x + w <= 0 or y + h <= 0:
        return Kind.OUTSIDE
    return Kind.BEYOND if min(x, y, width - x - w, height - y - h) < -TOLERANCE else None


def box_key(annotation: dict) -> tuple:
    """Equal for equal boxes of a class in an image."""
    return annotation["image_id"], annotation["category_id"], *annotation["bbox"]


def usable_annotations(content: Content, files: dict[str, FileStatus]) -> list[dict]:
    """Those that can be trained on: in an image of known size, no crowds, not at fault unless they
    reach beyond their image."""
    sizes = image_sizes(content, files)
    sizes = {image_id: size for image_id, size in sizes.items() if size is not None}
    categories = {category["id"] for category in content["categories"]}
    return [
        annotation
        for annotation in content["annotations"]
        if annotation_fault(annotation, sizes, categories) in (None, Kind.BEYOND)
        and not annotation.get("iscrowd")
    ]
