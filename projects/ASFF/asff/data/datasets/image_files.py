"""The image files of a dataset: which exist, which can be read, and how large they are."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

from tqdm import tqdm

from ..image_io import UnreadableImage, read_image
from .coco_dataset import CocoDataset


class ImageFile(NamedTuple):
    """Status of an image file.

    Attributes:
        path: of the file.
        missing: whether there is none.
        damage: why it cannot be read; empty where it can, or was not opened.
        size: width and height in pixels of the upright image; None where it was not opened.
    """

    path: str
    missing: bool = False
    damage: str = ""
    size: tuple[int, int] | None = None


def examine_files(dataset: CocoDataset, *, opened: bool) -> dict[str, ImageFile]:
    """Look for the files of all images and open them, in parallel.

    Args:
        opened: whether to open them, rather than only look whether they exist.

    Returns:
        Their status by ``file_name``.
    """
    names = list(dict.fromkeys(image["file_name"] for image in dataset.images))
    paths = [os.path.normpath(os.path.join(dataset.image_root, name)) for name in names]
    missing = missing_files(paths)
    present = [path for path in dict.fromkeys(paths) if path not in missing]
    if opened:
        with ThreadPoolExecutor() as pool:
            examined = pool.map(_open, present)
            files = list(tqdm(examined, "opening images", len(present), disable=None))
    else:
        files = [ImageFile(path) for path in present]
    files += [ImageFile(path, missing=True) for path in missing]
    by_path = {file.path: file for file in files}
    return {name: by_path[path] for name, path in zip(names, paths)}


def _open(path: str) -> ImageFile:
    try:
        height, width = read_image(path).shape[:2]
    except UnreadableImage as error:
        return ImageFile(path, damage=str(error).removeprefix(f"{path}: "))
    return ImageFile(path, size=(width, height))


def missing_files(paths: Iterable[str]) -> set[str]:
    """Find the paths where there is no file.

    Every folder is read once: to ask file by file takes minutes on a network drive.
    """
    folders = defaultdict(dict)
    for path in paths:
        folder, name = os.path.split(os.path.normpath(path))
        folders[folder].setdefault(name, []).append(path)
    missing = set()
    for folder, expected in folders.items():
        try:
            with os.scandir(folder or os.curdir) as entries:
                absent = expected.keys() - {entry.name for entry in entries}
        except OSError:
            absent = expected.keys()
        missing.update(path for name in absent for path in expected[name])
    return missing


def shared_files(first: dict[str, ImageFile], second: dict[str, ImageFile]) -> list[str]:
    """List the paths of the files that are in both datasets, links followed; sorted."""
    paths = [{os.path.realpath(file.path) for file in files.values()} for files in (first, second)]
    return sorted(paths[0] & paths[1])
