"""Base of the formats of datasets, with what they share: finding files, reading lists, COCO."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from .coco_dataset import CocoDataset

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")


@dataclass(frozen=True)
class DatasetSource(ABC):
    """A dataset as an item of ``DATASETS.CUSTOM`` describes it. A format is a subclass.

    Class attributes:
        usage: the required keys, in words.
        required, optional: keys of its dataset config, besides name, format and classes.
        paths: those of them that are paths.

    Attributes:
        config: the dataset config; to read from it, its paths must be absolute.
    """

    config: dict

    usage: ClassVar[str]
    required: ClassVar[Collection[str]]
    optional: ClassVar[Collection[str]] = ()
    paths: ClassVar[Collection[str]]

    @abstractmethod
    def read_classes(self) -> list[str]:
        """Read the class names, in the order of their indices.

        Raises:
            ValueError: naming the malformed file.
        """

    @abstractmethod
    def read(self) -> CocoDataset:
        """Read the dataset; ``config`` has its ``classes``.

        Images that cannot be read have the size 0.

        Raises:
            ValueError: naming the malformed file.
        """

    def dataset_dicts(self) -> list[dict]:
        """Read Detectron2's dataset dicts.

        Raises:
            ValueError: naming the dataset, and what is wrong with its files.
        """
        name = self.config["name"]
        try:
            return self.read().dataset_dicts(name)
        except ValueError as error:
            raise ValueError(f"dataset '{name}': {error}") from error


class CocoSource(DatasetSource):
    """A COCO file and a folder of images. Detectron2 makes the dataset dicts, with any masks."""

    usage = "annotations and images"
    required = paths = ("annotations", "images")

    def read_classes(self) -> list[str]:
        path, images = self.config["annotations"], self.config["images"]
        if not os.path.isdir(images):
            raise ValueError(f"images is '{images}', which is not a folder.")
        names = self.read().class_names
        if self.config.get("classes", names) != names:
            raise ValueError(
                f"classes is {', '.join(self.config['classes'])}, but '{path}' has "
                f"{', '.join(names)}, by category id. Leave the key 'classes' out, or change the "
                "file."
            )
        return names

    def read(self) -> CocoDataset:
        return CocoDataset.read(self.config["annotations"], self.config["images"])


def find_files(folder: Path, suffixes: Collection[str]) -> list[Path]:
    """Find files in a folder and the folders in it, also through links, by suffix.

    Returns:
        Their paths, sorted.
    """
    return sorted(
        Path(parent, name)
        for parent, _, names in os.walk(folder, followlinks=True)
        for name in names
        if os.path.splitext(name)[1].lower() in suffixes and not name.startswith(".")
    )


def read_lines(path: Path) -> list[tuple[int, str]]:
    """Read the lines of a file that are not blank: number, from 1, and stripped line.

    Raises:
        ValueError: the file is missing, or is not text.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()  # editors may put a mark first
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} cannot be read as text: {error}.") from error
    return [(i, line.strip()) for i, line in enumerate(lines, start=1) if line.strip()]
