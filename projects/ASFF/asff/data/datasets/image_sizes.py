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
# Formats that OpenCV, which reads the images for training, rotates upright. It also rotates TIFF,
# whose size Pillow gives upright by itself, but not WebP.
ROTATED_FORMATS = ("JPEG", "MPO", "PNG")


def read_image_sizes(paths: Sequence[str]) -> list[tuple[int, int] | None]:
    """Read width and height of each image as it is trained on, upright; None where unreadable.

    Sizes are kept in a file below ``$XDG_CACHE_HOME`` (or ``~/.cache``) and read anew where a
    file's time or number of bytes has changed.

    Args:
        paths: absolute.
    """
    if not paths:
        return []
    cache_file = cache_path(paths)
    cache = load_cache(cache_file)
    with ThreadPoolExecutor() as pool:
        known = pool.map(lambda path: _read_size(path, cache.get(path)), paths)
        sizes = dict(zip(paths, tqdm(known, "Image sizes", len(paths), delay=2)))
    read = {path: value for path, value in sizes.items() if value is not None}
    if any(cache.get(path) != value for path, value in read.items()):
        _save_cache(cache_file, {**cache, **read})
    return [None if sizes[path] is None else tuple(sizes[path][2:]) for path in paths]


def _read_size(path: str, known: list[int] | None) -> list[int] | None:
    """Read time in ns, bytes, width and height of an image file; ``known`` if it still holds."""
    try:
        stat = os.stat(path)
        version = [stat.st_mtime_ns, stat.st_size]
        return known if known and known[:2] == version else [*version, *_upright_size(path)]
    except Exception:  # Pillow raises whatever its many parsers come across
        return None


def _upright_size(path: str) -> tuple[int, int]:
    """Read width and height as the EXIF orientation shows an image; pixels are not read."""
    with Image.open(path) as image:
        width, height = image.size
        # Not image.getexif(), which for PNG files looks behind the pixels, too.
        orientation = Image.Image.getexif(image).get(ORIENTATION)
        rotated = image.format in ROTATED_FORMATS and orientation in (5, 6, 7, 8)
    return (height, width) if rotated else (width, height)


def cache_path(paths: Sequence[str]) -> Path:
    """Return the cache file of images: one for each folder that holds a dataset's images."""
    folder = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    name = hashlib.sha256(os.path.commonpath(paths).encode()).hexdigest()[:16]
    return Path(folder, "asff", f"image_sizes_{name}.json")


def load_cache(path: Path) -> dict[str, list[int]]:
    """Read times and sizes by image path; none where the file is missing or damaged."""
    try:
        content = json.loads(path.read_text())
        return {key: [time, size, w, h] for key, (time, size, w, h) in content.items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}


def _save_cache(path: Path, cache: dict[str, list[int]]) -> None:
    """Write the file completely or not at all; a folder that cannot be written is no error."""
    partial = path.with_suffix(f".{os.getpid()}")  # other processes may write, too
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_text(json.dumps(cache))
        os.replace(partial, path)
    except OSError:
        with suppress(OSError):
            partial.unlink()
