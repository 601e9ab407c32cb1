"""The rules that a dataset has to keep, as one table: how to find what breaks one, and to fix it.

Boxes are (x, y, w, h) in pixels, sizes (width, height).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from .dataset_index import DatasetIndex, is_number

# Severities: an error stops training or evaluation, or loses labels; a warning spoils results; a
# note is to be known.
ERROR, WARNING, NOTE = SEVERITIES = ("error", "warning", "note")
# What an error ends. TRAINING: Detectron2's loader ends at it, or mixes up images without an error.
# EVALUATION: that alone; in training another image takes the place of a missing one.
TRAINING, EVALUATION = "training", "evaluation"
TOLERANCE = 1  # pixels by which a box may reach beyond its image: rounding, or counting from 1


@dataclass(frozen=True)
class Rule:
    """A rule for each image, annotation or category.

    Attributes:
        severity: one of SEVERITIES.
        description: what breaks it, in the plural.
        find: returns what is at fault in an item that breaks it (may be empty), else None.
        fix: changes the item, or is one of those that drop it, and returns the verb for it.
        fatal: TRAINING or EVALUATION, if it ends them.
    """

    severity: str
    description: str
    find: Callable[[dict, DatasetIndex], str | None]
    fix: Callable[[dict, DatasetIndex], str] | None = None
    fatal: str = ""

    @property
    def name(self) -> str:
        """The name of the function that finds what breaks it."""
        return self.find.__name__.strip("_")

    @property
    def drops(self) -> bool:
        """Whether the fix removes the item."""
        return self.fix in (_drop, _merge)


def _drop(item: dict, index: DatasetIndex) -> str:
    return "dropped"


# Categories


def _shared_category(category: dict, index: DatasetIndex) -> str | None:
    shared = index.category_ids[category["id"]] > 1 or index.category_names[category["name"]] > 1
    return "" if shared else None


def _refuse(category: dict, index: DatasetIndex) -> str:
    raise ValueError(
        f"{index.label('categories', category)} shares its id or name with another category. Which "
        "one an annotation means cannot be known: rename or remove them by hand."
    )


def _empty_class(category: dict, index: DatasetIndex) -> str | None:
    return None if category["id"] in index.annotated_categories else ""


# Images


def _missing_file(image: dict, index: DatasetIndex) -> str | None:
    file = index.files[image["file_name"]]
    return f": {file.path}" if file.missing else None


def _unreadable_file(image: dict, index: DatasetIndex) -> str | None:
    file = index.files[image["file_name"]]
    return f": {file.damage}" if file.damage else None


def _shared_image_id(image: dict, index: DatasetIndex) -> str | None:
    first = index.first_by_id[image["id"]]
    return None if first is image else f": also {first['file_name']}"


def _shared_file(image: dict, index: DatasetIndex) -> str | None:
    first = index.first_of_file(image)
    return None if first is image else f": also image {first['id']!r}"


def _merge(image: dict, index: DatasetIndex) -> str:
    return "merged"  # its annotations become those of the first image of the file


def _wrong_size(image: dict, index: DatasetIndex) -> str | None:
    stated, size = (image.get("width"), image.get("height")), index.image_size(image)
    if stated == size:
        return None
    actual = "not a size" if size is None else f"the file has {size[0]} x {size[1]}"
    return f": stated {stated[0]} x {stated[1]}, {actual}"


def _correct_size(image: dict, index: DatasetIndex) -> str:
    image["width"], image["height"] = index.image_size(image)
    return "corrected"


def _empty_image(image: dict, index: DatasetIndex) -> str | None:
    return None if image["id"] in index.annotated_images else ""


# Annotations


def _box(annotation: dict) -> str:
    return f", box {annotation.get('bbox')}"


def _unknown_image(annotation: dict, index: DatasetIndex) -> str | None:
    return None if annotation["image_id"] in index.sizes else _box(annotation)


def _unknown_category(annotation: dict, index: DatasetIndex) -> str | None:
    category = annotation["category_id"]
    return None if category in index.category_ids else f", category {category!r}"


def _invalid_box(annotation: dict, index: DatasetIndex) -> str | None:
    box = annotation.get("bbox")
    valid = isinstance(box, (list, tuple)) and len(box) == 4 and all(map(is_number, box))
    return None if valid else _box(annotation)


def _degenerate_box(annotation: dict, index: DatasetIndex) -> str | None:
    return _box(annotation) if min(annotation["bbox"][2:]) <= 0 else None


def _outside_image(annotation: dict, index: DatasetIndex) -> str | None:
    if (size := index.sizes[annotation["image_id"]]) is None:
        return None
    (x, y, w, h), (width, height) = annotation["bbox"], size
    outside = x >= width or y >= height or x + w <= 0 or y + h <= 0
    return f"{_box(annotation)} in {width} x {height}" if outside else None


def _beyond_image(annotation: dict, index: DatasetIndex) -> str | None:
    if (size := index.sizes[annotation["image_id"]]) is None:
        return None
    (x, y, w, h), (width, height) = annotation["bbox"], size
    beyond = min(x, y, width - x - w, height - y - h) < -TOLERANCE
    return f"{_box(annotation)} in {width} x {height}" if beyond else None


def _clip(annotation: dict, index: DatasetIndex) -> str:
    (x, y, w, h), (width, height) = annotation["bbox"], index.sizes[annotation["image_id"]]
    left, top, right, bottom = max(x, 0), max(y, 0), min(x + w, width), min(y + h, height)
    annotation["bbox"] = [left, top, right - left, bottom - top]
    if is_number(annotation.get("area")):
        # That of a mask, which the image bounds already, may be smaller than its box.
        annotation["area"] = min(annotation["area"], (right - left) * (bottom - top))
    return "clipped"


def _repeated_box(annotation: dict, index: DatasetIndex) -> str | None:
    key = annotation["image_id"], annotation["category_id"], *annotation["bbox"]
    return _box(annotation) if index.seen("box", key) else None


def _repeated_id(annotation: dict, index: DatasetIndex) -> str | None:
    own = annotation.get("id")
    return _box(annotation) if own is None or index.seen("id", own) else None


def _renumber(annotation: dict, index: DatasetIndex) -> str:
    annotation["id"] = next(index.unused_ids)
    return "renumbered"


def _incomplete(annotation: dict, index: DatasetIndex) -> str | None:
    area, iscrowd = annotation.get("area"), annotation.get("iscrowd")
    return None if is_number(area) and iscrowd in (0, 1) else f", area {area}, iscrowd {iscrowd}"


def _complete(annotation: dict, index: DatasetIndex) -> str:
    if not is_number(annotation.get("area")):
        annotation["area"] = annotation["bbox"][2] * annotation["bbox"][3]
    if annotation.get("iscrowd") not in (0, 1):
        annotation["iscrowd"] = 0
    return "completed"


def _no_outline(annotation: dict, index: DatasetIndex) -> str | None:
    segmentation = annotation.get("segmentation")
    if not segmentation or isinstance(segmentation, dict):  # none, or a mask
        return None
    valid = any(len(points) >= 6 and len(points) % 2 == 0 for points in segmentation)
    return None if valid else _box(annotation)


def _remove_segmentation(annotation: dict, index: DatasetIndex) -> str:
    del annotation["segmentation"]
    return "removed"


def _crowd_box(annotation: dict, index: DatasetIndex) -> str | None:
    return _box(annotation) if annotation.get("iscrowd") else None


# Groups of rules. Within a group, an item that a rule drops is not looked at by those that follow:
# they take for granted what it asks for.
_CATEGORIES = (
    Rule(ERROR, "categories with the id or name of another", _shared_category, _refuse, TRAINING),
    Rule(NOTE, "classes without objects", _empty_class),
)
_FILES = (
    Rule(ERROR, "images whose file does not exist", _missing_file, _drop, EVALUATION),
    Rule(ERROR, "images whose file cannot be read", _unreadable_file, _drop),
)
_SHARED_IMAGES = (
    Rule(ERROR, "images with the id of another", _shared_image_id, _merge, TRAINING),
    Rule(ERROR, "images with the file of another", _shared_file, _merge),
)
_IMAGES = (
    Rule(ERROR, "images of another size than stated", _wrong_size, _correct_size, TRAINING),
    Rule(NOTE, "images without objects", _empty_image),
)
UNUSABLE_BOXES = (
    Rule(ERROR, "boxes that are not four finite numbers", _invalid_box, _drop, TRAINING),
    Rule(ERROR, "degenerate (zero-area) boxes", _degenerate_box, _drop),
    Rule(ERROR, "boxes outside their image", _outside_image, _drop),
)
_BOXES = (
    Rule(ERROR, "annotations of unknown images", _unknown_image, _drop),
    Rule(ERROR, "annotations of unknown categories", _unknown_category, _drop, TRAINING),
    *UNUSABLE_BOXES,
    Rule(WARNING, "boxes that reach beyond their image", _beyond_image, _clip),
    Rule(WARNING, "boxes that repeat another", _repeated_box, _drop),
)
_ANNOTATIONS = (
    Rule(ERROR, "annotations without an id of their own", _repeated_id, _renumber, TRAINING),
    Rule(ERROR, "annotations that lack 'area' or 'iscrowd'", _incomplete, _complete, EVALUATION),
    Rule(ERROR, "segmentations without outline", _no_outline, _remove_segmentation),
    Rule(NOTE, "crowd boxes, not trained on", _crowd_box),
)
# The groups for each list of a dataset. Inspection and repair take all in this order.
RULES: dict[str, tuple[tuple[Rule, ...], ...]] = {
    "categories": (_CATEGORIES,),
    "images": (_FILES, _SHARED_IMAGES, _IMAGES),
    "annotations": (_BOXES, _ANNOTATIONS),
}
