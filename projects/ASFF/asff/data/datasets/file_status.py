"""Which image files of a dataset are there, can be read, and how large they are."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

from tqdm import tqdm

from . import Content
from ..image_io import UnreadableImage, read_image


class FileStatus(NamedTuple):
    """What is known of an image file.

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


def examine_files(content: Content, image_root: str, *, opened: bool) -> dict[str, FileStatus]:
    """Look for the files of all images and open them, in parallel.

    Args:
        image_root: folder that the ``file_name`` of an image is relative to.
        opened: False only looks whether they are there.

    Returns:
        By ``file_name``.
    """
    names = list(dict.fromkeys(image["file_name"] for image in content["images"]))
    paths = [os.path.normpath(os.path.join(image_root, name)) for name in names]
    missing = missing_files(paths)
    present = [path for path in dict.fromkeys(paths) if path not in missing]
    if opened:
        with ThreadPoolExecutor() as pool:
            examined = pool.map(examine_file, present)
            statuses = list(tqdm(examined, "opening images", len(present), disable=None))
    else:
        statuses = [FileStatus(path) for path in present]
    statuses += [FileStatus(path, missing=True) for path in missing]
    by_path = {status.path: status for status in statuses}
    return {name: by_path[path] for name, path in zip(names, paths)}


def examine_file(path: str) -> FileStatus:
    """Open an image."""
    try:
        height, width = read_image(path).shape[:2]
    except UnreadableImage as error:
        return FileStatus(path, damage=str(error).removeprefix(f"{path}: "))
    return FileStatus(path, size=(width, height))


def missing_files(paths: Iterable[str]) -> set[str]:
    """Those of the paths where there is no file.

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


def shared_files(first: dict[str, FileStatus], second: dict[str, FileStatus]) -> list[str]:
    """Paths of the files that are in both datasets, links followed; sorted."""
    paths = [{os.path.realpath(file.path) for file in files.values()} for files in (first, second)]
    return sorted(paths[0] & paths[1])
