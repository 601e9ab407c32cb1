"""Datasets in the format of Pascal VOC: an XML file for each image, as labelImg writes it, too."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from defusedxml import DefusedXmlException
from defusedxml import ElementTree as DefusedElementTree

from .coco_dataset import CocoDataset
from .image_sizes import read_image_sizes
from .source import IMAGE_SUFFIXES, DatasetSource, find_files, read_lines

if TYPE_CHECKING:
    from xml.etree.ElementTree import Element


class VocObject(NamedTuple):
    """An object: ``corners`` are xmin, ymin, xmax and ymax, ``difficult`` is 0 or 1."""

    name: str
    difficult: int
    corners: list[float]


class VocFile(NamedTuple):
    """An XML file: ``filename`` may be empty, ``size`` (width, height) None if not stated."""

    path: Path
    filename: str
    size: tuple[int, int] | None
    objects: list[VocObject]


class VocSource(DatasetSource):
    """``Annotations``, ``JPEGImages`` and ``ImageSets/Main/SPLIT.txt`` below a root, or XML files
    beside their images.

    Objects marked as difficult are crowds: not trained on, ignored in evaluation.
    """

    usage = "root"
    required = paths = ("root",)
    optional = ("split", "annotations", "images")  # the latter two below root

    def read_classes(self) -> list[str]:
        """Read the names in all XML files, not only those of the split: splits must agree."""
        names = {x.name for path in self._all_files() for x in _read_xml(path).objects}
        if not names:
            raise ValueError(
                f"the XML files in '{self._annotations}' have no objects: state the names of the "
                "classes by the key 'classes'."
            )
        return sorted(names)

    def read(self) -> CocoDataset:
        files = [_read_xml(path) for path in self._split_files()]
        known = find_files(self._images, IMAGE_SUFFIXES)
        by_stem = {image.with_suffix(""): image for image in known}
        images = [self._find_image(file, set(known), by_stem) for file in files]
        if "split" not in self.config and (unlabelled := set(known).difference(images)):
            logging.getLogger("asff").info(
                f"{self._images}: {len(unlabelled)} images have no XML file and are left out."
            )
        names = [str(image) for image in images]
        unsized = [name for name, file in zip(names, files) if not file.size]
        sizes = dict(zip(unsized, read_image_sizes(unsized)))
        return CocoDataset.from_objects(
            ((x, file.size or sizes[x], self._objects(file)) for x, file in zip(names, files)),
            self.config["classes"],
        )

    def _objects(self, file: VocFile) -> Iterator[tuple]:
        """Yield class index, box and difficulty of the objects of a file."""
        classes = self.config["classes"]
        for name, difficult, (x0, y0, x1, y1) in file.objects:
            if name not in classes:
                raise ValueError(
                    f"{file.path}: the class '{name}' is not one of the dataset's classes "
                    f"({', '.join(classes)}). Correct it, or add it to the key 'classes'."
                )
            # Corners are the first and the last pixel, counted from 1.
            yield classes.index(name), (x0 - 1, y0 - 1, x1 - x0 + 1, y1 - y0 + 1), difficult

    @cached_property
    def _annotations(self) -> Path:
        return self._folder("annotations", "Annotations")

    @cached_property
    def _images(self) -> Path:
        return self._folder("images", "JPEGImages")

    def _folder(self, key: str, usual: str) -> Path:
        """Return the folder that a key names below the root; else the usual one; else the root."""
        root = Path(self.config["root"])
        folder = root / self.config.get(key, usual)
        if folder.is_dir():
            return folder
        if key in self.config:
            raise ValueError(f"{key} is '{self.config[key]}', but there is no folder '{folder}'.")
        return root

    def _all_files(self) -> list[Path]:
        files = find_files(self._annotations, {".xml"})
        if not files:
            raise ValueError(f"there is no XML file in '{self._annotations}'.")
        return files

    def _split_files(self) -> list[Path]:
        """List the XML files of the split, in its order; without a split, all."""
        if "split" not in self.config:
            return self._all_files()
        folder = Path(self.config["root"], "ImageSets", "Main")
        path = folder / f"{self.config['split']}.txt"
        if not path.is_file():
            there = ", ".join(sorted(x.stem for x in folder.glob("*.txt"))) or "none"
            raise ValueError(
                f"split is '{self.config['split']}', but there is no file '{path}'. Splits there: "
                f"{there}. Without the key 'split' all XML files are used."
            )
        files = []
        for number, stem in read_lines(path):
            files.append(self._annotations / f"{stem}.xml")
            if not files[-1].is_file():
                raise ValueError(
                    f"{path}:{number}: '{stem}' has no file '{files[-1]}'. Each line names an XML "
                    "file, without its suffix."
                )
        if not files:
            raise ValueError(
                f"{path} is empty: name an XML file, without its suffix, in each line."
            )
        return files

    def _find_image(self, file: VocFile, known: set[Path], by_stem: dict[Path, Path]) -> Path:
        """Find the image that an XML file names, else the one with the name of the XML file."""
        beside = self._images / file.path.relative_to(self._annotations)
        named = beside.with_name(Path(file.filename).name or f"{file.path.stem}.jpg")
        # A file that does not exist keeps its name, for the check of the data to report it.
        return named if named in known else by_stem.get(beside.with_suffix(""), named)


def _read_xml(path: Path) -> VocFile:
    try:
        root = DefusedElementTree.parse(path).getroot()
    except DefusedXmlException as error:
        raise ValueError(
            f"{path} declares XML entities, which are not read, as they can fill the memory or "
            "name other files: remove its <!DOCTYPE>."
        ) from error
    except (DefusedElementTree.ParseError, UnicodeDecodeError, LookupError) as error:
        raise ValueError(f"{path} is not valid XML: {error}.") from error
    if root.tag != "annotation":
        raise ValueError(f"{path}: the first tag is <{root.tag}>, but must be <annotation>.")
    objects = [
        _read_object(node, f"{path}: object {i}")
        for i, node in enumerate(root.findall("object"), start=1)
    ]
    return VocFile(path, root.findtext("filename", "").strip(), _read_size(root, path), objects)


def _read_size(root: Element, path: Path) -> tuple[int, int] | None:
    sides = [root.findtext(f"size/{tag}", "").strip() or "0" for tag in ("width", "height")]
    try:
        width, height = map(int, sides)
    except ValueError as error:
        raise ValueError(
            f"{path}: <size> is {' x '.join(sides)}, but must hold whole numbers."
        ) from error
    return (width, height) if width > 0 and height > 0 else None


def _read_object(node: Element, where: str) -> VocObject:
    name = _read_string(node, "name", where)
    where = f"{where} ('{name}')"
    difficult = node.findtext("difficult", "").strip() or "0"
    if difficult not in ("0", "1"):
        raise ValueError(f"{where}: <difficult> is '{difficult}', but must be 0 or 1.")
    corners = [_read_number(node, f"bndbox/{x}", where) for x in ("xmin", "ymin", "xmax", "ymax")]
    x0, y0, x1, y1 = corners
    if x1 < x0 or y1 < y0:
        raise ValueError(
            f"{where}: xmin {x0:g}, ymin {y0:g}, xmax {x1:g}, ymax {y1:g} is not a box: a maximum "
            "lies below its minimum. Correct the file."
        )
    return VocObject(name, int(difficult), corners)


def _read_string(node: Element, tag: str, where: str) -> str:
    value = node.findtext(tag, "").strip()
    if not value:
        raise ValueError(f"{where} has no <{tag.replace('/', '><')}>.")
    return value


def _read_number(node: Element, tag: str, where: str) -> float:
    value = _read_string(node, tag, where)
    try:
        number = float(value)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise ValueError(f"{where}: <{tag.split('/')[-1]}> is '{value}', but must be a number.")
    return number
