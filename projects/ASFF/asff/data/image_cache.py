"""Cache of decoded images that all workers of a process share."""

from __future__ import annotations

import logging
import mmap
import tempfile
from collections.abc import Callable, Sequence

import numpy as np

GIB = 2**30


class ImageCache:
    """Read each image once, then copy it from memory or from a temporary file.

    Worker processes must be forked after the cache is built: they inherit the mapped memory, so an
    image that one of them stores is there for all.

    Args:
        dataset_dicts: with ``file_name``, ``height`` and ``width``.
        read: reads a file to (H, W, 3), uint8.
        on_disk: keep the pixels in a file in $TMPDIR, which is removed with the process, instead of
            in memory.
        limit: largest size in bytes. Images beyond it are read again each time.
    """

    def __init__(
        self,
        dataset_dicts: Sequence[dict],
        read: Callable[[str], np.ndarray],
        *,
        on_disk: bool,
        limit: float,
    ):
        self.read = read
        self.shapes: dict[str, tuple[int, int, int]] = {}
        self.offsets: dict[str, int] = {}  # of a byte that is 1 once the pixels behind it are there
        size = needed = 0
        for dataset_dict in dataset_dicts:
            path = dataset_dict["file_name"]
            if path in self.shapes:
                continue
            self.shapes[path] = (dataset_dict["height"], dataset_dict["width"], 3)
            length = 1 + int(np.prod(self.shapes[path]))
            needed += length
            if size + length <= limit:
                self.offsets[path] = size
                size += length
        if on_disk:
            with tempfile.TemporaryFile(prefix="asff_images_") as file:
                file.truncate(max(size, 1))
                self.memory = mmap.mmap(file.fileno(), max(size, 1))
        else:
            self.memory = mmap.mmap(-1, max(size, 1))
        logging.getLogger("asff").info(
            f"Image cache {'on disk' if on_disk else 'in memory'}: room for {len(self.offsets)} of "
            f"{len(self.shapes)} images, {size / GIB:.2f} of {needed / GIB:.2f} GiB (limit of this "
            f"process: {limit / GIB:.2f}, by DATALOADER.CACHE_LIMIT or free space)."
        )

    def __call__(self, path: str) -> np.ndarray:
        """Return the image of a file; the caller may change it."""
        offset, shape = self.offsets.get(path), self.shapes.get(path)
        if offset is None:
            return self.read(path)
        stored = np.ndarray(shape, np.uint8, self.memory, offset + 1)
        if self.memory[offset]:
            return stored.copy()
        image = self.read(path)
        if image.shape == shape:
            stored[:] = image
            self.memory[offset] = 1  # last, since other processes may look at any time
        return image
