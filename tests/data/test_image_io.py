from __future__ import annotations

import re
import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from asff.data.image_io import UnreadableImage, check_size, read_image

# How an image that upright is abc over def is stored for the EXIF orientations 1 to 8 (CIPA
# DC-008): 6, for one, says that the first row is the right side and the first column the top.
STORED = "abc def,cba fed,fed cba,def abc,ad be cf,cf be ad,fc eb da,da eb fc".split(",")
RED, GREEN, BLUE = np.diag([200, 200, 200])
COLORS = dict(zip("abcdef", (RED, GREEN, BLUE, RED + GREEN, GREEN + BLUE, RED + BLUE)))
SIDE = 16  # of a tile: what JPEG blurs stays away from its centre


def draw_tiles(rows: str) -> np.ndarray:
    """Draw a tile of one colour for each letter; RGB."""
    tiles = np.array([[COLORS[letter] for letter in row] for row in rows.split()], np.uint8)
    return tiles.repeat(SIDE, axis=0).repeat(SIDE, axis=1)


def smooth_image(height: int = 40, width: int = 48) -> np.ndarray:
    """Draw smooth colours, which JPEG keeps well; RGB."""
    y, x = np.mgrid[:height, :width]
    planes = [255 * x / width, 255 * y / height, 255 * (1 - x / width)]
    return np.stack(planes, axis=-1).astype(np.uint8)


@pytest.fixture
def save(tmp_path):

    def save(image: Image.Image | np.ndarray, name: str, **options) -> str:
        image = Image.fromarray(image) if isinstance(image, np.ndarray) else image
        image.save(tmp_path / name, **options)
        return str(tmp_path / name)

    return save


def max_difference(image: np.ndarray, other: np.ndarray) -> int:
    assert image.dtype == np.uint8 and image.shape == other.shape
    return np.abs(image.astype(int) - other).max()


@pytest.mark.parametrize(("orientation", "stored"), list(enumerate(STORED, start=1)))
@pytest.mark.parametrize("suffix", ["jpg", "png", "tif"])
def test_upright_as_exif_says(save, suffix, orientation, stored):
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = read_image(save(draw_tiles(stored), f"x.{suffix}", exif=exif))
    assert image.shape == (2 * SIDE, 3 * SIDE, 3)
    centers = image[SIDE // 2 :: SIDE, SIDE // 2 :: SIDE]
    wanted = draw_tiles("abc def")[SIDE // 2 :: SIDE, SIDE // 2 :: SIDE]
    assert max_difference(centers, wanted) <= 10


@pytest.mark.parametrize("suffix", ["png", "bmp", "tif", "webp"])
def test_order_of_channels(save, suffix):
    options = {"lossless": True} if suffix == "webp" else {}
    path = save(smooth_image(), f"x.{suffix}", **options)
    np.testing.assert_array_equal(read_image(path), smooth_image())
    np.testing.assert_array_equal(read_image(path, "BGR"), smooth_image()[..., ::-1])
    assert read_image(path).flags.c_contiguous and read_image(path).flags.writeable


@pytest.mark.parametrize("suffix", ["png", "tif", "jpg"])
def test_grey(save, suffix):
    grey = smooth_image()[..., 0]
    image = read_image(save(grey, f"x.{suffix}", quality=95))
    assert max_difference(image, np.stack([grey] * 3, axis=-1)) <= (2 if suffix == "jpg" else 0)


@pytest.mark.parametrize("mode", ["1", "P", "LA", "RGBA", "P with a transparent colour"])
def test_other_modes_become_colour(save, mode):
    """The alpha channel is dropped."""
    image, options = Image.fromarray(smooth_image()), {}
    if mode[0] == "P":
        image = image.quantize(16)
        options = {"transparency": 3} if mode != "P" else {}
    elif mode == "1":
        image = image.convert("1")
    else:
        image = image.convert(mode)
        image.putalpha(Image.fromarray(smooth_image()[..., 1]))
    path = save(image, "x.png", **options)
    with Image.open(path) as stored:
        assert stored.mode == mode.split()[0]
        wanted = np.asarray(image.convert("RGBA"))[..., :3]
    np.testing.assert_array_equal(read_image(path), wanted)


@pytest.mark.parametrize("suffix", ["png", "tif"])
@pytest.mark.parametrize("channels", [1, 3])
def test_16_bits_are_scaled_to_8(tmp_path, suffix, channels):
    """Not cut off: 0x1234 is 0x12, or 0x13 where it is rounded."""
    rng = np.random.default_rng(0)
    deep = rng.integers(0, 2**16, (20, 30, channels)).astype(np.uint16)
    path = tmp_path / f"x.{suffix}"
    assert cv2.imwrite(str(path), deep)
    wanted = np.broadcast_to(deep // 256, (20, 30, 3))
    assert max_difference(read_image(str(path), "BGR"), wanted) <= 1


@pytest.mark.parametrize("suffix", ["jpg", "tif"])
def test_cmyk(save, suffix):
    image = Image.fromarray(smooth_image()).convert("CMYK")
    path = save(image, f"x.{suffix}", quality=95)
    with Image.open(path) as stored:
        assert stored.mode == "CMYK"
        wanted = np.asarray(stored.convert("RGB"))
    assert max_difference(read_image(path), wanted) <= 2
    assert max_difference(read_image(path), smooth_image()) <= 12  # of JPEG


def refusal(path: str | Path) -> str:
    """Return why a file is refused; the message begins with its path."""
    with pytest.raises(UnreadableImage, match=re.escape(f"{path}: ")) as caught:
        read_image(path)
    return str(caught.value).removeprefix(f"{path}: ")


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (None, "No such file"),
        (b"", "file is empty"),
        (b"<html>404 Not Found</html>", "not an image that OpenCV can read"),
        (b"\xff", "not an image that OpenCV can read"),
        (bytes(100), "not an image that OpenCV can read"),
    ],
)
def test_files_without_an_image(tmp_path, data, reason):
    if data is not None:
        (tmp_path / "x.jpg").write_bytes(data)
    assert reason in refusal(tmp_path / "x.jpg")


@pytest.mark.parametrize("suffix", ["jpg", "png", "bmp", "webp", "tif"])
def test_truncated_files(save, suffix):
    """None of them is read in part, wherever it ends."""
    path = Path(save(smooth_image(200, 200), f"x.{suffix}"))
    data = path.read_bytes()
    for length in [*np.linspace(1, len(data) - 1, 20).astype(int), len(data) - 200]:
        path.write_bytes(data[:length])
        reason = refusal(path)
    assert "truncated" in reason or suffix not in ("jpg", "png")


def test_unfinished_download(save):
    """The file has its full length, but its second half is zeros."""
    path = Path(save(smooth_image(200, 200), "x.jpg"))
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2].ljust(len(data), b"\0"))
    assert refusal(path)


