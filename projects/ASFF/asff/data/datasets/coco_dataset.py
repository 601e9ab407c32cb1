"""The one representation of a dataset on disk: the lists of a COCO file, and its image folder.

Detectron2's own loaders stop at, or pass over, what a check has to report.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from detectron2.data import MetadataCatalog
from detectron2.structures import BoxMode

from .classes import shorten

ID = (int, str)
# The keys that tell items apart, and their types. An annotation's own id can be given later.
KEYS = {
    "images": {"id": ID, "file_name": (str,)},
    "annotations": {"id": (int, str, type(None)), "image_id": ID, "category_id": ID},
    "categories": {"id": ID, "name": (str,)},
}
TYPE_NAMES = {int: "a whole number", str: "a string", type(None): "absent"}


@dataclass(frozen=True)
class CocoDataset:
    """Images, annotations and categories, each a list of dicts as in a COCO file.

    Attributes:
        images: with id, file_name, height and width.
        annotations: with id, image_id, category_id, bbox (x, y, width, height in pixels), area and
            iscrowd. Those of a file may lack any but image_id and category_id.
        categories: with id and name.
        image_root: the folder that file names are relative to.
        other: further keys of the COCO file, as ``info``.
    """

    images: list[dict]
    annotations: list[dict]
    categories: list[dict]
    image_root: str = ""
    other: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def read(cls, path: str | os.PathLike, image_root: str = "") -> CocoDataset:
        """Read a COCO file; one of test images may lack ``annotations``.

        Raises:
            ValueError: naming the file, and what is wrong with it.
        """
        try:
            content = json.loads(Path(path).read_bytes())
        except OSError as error:
            raise ValueError(f"{path} cannot be read: {error.strerror or error}.") from error
        except ValueError as error:
            raise ValueError(f"{path} is not JSON: {error}.") from error
        if not isinstance(content, dict):
            raise ValueError(f"{path} is not in COCO's format: it must be an object with 'images'.")
        content.setdefault("annotations", [])
        for name, keys in KEYS.items():
            if not isinstance(content.get(name), list):
                raise ValueError(f"{path} is not in COCO's format: it has no list '{name}'.")
            for index, item in enumerate(content[name]):
                _check_item(f"{path}: {name}[{index}]", item, keys)
        lists = {name: content.pop(name) for name in KEYS}
        return cls(**lists, image_root=image_root, other=content)

    @classmethod
    def from_objects(
        cls, images: Iterable[tuple[str, tuple | None, Iterable]], class_names: Sequence[str]
    ) -> CocoDataset:
        """Build a dataset whose images, objects and classes are numbered from 1.

        Args:
            images: for each its file, its size (width, height; None if it cannot be read), and its
                objects as (index of the class, box as x, y, width, height in pixels, iscrowd).
        """
        dataset = cls([], [], [{"id": i, "name": x} for i, x in enumerate(class_names, start=1)])
        for image_id, (file_name, size, objects) in enumerate(images, start=1):
            width, height = size or (0, 0)
            dataset.images.append(
                {"id": image_id, "file_name": file_name, "height": height, "width": width}
            )
            for index, bbox, iscrowd in objects:
                dataset.annotations.append(
                    {
                        "id": len(dataset.annotations) + 1,
                        "image_id": image_id,
                        "category_id": index + 1,
                        "bbox": list(bbox),
                        "area": bbox[2] * bbox[3],
                        "iscrowd": iscrowd,
                    }
                )
        return dataset

    @property
    def class_names(self) -> list[str]:
        """The names of the categories by id, which is Detectron2's order of the classes."""
        return [x["name"] for x in sorted(self.categories, key=lambda x: x["id"])]

    def write(self, path: str | os.PathLike) -> None:
        """Write a COCO file."""
        lists = {name: getattr(self, name) for name in KEYS}
        Path(path).write_text(json.dumps({**self.other, **lists}))

    def dataset_dicts(self, name: str) -> list[dict]:
        """Convert to Detectron2's dataset dicts, as its ``load_coco_json`` makes them of boxes.

        Images of size 0 cannot be read: they are left out with a warning.

        Args:
            name: of the dataset, for messages.

        Raises:
            ValueError: no image can be read.
        """
        indices = {x: i for i, x in enumerate(sorted(x["id"] for x in self.categories))}
        objects: dict[Any, list[dict]] = {image["id"]: [] for image in self.images}
        for x in self.annotations:
            kept = {"iscrowd": x["iscrowd"], "bbox": x["bbox"], "bbox_mode": BoxMode.XYWH_ABS}
            objects[x["image_id"]].append({**kept, "category_id": indices[x["category_id"]]})
        lost = [image for image in self.images if not image["width"]]
        if len(lost) == len(self.images):
            raise ValueError(
                f"none of its {len(lost)} images can be read, as '{lost[0]['file_name']}'."
            )
        logger = logging.getLogger("asff")
        if crowds := sum(x["iscrowd"] for x in self.annotations):
            logger.info(
                f"{name}: {crowds} of {len(self.annotations)} objects are marked as difficult: "
                "not trained on, ignored in evaluation."
            )
        if lost:
            shown = shorten([image["file_name"] for image in lost], 5)
            logger.warning(
                f"{name}: {len(lost)} of {len(self.images)} images cannot be read and are left "
                f"out, with {sum(len(objects[image['id']]) for image in lost)} objects: {shown}."
            )
        return [
            {
                "file_name": os.path.join(self.image_root, image["file_name"]),
                "height": image["height"],
                "width": image["width"],
                "image_id": image["id"],
                "annotations": objects[image["id"]],
            }
            for image in self.images
            if image["width"]
        ]


def load_dataset(name: str) -> CocoDataset:
    """Read the files of a registered dataset.

    Raises:
        ValueError: it has no files, or malformed ones.
    """
    metadata = MetadataCatalog.get(name)
    if (source := metadata.get("source")) is not None:
        return source.read()
    if (path := metadata.get("json_file")) is None:
        raise ValueError(
            f"The dataset '{name}' comes from Python code, not from files that can be checked: "
            "name one in COCO, VOC or YOLO format."
        )
    return CocoDataset.read(path, str(metadata.get("image_root", "")))


def _check_item(place: str, item: Any, keys: dict[str, tuple[type, ...]]) -> None:
    """Raise a ValueError where an item is no dict, or a key of it is of none of its types."""
    if not isinstance(item, dict):
        raise ValueError(f"{place} is {item!r}, but must be an object with {', '.join(keys)}.")
    for key, types in keys.items():
        if not isinstance(item.get(key), types):
            found = f"has '{key}' {item[key]!r}" if key in item else f"has no '{key}'"
            names = " or ".join(TYPE_NAMES[x] for x in types)
            raise ValueError(f"{place} {found}: it must be {names}.")
