"""Datasets in the format of Pascal VOC, an XML file for each image, as labelImg writes it, too.

``Annotations``, ``JPEGImages`` and ``ImageSets/Main/SPLIT.txt`` below a root, or XML files beside
their images.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Collection, Sequence
from pathlib import Path
from xml.etree import ElementTree

from .content import Content
from .files import IMAGE_SUFFIXES, find_files, read_lines
from .image_sizes import read_image_sizes


def read_voc_classes(entry: dict) -> list[str]:
    """All names in all XML files, not only those of the split: splits must agree. Sorted.

    Raises:
        ValueError: a file is malformed, or there is no object at all.
    """
    names = {obj["name"] for path in xml_files(entry) for obj in read_xml(path)["objects"]}
    if not names:
        raise ValueError(
            f"the XML files in '{annotation_folder(entry)}' have no objects: state the names of "
            "the classes by the key 'classes'."
        )
    return sorted(names)


def read_voc(entry: dict) -> Content:
    """Read the dataset.

    Args:
        entry: of ``DATASETS.CUSTOM``, with absolute paths and ``classes``.

    Returns:
        The content of a COCO file. Objects marked as difficult are crowds: not trained on, ignored
        in evaluation. An image without a size in its XML file that cannot be read has the size 0.

    Raises:
        ValueError: naming the malformed file.
    """
    ids = {name: i for i, name in enumerate(entry["classes"], start=1)}
    paths = split_files(entry)
    parsed = [read_xml(path) for path in paths]
    finder = ImageFinder(entry)
    files = [finder.find(path, xml["filename"]) for path, xml in zip(paths, parsed)]
    if "split" not in entry and (unlabelled := finder.files.difference(map(Path, files))):
        logging.getLogger("asff").info(
            f"{finder.images}: {len(unlabelled)} images have no XML file and are left out."
        )
    check_names(paths, parsed, ids)
    unsized = [file for file, xml in zip(files, parsed) if not xml["size"]]
    sizes = dict(zip(unsized, read_image_sizes(unsized)))
    images, annotations = [], []
    for image_id, (xml, file) in enumerate(zip(parsed, files), start=1):
        width, height = xml["size"] or sizes[file] or (0, 0)
        images.append({"id": image_id, "file_name": file, "height": height, "width": width})
        for obj in xml["objects"]:
            x0, y0, x1, y1 = obj["corners"]  # the first and the last pixel, counted from 1
            width, height = x1 - x0 + 1, y1 - y0 + 1
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image_id,
                    "category_id": ids[obj["name"]],
                    "bbox": [x0 - 1, y0 - 1, width, height],
                    "area": width * height,
                    "iscrowd": obj["difficult"],
                }
            )
    categories = [{"id": i, "name": name} for name, i in ids.items()]
    return {"images": images, "annotations": annotations, "categories": categories}


def check_names(paths: Sequence[Path], parsed: Sequence[dict], known: Collection[str]) -> None:
    """Raise a ValueError where the name of an object is not a known class."""
    for path, xml in zip(paths, parsed):
        for obj in xml["objects"]:
            if obj["name"] not in known:
                raise ValueError(
                    f"{path}: the class '{obj['name']}' is not one of the dataset's classes "
                    f"({', '.join(known)}). Correct it, or add it to the key 'classes'."
                )


def annotation_folder(entry: dict) -> Path:
    """The key ``annotations`` below the root; else ``Annotations``; else the root itself."""
    return subfolder(entry, "annotations", "Annotations")


def image_folder(entry: dict) -> Path:
    """The key ``images`` below the root; else ``JPEGImages``; else the root itself."""
    return subfolder(entry, "images", "JPEGImages")


def subfolder(entry: dict, key: str, usual: str) -> Path:
    root = Path(entry["root"])
    folder = root / entry.get(key, usual)
    if folder.is_dir():
        return folder
    if key in entry:
        raise ValueError(f"{key} is '{entry[key]}', but there is no folder '{folder}'.")
    return root


def xml_files(entry: dict) -> list[Path]:
    """All XML files, sorted by path."""
    folder = annotation_folder(entry)
    files = find_files(folder, {".xml"})
    if not files:
        raise ValueError(f"there is no XML file in '{folder}'.")
    return files


def split_files(entry: dict) -> list[Path]:
    """The XML files of the split, in its order; without one, all."""
    if "split" not in entry:
        return xml_files(entry)
    folder = Path(entry["root"], "ImageSets", "Main")
    path = folder / f"{entry['split']}.txt"
    if not path.is_file():
        there = ", ".join(sorted(x.stem for x in folder.glob("*.txt"))) or "none"
        raise ValueError(
            f"split is '{entry['split']}', but there is no file '{path}'. Splits there: {there}. "
            "Without the key 'split' all XML files are used."
        )
    files, annotations = [], annotation_folder(entry)
    for number, stem in read_lines(path):
        files.append(annotations / f"{stem}.xml")
        if not files[-1].is_file():
            raise ValueError(
                f"{path}:{number}: '{stem}' has no file '{files[-1]}'. Each line names an XML "
                "file, without its suffix."
            )
    if not files:
        raise ValueError(f"{path} is empty: name an XML file, without its suffix, in each line.")
    return files


class ImageFinder:
    """Find the image of an XML file: the one that it names, else the one with its own name."""

    def __init__(self, entry: dict):
        self.images, self.annotations = image_folder(entry), annotation_folder(entry)
        files = find_files(self.images, IMAGE_SUFFIXES)
        self.files = set(files)
        self.by_stem = {file.with_suffix(""): file for file in files}

    def find(self, path: Path, filename: str) -> str:
        beside = self.images / path.relative_to(self.annotations)
        named = beside.with_name(Path(filename).name or f"{path.stem}.jpg")
        if named in self.files:
            return str(named)
        # A file that is not there keeps its name: the checks of the data tell it.
        return str(self.by_stem.get(beside.with_suffix(""), named))


def read_xml(path: Path) -> dict:
    """Read one file.

    Returns:
        ``filename`` (may be empty); ``size``, width and height, None where not stated; and
        ``objects``, each with ``name``, ``difficult`` (0 or 1) and ``corners``: xmin, ymin, xmax
        and ymax.
    """
    try:
        root = ElementTree.parse(path).getroot()
    except (ElementTree.ParseError, UnicodeDecodeError, LookupError) as error:
        raise ValueError(f"{path} is not valid XML: {error}.") from error
    if root.tag != "annotation":
        raise ValueError(f"{path}: the first tag is <{root.tag}>, but must be <annotation>.")
    return {
        "filename": root.findtext("filename", "").strip(),
        "size": read_size(root, path),
        "objects": [
            read_object(obj, f"{path}: object {i}")
            for i, obj in enumerate(root.findall("object"), start=1)
        ],
    }


def read_size(root: ElementTree.Element, path: Path) -> tuple[int, int] | None:
    texts = [root.findtext(f"size/{tag}", "").strip() or "0" for tag in ("width", "height")]
    try:
        width, height = map(int, texts)
    except ValueError as error:
        raise ValueError(
            f"{path}: <size> says {' x '.join(texts)}, but must hold whole numbers."
        ) from error
    return (width, height) if width > 0 and height > 0 else None


def read_object(obj: ElementTree.Element, where: str) -> dict:
    name = read_text(obj, "name", where)
    difficult = obj.findtext("difficult", "").strip() or "0"
    if difficult not in ("0", "1"):
        raise ValueError(f"{where} ('{name}'): <difficult> is '{difficult}', but must be 0 or 1.")
    corners = [
        read_number(obj, f"bndbox/{tag}", f"{where} ('{name}')")
        for tag in ("xmin", "ymin", "xmax", "ymax")
    ]
    x0, y0, x1, y1 = corners
    if x1 < x0 or y1 < y0:
        raise ValueError(
            f"{where} ('{name}'): xmin {x0:g}, ymin {y0:g}, xmax {x1:g}, ymax {y1:g} is not a "
            "box: a maximum lies below its minimum. Correct the file."
        )
    return {"name": name, "difficult": int(difficult), "corners": corners}


def read_text(node: ElementTree.Element, tag: str, where: str) -> str:
    text = node.findtext(tag, "").strip()
    if not text:
        raise ValueError(f"{where} has no <{tag.replace('/', '><')}>.")
    return text


def read_number(node: ElementTree.Element, tag: str, where: str) -> float:
    text = read_text(node, tag, where)
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise ValueError(f"{where}: <{tag.split('/')[-1]}> is '{text}', but must be a number.")
    return number
