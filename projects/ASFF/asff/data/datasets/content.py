"""The content of a dataset of any format: the dict of a COCO file, as it was written.

Detectron2's own loaders stop at, or pass over, what a check has to report.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from detectron2.data import MetadataCatalog

# Lists ``images`` (id, file_name, height, width), ``annotations`` (id, image_id, category_id, bbox,
# area, iscrowd) and ``categories`` (id, name). Boxes are x, y, w, h in pixels.
Content = dict[str, Any]

ID = (int, str)
# What an entry must have to be told apart from others. An annotation's own id can be given later.
KEYS = {
    "images": {"id": ID, "file_name": (str,)},
    "annotations": {"id": (int, str, type(None)), "image_id": ID, "category_id": ID},
    "categories": {"id": ID, "name": (str,)},
}
WORDS = {int: "a whole number", str: "a text", type(None): "absent"}


def load_content(name: str) -> tuple[Content, str]:
    """Content and image folder of a registered dataset; ``file_name`` is relative to the folder.

    Raises:
        ValueError: it has no files, or some that are no dataset.
    """
    metadata = MetadataCatalog.get(name)
    image_root = str(metadata.get("image_root", ""))
    load = metadata.get("load_content")
    if load is not None:
        return load(), image_root
    path = metadata.get("json_file")
    if path is None:
        raise ValueError(
            f"The dataset '{name}' comes from Python code, not from files that can be checked: "
            "name one in COCO, VOC or YOLO format."
        )
    return read_content(path), image_root


def read_content(path: str) -> Content:
    """Read a COCO file. One of test images may lack ``annotations``: the list is empty then.

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
        for index, entry in enumerate(content[name]):
            check_entry(f"{path}: {name}[{index}]", entry, keys)
    return content


def check_entry(place: str, entry: Any, keys: dict[str, tuple[type, ...]]) -> None:
    """Raise a ValueError where an entry is no dict, or a key of it is of none of its types."""
    if not isinstance(entry, dict):
        raise ValueError(f"{place} is {entry!r}, but must be an object with {', '.join(keys)}.")
    for key, types in keys.items():
        if not isinstance(entry.get(key), types):
            found = f"has '{key}' {entry[key]!r}" if key in entry else f"has no '{key}'"
            raise ValueError(f"{place} {found}: it must be {' or '.join(map(WORDS.get, types))}.")
