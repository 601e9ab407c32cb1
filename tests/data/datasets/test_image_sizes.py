from __future__ import annotations

import os

import pytest
from PIL import Image

from asff.data.datasets.image_sizes import cache_path, load_cache, read_image_sizes
from asff.data.image_io import read_image
from tests.data.rectangles import noise


@pytest.fixture(autouse=True)
def cache_folder(tmp_path, monkeypatch):
    folder = tmp_path / "cache"
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder))
    return folder


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "images").mkdir()
    return tmp_path / "images"


def write(path, width, height, orientation=None):
    """A noisy image, so that the bytes of a file depend on its size."""
    options = {}
    if orientation:
        exif = Image.Exif()
        exif[0x0112] = orientation
        options = {"exif": exif}
    Image.fromarray(noise(height, width)).save(path, **options)
    return str(path)


@pytest.fixture
def no_reading(monkeypatch):
    """From now on no image may be opened."""

    def forbid():
        monkeypatch.setattr(Image, "open", lambda path: pytest.fail(f"{path} was opened"))

    return forbid


def test_sizes_in_order_of_the_paths(folder):
    suffixes = ["jpg", "JPEG", "png", "bmp", "webp", "tif", "TIFF"]
    paths = [write(folder / f"{i}.{suffix}", 20 + i, 40) for i, suffix in enumerate(suffixes)]
    assert read_image_sizes(paths[::-1]) == [(20 + i, 40) for i in range(len(suffixes))][::-1]
    assert read_image_sizes([]) == []


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["jpg", "png", "tif", "webp"])
def test_upright_as_training_reads_them(folder, suffix, orientation):
    path = write(folder / f"a.{suffix}", 40, 20, orientation)
    height, width = read_image(path).shape[:2]
    assert read_image_sizes([path]) == [(width, height)]
    if suffix == "jpg":
        assert (width, height) == ((20, 40) if orientation > 4 else (40, 20))


def test_second_time_opens_no_file(folder, no_reading):
    paths = [write(folder / f"{i}.png", 10 + i, 20) for i in range(4)]
    for split in (paths[:2], paths[2:]):
        read_image_sizes(split)
    no_reading()
    assert read_image_sizes(paths[:2]) + read_image_sizes(paths[2:]) == [
        (10 + i, 20) for i in range(4)
    ]


@pytest.mark.parametrize(
    ("size", "later"),
    # In BMP files 16 x 10 pixels have as many bytes as 8 x 20: only the time tells.
    [((16, 10), 1), ((30, 8), 0)],
)
def test_changed_file_is_read_anew(folder, size, later):
    path = write(folder / "a.bmp", 8, 20)
    before = os.stat(path)
    assert read_image_sizes([path]) == [(8, 20)]
    write(path, *size)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns + later))
    assert (os.stat(path).st_size == before.st_size) == bool(later)
    assert read_image_sizes([path]) == [size]


def test_unreadable_images_have_none_until_they_are_mended(folder):
    good, text = write(folder / "good.png", 10, 20), folder / "text.jpg"
    text.write_text("no image")
    paths = [str(text), good, str(folder / "missing.png"), str(folder)]
    assert read_image_sizes(paths) == [None, (10, 20), None, None]
    write(folder / "missing.png", 5, 6)
    assert read_image_sizes(paths) == [None, (10, 20), (5, 6), None]


@pytest.mark.parametrize(
    "content",
    ["", "{", "[]", "3", '{"PATH": 3}', '{"PATH": [1, 2]}', '{"PATH": null}', "\udc80"],
)
def test_damaged_cache_is_written_anew(folder, no_reading, content):
    path = write(folder / "a.png", 10, 20)
    cache = cache_path([path])
    cache.parent.mkdir(parents=True)
    cache.write_bytes(content.replace("PATH", path).encode(errors="surrogateescape"))
    assert read_image_sizes([path]) == [(10, 20)]
    no_reading()
    assert read_image_sizes([path]) == [(10, 20)]


def test_cache_folder_that_is_none(folder, cache_folder):
    cache_folder.write_text("a file")
    path = write(folder / "a.png", 10, 20)
    assert read_image_sizes([path]) == [(10, 20)]


def test_failed_write_leaves_the_old_cache_and_nothing_else(folder, monkeypatch):
    first, second = write(folder / "a.png", 10, 20), write(folder / "b.png", 30, 40)
    read_image_sizes([first, second])
    cache = cache_path([first, second])
    before = load_cache(cache)
    write(first, 11, 21)

    def full(*args):
        raise OSError("no space left")

    monkeypatch.setattr(os, "replace", full)
    assert read_image_sizes([first, second]) == [(11, 21), (30, 40)]
    assert load_cache(cache) == before
    assert list(cache.parent.iterdir()) == [cache]
