"""The formats of datasets that a config can describe, and the keys of their entries."""

from __future__ import annotations

import difflib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from .content import Content, read_content
from .voc import read_voc, read_voc_classes
from .yolo import read_yolo, read_yolo_classes


@dataclass(frozen=True)
class Format:
    """How datasets of a format are described and read.

    Attributes:
        usage: the required keys, in words.
        required, optional: keys of an entry, besides name, format and classes.
        paths: those of them that are paths.
        read_classes: of an entry with absolute paths; None where the data has no class names.
        read_content: of an entry with absolute paths and classes; None where Detectron2 reads.
    """

    usage: str
    required: tuple[str, ...]
    optional: tuple[str, ...] = ()
    paths: tuple[str, ...] = ()
    read_classes: Callable[[dict], list[str]] | None = None
    read_content: Callable[[dict], Content] | None = None


def read_coco_classes(entry: dict) -> list[str]:
    """Class names of a COCO file in the order of their ids, as Detectron2 counts them.

    Raises:
        ValueError: the file is malformed, the entry states other classes, or its image folder is
            none.
    """
    path = entry["annotations"]
    if not os.path.isdir(entry["images"]):
        raise ValueError(f"images is '{entry['images']}', which is no folder.")
    categories = read_content(path)["categories"]
    names = [category["name"] for category in sorted(categories, key=lambda x: x["id"])]
    if entry.get("classes", names) != names:
        raise ValueError(
            f"classes is {', '.join(entry['classes'])}, but '{path}' has {', '.join(names)}, by "
            "category id. Leave the key 'classes' out, or change the file."
        )
    return names


FORMATS = {
    "coco": Format(
        usage="annotations and images",
        required=("annotations", "images"),
        paths=("annotations", "images"),
        read_classes=read_coco_classes,
    ),
    "voc": Format(
        usage="root",
        required=("root",),
        optional=("split", "annotations", "images"),  # the latter two below root
        paths=("root",),
        read_classes=read_voc_classes,
        read_content=read_voc,
    ),
    "yolo": Format(
        usage="data and split, or images and classes",
        required=("data", "split"),
        paths=("data",),
        read_classes=read_yolo_classes,
        read_content=read_yolo,
    ),
}
# A YOLO dataset without a data.yaml.
YOLO_WITHOUT_DATA = Format(
    usage=FORMATS["yolo"].usage,
    required=("images", "classes"),
    optional=("labels",),
    paths=("images", "labels"),
    read_content=read_yolo,
)


def format_of(entry: dict) -> Format:
    """The format of an entry of ``DATASETS.CUSTOM``."""
    if entry["format"] == "yolo" and "images" in entry and "data" not in entry:
        return YOLO_WITHOUT_DATA
    return FORMATS[entry["format"]]


@contextmanager
def naming(index: int, entry: object) -> Iterator[None]:
    """Put an entry's place and name in front of the messages of ValueErrors."""
    try:
        yield
    except ValueError as error:
        name = f" ('{entry['name']}')" if isinstance(entry, dict) and "name" in entry else ""
        raise ValueError(f"DATASETS.CUSTOM[{index}]{name}: {error}") from error


def check_entries(entries: object) -> None:
    """Check ``DATASETS.CUSTOM``, but not yet the files that it names.

    Raises:
        ValueError: naming the entry, the key, its value, and the fix.
    """
    if not isinstance(entries, list):
        raise ValueError(
            f"DATASETS.CUSTOM is {entries!r}, but must be a list of datasets, each with name, "
            "format and paths."
        )
    names = []
    for i, entry in enumerate(entries):
        with naming(i, entry):
            check_entry(entry)
            if entry["name"] in names:
                raise ValueError(f"DATASETS.CUSTOM[{names.index(entry['name'])}] has this name.")
        names.append(entry["name"])


def check_entry(entry: object) -> None:
    if not isinstance(entry, dict):
        raise ValueError(f"{entry!r} is no dataset, which has name, format and paths.")
    for key in ("name", "format"):
        if key not in entry:
            raise ValueError(f"the key '{key}' is missing.")
        check_text(entry, key)
    if entry["format"] not in FORMATS:
        raise ValueError(
            f"format is '{entry['format']}', which is not known. Choose one of: "
            f"{', '.join(FORMATS)}."
        )
    check_keys(entry, format_of(entry))
    for key in entry:
        if key != "classes":
            check_text(entry, key)
    if isinstance(entry.get("classes", ""), str):
        return  # a file that lists them
    check_classes(entry["classes"])


def check_keys(entry: dict, kind: Format) -> None:
    known = list(dict.fromkeys(["name", "format", *kind.required, *kind.optional, "classes"]))
    for key in entry:
        if key not in known:
            similar = difflib.get_close_matches(str(key), known, n=1)
            hint = f" Did you mean {similar[0]}?" if similar else ""
            raise ValueError(f"there is no key '{key}' here.{hint} Keys: {', '.join(known)}.")
    for key in kind.required:
        if key not in entry:
            raise ValueError(
                f"the key '{key}' is missing: a dataset of format {entry['format']} has "
                f"{kind.usage}."
            )


def check_text(entry: dict, key: str) -> None:
    value = entry[key]
    if not isinstance(value, str) or not value:
        raise ValueError(f"{key} is {value!r}, but must be a text. Put it in quotes.")


def check_classes(classes: object) -> None:
    """Raise a ValueError where class names are not a list of different texts."""
    if not isinstance(classes, list) or not classes:
        raise ValueError(f"{classes!r} is no list of class names.")
    for i, name in enumerate(classes):
        if not isinstance(name, str) or not name:
            raise ValueError(f"the class name {name!r} is no text. Put it in quotes.")
        if name in classes[:i]:
            raise ValueError(f"the class name '{name}' is there twice.")
