from __future__ import annotations

import logging
import multiprocessing
import os
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from asff.data.image_cache import GIB, ImageCache
from tests.data.rectangles import noise

SIZES = [(4, 5), (7, 3), (1, 1), (6, 6)]
NAMES = [f"{i}.png" for i in range(len(SIZES))]
LENGTHS = [1 + 3 * height * width for height, width in SIZES]  # a mark, and the pixels
DICTS = [
    {"file_name": name, "height": height, "width": width}
    for name, (height, width) in zip(NAMES, SIZES)
]


class Files:
    """Reader that draws noise of the stated sizes instead of reading files; counts its calls."""

    def __init__(self, sizes: list[tuple[int, int]] = SIZES):
        self.sizes = dict(zip(NAMES, sizes))
        self.reads: Counter[str] = Counter()

    def __call__(self, path: str) -> np.ndarray:
        self.reads[path] += 1
        return self.pixels(path)

    def pixels(self, path: str) -> np.ndarray:
        return noise(*self.sizes[path], seed=NAMES.index(path))


@pytest.fixture(params=[False, True], ids=["memory", "disk"])
def on_disk(request) -> bool:
    return request.param


def build(files: Callable, on_disk: bool, limit: float = GIB, dicts=DICTS) -> ImageCache:
    return ImageCache(dicts, files, on_disk=on_disk, limit=limit)


def check_pixels(cache: ImageCache, files: Files, names: list[str]) -> None:
    """Read files from the cache; the caller may change the images."""
    for name in names:
        image = cache(name)
        assert image.dtype == np.uint8
        np.testing.assert_array_equal(image, files.pixels(name))
        image[:] = 0


def test_each_file_is_read_once_and_when_needed(on_disk):
    files = Files()
    cache = build(files, on_disk)
    assert not files.reads
    check_pixels(cache, files, [*NAMES, *NAMES[::-1], *NAMES])
    assert files.reads == dict.fromkeys(NAMES, 1)


def test_black_images_are_kept(on_disk):
    """They look like a part of the cache that is not yet filled."""
    images = iter([np.zeros((*SIZES[0], 3), np.uint8)])
    cache = build(lambda path: next(images), on_disk)
    assert not cache(NAMES[0]).any() and not cache(NAMES[0]).any()


def test_processes_share_the_cache(on_disk):
    """Two forked workers fill a half each; then nothing is read."""
    files = Files()
    cache = build(files, on_disk)

    context = multiprocessing.get_context("fork")
    for names in (NAMES[:2], NAMES[2:]):
        worker = context.Process(target=check_pixels, args=(cache, files, names))
        worker.start()
        worker.join(30)
        assert worker.exitcode == 0
    check_pixels(cache, files, NAMES)
    assert not files.reads


@pytest.mark.parametrize("kept", [[], [0], [0, 1], [0, 1, 2], [0, 2], [0, 1, 2, 3]])
def test_limit(on_disk, kept):
    """The first images for which there is room are kept, the others are read each time."""
    files = Files()
    cache = build(files, on_disk, limit=sum(LENGTHS[i] for i in kept))
    check_pixels(cache, files, NAMES * 2)
    assert [files.reads[name] for name in NAMES] == [2 - (i in kept) for i in range(4)]


def test_log(caplog, on_disk):
    """1000 x 1000 pixels of 3 bytes are 3,000,001 bytes: three are 0.0084 GiB, two 0.0056."""
    caplog.set_level(logging.INFO, "asff")
    dicts = [{"file_name": str(i), "height": 1000, "width": 1000} for i in range(3)]
    build(Files(), on_disk, limit=7e6, dicts=dicts)
    (message,) = caplog.messages
    assert ("on disk" if on_disk else "in memory") in message and "2 of 3 images" in message
    assert "0.01 of 0.01 GiB" in message and "DATALOADER.CACHE_LIMIT" in message


def test_files_of_several_dicts_are_stored_once(on_disk):
    files = Files()
    cache = build(files, on_disk, limit=sum(LENGTHS), dicts=[x for x in DICTS for _ in range(2)])
    check_pixels(cache, files, NAMES * 2)
    assert files.reads == dict.fromkeys(NAMES, 1)


def test_images_that_are_not_kept(on_disk):
    """The second is of another size than stated, the last is not of the dataset."""
    files = Files([(4, 5), (3, 7), (1, 1), (6, 6)])
    cache = build(files, on_disk, dicts=DICTS[:3])
    check_pixels(cache, files, NAMES * 2)
    assert [files.reads[name] for name in NAMES] == [1, 2, 1, 2]


def test_unreadable_file_is_tried_again(on_disk):
    files = Files([])
    cache = build(files, on_disk)
    with pytest.raises(KeyError):
        cache(NAMES[0])
    files.sizes[NAMES[0]] = SIZES[0]
    check_pixels(cache, files, NAMES[:1])


def test_the_file_is_in_tmpdir_and_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    files = Files()
    cache = build(files, on_disk=True)
    check_pixels(cache, files, NAMES * 2)
    assert os.listdir(tmp_path) == []
    assert str(tmp_path) in Path("/proc/self/maps").read_text()
