"""Sizes of image files from their headers, read in parallel and remembered between runs."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

from PIL import Image
from tqdm import tqdm

ORIENTATION = 0x0112  # an EXIF tag; 5 to 8 lie on their side
# Those that OpenCV, which reads the images for training, turns upright. It also turns TIFF, whose
# size Pillow gives upright by itself, but not WebP.
TURNED_FORMATS = ("JPEG", "MPO", "PNG")


def read_image_sizes(paths: Sequence[str]) -> list[tuple[int, int] | None]:
    """Width and height of each image as it is trained on, upright; None where it is unreadable.

    Sizes are kept in a file below ``$XDG_CACHE_HOME`` (or ``~/.cache``) and read anew where a
    file's time or number of bytes has changed.

    Args:
        paths: absolute.
    """
    if not paths:
        return []
    cache_file = cache_path(paths)
    cache = load_cache(cache_file)
    # A progress bar, where it takes a while.
    with ThreadPoolExecutor() as pool, tqdm(total=len(paths), desc="Image sizes", delay=2) as bar:
        entries = []
        for entry in pool.map(lambda path: size_entry(path, cache.get(path)), paths):
            entries.append(entry)
            bar.update()
    new = {path: entry for path, entry in zip(paths, entries) if entry is not None}
    if any(cache.get(path) != entry for path, entry in new.items()):
        save_cache(cache_file, {**cache, **new})
    return [None if entry is None else (entry[2], entry[3]) for entry in entries]


def size_entry(path: str, known: list[int] | None) -> list[int] | None:
    """Time in ns, bytes, width and height of an image file; ``known`` if it still holds."""
    try:
        stat = os.stat(path)
        version = [stat.st_mtime_ns, stat.st_size]
        return known if known and known[:2] == version else [*version, *upright_size(path)]
    except Exception:  # Pillow raises whatever its many parsers come across
        return None


def upright_size(path: str) -> tuple[int, int]:
    """Width and height of an image as its EXIF orientation shows it; its pixels are not read."""
    with Image.open(path) as image:
        width, height = image.size
        # Not image.getexif(), which for PNG files looks behind the pixels, too.
        orientation = Image.Image.getexif(image).get(ORIENTATION)
        turned = image.format in TURNED_FORMATS and orientation in (5, 6, 7, 8)
    return (height, width) if turned else (width, height)


def cache_path(paths: Sequence[str]) -> Path:
    """The cache file of images: one for each folder that holds a dataset's images."""
    folder = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    name = hashlib.sha256(os.path.commonpath(paths).encode()).hexdigest()[:16]
    return Path(folder, "asff", f"image_sizes_{name}.json")


def load_cache(path: Path) -> dict[str, list[int]]:
    """Entries by image path; none where the file is missing or damaged."""
    try:
        content = json.loads(path.read_text())
        return {key: [time, size, w, h] for key, (time, size, w, h) in content.items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}


def save_cache(path: Path, cache: dict[str, list[int]]) -> None:
    """Write the file whole or not at all; a folder that cannot be written is no error."""
    partial = path.with_suffix(f".{os.getpid()}")  # other processes may be at it, too
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_text(json.dumps(cache))
        os.replace(partial, path)
    except OSError:
        with suppress(OSError):
            partial.unlink()
