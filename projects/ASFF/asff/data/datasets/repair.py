"""A cleaned copy of a dataset's content: nothing in it is an error, all else is as it was."""

from __future__ import annotations

import itertools
from collections import Counter, defaultdict
from typing import Any

from . import Content
from .file_status import FileStatus
from .inspection import (
    Finding,
    Kind,
    annotation_fault,
    box_key,
    has_outline,
    image_sizes,
    inspect_categories,
    is_complete,
    is_number,
)


def repair(content: Content, files: dict[str, FileStatus]) -> tuple[Content, Counter[str]]:
    """Drop what cannot be used, correct what can.

    Args:
        content: stays as it is.
        files: status of the image files, which have been opened, by ``file_name``.

    Returns:
        The cleaned content, and how often each change was made.

    Raises:
        ValueError: categories share an id or a name, or no image is left.
    """
    check_categories(content)
    changes: Counter[str] = Counter()
    images, new_ids = repair_images(content, files, changes)
    if not images:
        raise ValueError(
            f"Of {len(content['images'])} images none would be left. Is the image folder right?"
        )
    cleaned = {**content, "images": images}
    cleaned["annotations"] = repair_annotations(cleaned, files, new_ids, changes)
    return cleaned, changes


def check_categories(content: Content) -> None:
    """Raise a ValueError where an annotation's category may be one of several."""
    found = defaultdict(Finding)
    inspect_categories(content, found)
    if Kind.CATEGORY in found:
        raise ValueError(
            f"{', '.join(found[Kind.CATEGORY].examples)} share an id or a name. Which one an "
            "annotation means cannot be known: rename or remove them by hand."
        )


def repair_images(
    content: Content, files: dict[str, FileStatus], changes: Counter[str]
) -> tuple[list[dict], dict[Any, Any]]:
    """The images to keep, and the new id of each old one: None where it was dropped.

    To which of several files with one id its annotations belong cannot be known: all go.
    """
    paths_by_id = defaultdict(set)
    for image in content["images"]:
        paths_by_id[image["id"]].add(files[image["file_name"]].path)
    images: list[dict] = []
    id_by_path: dict[str, Any] = {}
    new_ids: dict[Any, Any] = {}
    for image in content["images"]:
        file = files[image["file_name"]]
        if len(paths_by_id[image["id"]]) > 1:
            fault = Kind.IMAGE_ID
        elif file.missing:
            fault = Kind.MISSING
        else:
            fault = Kind.UNREADABLE if file.damage else None
        if fault is not None:
            changes[f"dropped {fault.description}"] += 1
            new_ids[image["id"]] = None
        elif file.path in id_by_path:
            changes[f"merged {Kind.SAME_FILE.description}"] += 1
            new_ids[image["id"]] = id_by_path[file.path]
        else:
            if (image.get("width"), image.get("height")) != file.size:
                changes[f"corrected {Kind.WRONG_SIZE.description}"] += 1
                image = {**image, "width": file.size[0], "height": file.size[1]}
            images.append(image)
            new_ids[image["id"]] = id_by_path[file.path] = image["id"]
    return images, new_ids


def repair_annotations(
    content: Content, files: dict[str, FileStatus], new_ids: dict[Any, Any], changes: Counter[str]
) -> list[dict]:
    """The annotations to keep.

    Args:
        content: with the repaired images.
        new_ids: of the images, by their old ids; None where dropped.
    """
    sizes = image_sizes(content, files)
    categories = {category["id"] for category in content["categories"]}
    numbers = [x["id"] for x in content["annotations"] if isinstance(x.get("id"), int)]
    unused_ids = itertools.count(max(numbers, default=0) + 1)
    annotations: list[dict] = []
    ids, boxes = set(), set()
    for annotation in content["annotations"]:
        image_id = new_ids.get(annotation["image_id"], annotation["image_id"])
        if image_id is None:
            changes["dropped annotations of dropped images"] += 1
            continue
        annotation = {**annotation, "image_id": image_id}
        fault = annotation_fault(annotation, sizes, categories)
        if fault is Kind.BEYOND:
            changes[f"clipped {fault.description}"] += 1
            clip(annotation, *sizes[image_id])
        elif fault is not None:
            changes[f"dropped {fault.description}"] += 1
            continue
        if box_key(annotation) in boxes:
            changes[f"dropped {Kind.SAME_BOX.description}"] += 1
            continue
        boxes.add(box_key(annotation))
        if annotation.get("id") is None or annotation["id"] in ids:
            changes[f"renumbered {Kind.ANNOTATION_ID.description}"] += 1
            annotation["id"] = next(unused_ids)
        ids.add(annotation["id"])
        if not is_complete(annotation):
            changes[f"completed {Kind.INCOMPLETE.description}"] += 1
            complete(annotation)
        if not has_outline(annotation):
            changes["removed segmentations without outline"] += 1
            del annotation["segmentation"]
        annotations.append(annotation)
    return annotations


def clip(annotation: dict, width: int, height: int) -> None:
    """Cut a box at the border of its image."""
    x, y, w, h = annotation["bbox"]
    left, top, right, bottom = max(x, 0), max(y, 0), min(x + w, width), min(y + h, height)
    annotation["bbox"] = [left, top, right - left, bottom - top]
    if is_number(annotation.get("area")):
        # That of a mask, which the image bounds already, may be smaller than its box.
        annotation["area"] = min(annotation["area"], (right - left) * (bottom - top))


def complete(annotation: dict) -> None:
    """Add what the evaluation needs beside the box."""
    if not is_number(annotation.get("area")):
        annotation["area"] = annotation["bbox"][2] * annotation["bbox"][3]
    if annotation.get("iscrowd") not in (0, 1):
        annotation["iscrowd"] = 0
