"""The image cache: the same pixels, each file read once, for all workers."""

from __future__ import annotations

import logging
import multiprocessing
import os
import re
import tempfile
from collections import Counter

import numpy as np
import pytest

from asff.data.image_cache import GIB, ImageCache

SIZES = [(4, 5), (7, 3), (1, 1), (6, 6)]
NAMES = [f"{i}.png" for i in range(len(SIZES))]
LENGTHS = [1 + 3 * height * width for height, width in SIZES]  # a mark, and the pixels
DICTS = [
    {"file_name": name, "height": height, "width": width}
    for name, (height, width) in zip(NAMES, SIZES)
]


class Files:
    """In place of files: noise of the stated sizes; counts reads."""

    def __init__(self, sizes: dict[str, tuple[int, int]] | None = None):
        self.sizes = sizes or dict(zip(NAMES, SIZES))
        self.reads: Counter[str] = Counter()

    def __call__(self, path: str) -> np.ndarray:
        self.reads[path] += 1
        return self.pixels(path)

    def pixels(self, path: str) -> np.ndarray:
        rng = np.random.default_rng(NAMES.index(path))
        return rng.integers(0, 256, (*self.sizes[path], 3)).astype(np.uint8)


@pytest.fixture(params=[False, True], ids=["memory", "disk"])
def on_disk(request) -> bool:
    return request.param


def build(files: Files, on_disk: bool, limit: float = GIB, dicts=DICTS) -> ImageCache:
    return ImageCache(dicts, files, on_disk=on_disk, limit=limit)


def test_same_pixels_as_without(on_disk):
    files = Files()
    cache = build(files, on_disk)
    for name in [*NAMES, *NAMES[::-1], *NAMES]:
        image = cache(name)
        assert image.dtype == np.uint8
        np.testing.assert_array_equal(image, files.pixels(name))


def test_each_file_is_read_once(on_disk):
    files = Files()
    cache = build(files, on_disk)
    for name in NAMES * 3:
        cache(name)
    assert files.reads == dict.fromkeys(NAMES, 1)


def test_nothing_is_read_beforehand(on_disk):
    files = Files()
    build(files, on_disk)
    assert not files.reads


def test_images_may_be_changed(on_disk):
    """The first, which was read, as well as those from the cache."""
    files = Files()
    cache = build(files, on_disk)
    for _ in range(3):
        image = cache(NAMES[0])
        np.testing.assert_array_equal(image, files.pixels(NAMES[0]))
        image[:] = 0


def test_black_images_are_kept_too(on_disk):
    """They look like a part of the cache that is not yet filled."""
    reads = []

    def read(path: str) -> np.ndarray:
        reads.append(path)
        return np.zeros((4, 5, 3), np.uint8)

    cache = ImageCache(DICTS[:1], read, on_disk=on_disk, limit=GIB)
    assert not cache(NAMES[0]).any() and not cache(NAMES[0]).any()
    assert len(reads) == 1


def test_what_one_process_fills_in_all_find(on_disk):
    """Two forked workers fill in half of it each; then nobody reads."""
    files = Files()
    cache = build(files, on_disk)

    def fill(names: list[str]) -> None:
        for name in names:
            cache(name)

    context = multiprocessing.get_context("fork")
    for names in (NAMES[:2], NAMES[2:]):
        worker = context.Process(target=fill, args=(names,))
        worker.start()
        worker.join(30)
        assert worker.exitcode == 0
    for name in NAMES:
        np.testing.assert_array_equal(cache(name), files.pixels(name))
    assert not files.reads


@pytest.mark.parametrize("count", [0, 1, 2, 3, 4])
def test_limit(on_disk, caplog, count):
    """Room for the first images alone: the others are read each time, and right."""
    caplog.set_level(logging.INFO, "asff")
    files = Files()
    cache = build(files, on_disk, limit=sum(LENGTHS[:count]))
    for name in NAMES * 2:
        np.testing.assert_array_equal(cache(name), files.pixels(name))
    # A later one that is small enough has room left by none of the earlier ones.
    assert [files.reads[name] for name in NAMES] == [1] * count + [2] * (4 - count)
    assert f"room for {count} of 4 images" in caplog.text


def test_smaller_images_fill_the_rest_of_the_room(on_disk):
    """Room for the first and the third, which has one pixel, but not for the second."""
    files = Files()
    cache = build(files, on_disk, limit=LENGTHS[0] + LENGTHS[2])
    for name in NAMES * 2:
        cache(name)
    assert [files.reads[name] for name in NAMES] == [1, 2, 1, 2]


def test_what_the_log_says(caplog, on_disk):
    """1000 x 1000 pixels of 3 bytes are 3,000,001 bytes: three are 0.0084 GiB, two 0.0056."""
    caplog.set_level(logging.INFO, "asff")
    dicts = [{"file_name": str(i), "height": 1000, "width": 1000} for i in range(3)]
    build(Files(), on_disk, limit=7e6, dicts=dicts)
    (message,) = caplog.messages
    assert ("on disk" if on_disk else "in memory") in message and "2 of 3 images" in message
    assert "0.01 of 0.01 GiB" in message and "DATALOADER.CACHE_LIMIT" in message


def test_a_file_of_several_dicts_has_one_place(on_disk, caplog):
    """Datasets may share images."""
    caplog.set_level(logging.INFO, "asff")
    files = Files()
    twice = [x for x in DICTS for _ in range(2)]
    cache = build(files, on_disk, limit=sum(LENGTHS), dicts=twice)
    assert "room for 4 of 4 images" in caplog.text
    for name in NAMES * 2:
        cache(name)
    assert files.reads == dict.fromkeys(NAMES, 1)


def test_image_of_another_size_than_stated(on_disk):
    """It would not fit its place; whoever asked finds out. The others stay as they are."""
    files = Files(dict(zip(NAMES, [(4, 5), (3, 7), (9, 9), (6, 6)])))
    cache = build(files, on_disk)
    for name in NAMES * 2:
        np.testing.assert_array_equal(cache(name), files.pixels(name))
    assert [files.reads[name] for name in NAMES] == [1, 2, 2, 1]


def test_file_that_is_not_of_the_dataset(on_disk):
    """As a partner of another dataset would be: read, and not kept."""
    files = Files()
    cache = build(files, on_disk, dicts=DICTS[:1])
    for _ in range(2):
        np.testing.assert_array_equal(cache(NAMES[3]), files.pixels(NAMES[3]))
    assert files.reads[NAMES[3]] == 2


def test_unreadable_file_is_tried_again(on_disk):
    """Nothing of it is kept."""
    files = Files()

    def read(path: str) -> np.ndarray:
        if not files.reads[path]:
            files.reads[path] += 1
            raise OSError("not now")
        return files(path)

    cache = ImageCache(DICTS, read, on_disk=on_disk, limit=GIB)
    with pytest.raises(OSError, match="not now"):
        cache(NAMES[0])
    np.testing.assert_array_equal(cache(NAMES[0]), files.pixels(NAMES[0]))


def test_no_images(on_disk):
    build(Files(), on_disk, dicts=[])


def test_the_file_is_in_tmpdir_and_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    files = Files()
    cache = build(files, on_disk=True)
    for name in NAMES * 2:
        np.testing.assert_array_equal(cache(name), files.pixels(name))
    assert os.listdir(tmp_path) == []
    with open("/proc/self/maps") as maps:
        assert re.search(re.escape(str(tmp_path)), maps.read())


def test_disk_that_is_not_there(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "none"))
    with pytest.raises(FileNotFoundError):
        build(Files(), on_disk=True)