@pytest.mark.parametrize("suffix", ["jpg", "png"])
@pytest.mark.parametrize("rest", [b"\0", b"data of a camera", b"\xff\xd8\xff"])
def test_bytes_after_the_end_do_not_matter(save, suffix, rest):
    path = Path(save(smooth_image(), f"x.{suffix}"))
    before = read_image(str(path))
    path.write_bytes(path.read_bytes() + rest)
    np.testing.assert_array_equal(read_image(str(path)), before)


def test_more_pixels_than_opencv_allows(tmp_path):
    """The limit of OpenCV is 2 ** 30. The file holds only the first pixels."""
    size = struct.pack(">IIBBBBB", 2**15, 2**15 + 1, 8, 2, 0, 0, 0)
    data = b"\x89PNG\r\n\x1a\n"
    for chunk in (b"IHDR" + size, b"IDAT" + zlib.compress(bytes(100)), b"IEND"):
        data += struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk))
    (tmp_path / "x.png").write_bytes(data)
    assert "CV_IO_MAX_IMAGE_PIXELS" in refusal(tmp_path / "x.png")


def test_more_pixels_than_pillow_allows(save, monkeypatch):
    """Pillow checks files with bytes after their end, and refuses twice its MAX_IMAGE_PIXELS."""
    path = Path(save(smooth_image(), "x.png"))
    path.write_bytes(path.read_bytes() + b"rest")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 900)
    assert "exceeds limit of 1800 pixels" in refusal(path)


@pytest.mark.parametrize(
    ("stated", "size"),
    [
        ({"height": 40, "width": 48}, None),
        ({}, None),
        ({"height": 48, "width": 40}, "40x48"),
        ({"height": 48}, "48x48"),
        ({"width": 40}, "40x40"),
    ],
)
def test_size_that_the_annotations_state(stated, size):
    image, dataset_dict = np.zeros((40, 48, 3), np.uint8), {"file_name": "x.jpg", **stated}
    if size is None:
        check_size(image, dataset_dict)
    else:
        with pytest.raises(UnreadableImage, match=rf"x\.jpg: is 48x40 pixels, .* say {size}"):
            check_size(image, dataset_dict)
