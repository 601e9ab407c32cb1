"""Decoded images, kept where all workers of a process share them."""

from __future__ import annotations

import logging
import mmap
import tempfile
from collections.abc import Callable, Sequence

import numpy as np

GIB = 2**30


class ImageCache:
    """Reads each image once, then copies it from memory or from a temporary file.

    Worker processes must be forked after it is made: they inherit the mapped memory, and what one
    of them fills in all of them find.

    Args:
        records: dataset dicts with ``file_name``, ``height`` and ``width``.
        read: reads a file to (H, W, 3), uint8.
        on_disk: keep pixels in a file in $TMPDIR, which vanishes with the process, not in memory.
        limit: of the size in bytes. Images beyond it are read anew each time.
    """

    def __init__(
        self,
        records: Sequence[dict],
        read: Callable[[str], np.ndarray],
        *,
        on_disk: bool,
        limit: float,
    ):
        self.read = read
        self.shapes: dict[str, tuple[int, int, int]] = {}
        self.places: dict[str, int] = {}  # of an image's mark, which its pixels follow
        size = needed = 0
        for record in records:
            path, shape = record["file_name"], (record["height"], record["width"], 3)
            if path in self.shapes:
                continue
            self.shapes[path] = shape
            length = 1 + int(np.prod(shape))
            needed += length
            if size + length <= limit:
                self.places[path] = size
                size += length
        if on_disk:
            with tempfile.TemporaryFile(prefix="asff_images_") as file:
                file.truncate(max(size, 1))
                self.memory = mmap.mmap(file.fileno(), max(size, 1))
        else:
            self.memory = mmap.mmap(-1, max(size, 1))
        logging.getLogger("asff").info(
            f"Image cache {'on disk' if on_disk else 'in memory'}: room for {len(self.places)} of "
            f"{len(self.shapes)} images, {size / GIB:.2f} of the {needed / GIB:.2f} GiB that all "
            f"need (limit of this process: {limit / GIB:.2f}, by DATALOADER.CACHE_LIMIT or free "
            "space)."
        )

    def __call__(self, path: str) -> np.ndarray:
        """The image of a file, to be changed at will."""
        place, shape = self.places.get(path), self.shapes.get(path)
        if place is None:
            return self.read(path)
        if not self.memory[place]:
            image = self.read(path)
            if image.shape != shape:
                return image
            self.pixels(place, shape)[:] = image
            self.memory[place] = 1  # last, for others may look at any time
            return image
        return self.pixels(place, shape).copy()

    def pixels(self, place: int, shape: tuple[int, int, int]) -> np.ndarray:
        count = int(np.prod(shape))
        return np.frombuffer(self.memory, np.uint8, count, offset=place + 1).reshape(shape)
