"""Look-ups over a dataset for the rules that it has to keep."""

from __future__ import annotations

import itertools
import math
from collections import Counter, defaultdict
from collections.abc import Hashable
from typing import Any

from .coco_dataset import CocoDataset
from .image_files import ImageFile


class DatasetIndex:
    """Look-ups over a dataset and the status of its image files, built once."""

    def __init__(self, dataset: CocoDataset, files: dict[str, ImageFile]):
        self.files = files
        self.file_names = {image["id"]: image["file_name"] for image in dataset.images}
        self.sizes = {image["id"]: self.image_size(image) for image in dataset.images}
        self.first_by_id: dict[Any, dict] = {}
        self._first_by_path: dict[str, dict] = {}
        for image in dataset.images:
            self.first_by_id.setdefault(image["id"], image)
            self._first_by_path.setdefault(files[image["file_name"]].path, image)
        self.annotated_images = {x["image_id"] for x in dataset.annotations}
        self.annotated_categories = {x["category_id"] for x in dataset.annotations}
        self.category_ids = Counter(category["id"] for category in dataset.categories)
        self.category_names = Counter(category["name"] for category in dataset.categories)
        ids = [x["id"] for x in dataset.annotations if isinstance(x.get("id"), int)]
        self.unused_ids = itertools.count(max(ids, default=0) + 1)
        self._seen: dict[str, set] = defaultdict(set)

    def first_of_file(self, image: dict) -> dict:
        """Return the first image with the file of this one; maybe this one."""
        return self._first_by_path[self.files[image["file_name"]].path]

    def seen(self, kind: str, key: Hashable) -> bool:
        """Check whether a key of a kind was asked for before, and remember it."""
        if key in self._seen[kind]:
            return True
        self._seen[kind].add(key)
        return False

    def image_size(self, image: dict) -> tuple[int, int] | None:
        """Return the size of the file where it was opened, else the stated one; None if invalid."""
        if (size := self.files[image["file_name"]].size) is not None:
            return size
        stated = image.get("width"), image.get("height")
        return stated if all(is_number(side) and side > 0 for side in stated) else None

    def label(self, part: str, item: dict) -> str:
        """Name an image, annotation or category in a message."""
        if part == "images":
            return f"{item['file_name']} (image {item['id']!r})"
        if part == "categories":
            return f"{item['name']} (category {item['id']!r})"
        image = self.file_names.get(item["image_id"], f"image {item['image_id']!r}")
        return f"{image}: annotation {item.get('id')!r}"


def is_number(value: Any) -> bool:
    """Check whether a value is a number, and finite."""
    return isinstance(value, (int, float)) and math.isfinite(value)
