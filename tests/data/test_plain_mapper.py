"""Detectron2's mapper as a part of the stream: for detectors that keep the shapes of images."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from detectron2.data import DatasetMapper
from detectron2.data import transforms as T
from PIL import Image

from asff.data.image_io import UnreadableImage
from asff.data.mapper import WrappedDatasetMapper
from tests.data.rectangles import mapped_boxes, write


def plain_mapper() -> WrappedDatasetMapper:
    return WrappedDatasetMapper(DatasetMapper(is_train=True, augmentations=[], image_format="RGB"))


def record(path: Path, side: int) -> dict:
    """The dataset dict of a square image without objects."""
    return {"file_name": str(path), "height": side, "width": side, "annotations": []}


def noise(side: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (side, side, 3), np.uint8)


def test_detectron2s_mapper_in_the_stream(tmp_path):
    """It takes part in the stream, but neither mixes nor squashes."""
    given = write(tmp_path / "x.png", 32, 48, {0: (1, 2, 30, 20)})
    mapped = plain_mapper()(given, None, weight=1.0, size=416)
    assert mapped["image"].shape == (3, 32, 48)
    assert mapped_boxes(mapped) == [[1, 2, 30, 20]]
    assert "annotations" in given
    assert mapped["dropped_boxes"] == 0


def test_detectron2s_mapper_counts_what_crops_leave_out(tmp_path):
    """Two boxes, of which the crop keeps one or none; crowds are not counted."""
    given = write(tmp_path / "x.png", 32, 64, {0: (1, 2, 9, 9), 1: (50, 20, 60, 30)})
    given["annotations"].append({**given["annotations"][0], "iscrowd": 1})
    crop = T.RandomCrop("absolute", (32, 20))
    mapper = WrappedDatasetMapper(
        DatasetMapper(is_train=True, augmentations=[crop], image_format="RGB")
    )
    for seed in range(10):
        np.random.seed(seed)
        mapped = mapper(given)
        assert mapped["dropped_boxes"] == 2 - len(mapped["instances"]) > 0


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (None, "No such file or directory"),
        (b"", "cannot identify image file"),
        (b"<html>", "cannot identify image file"),
    ],
)
def test_unreadable_for_detectron2s_mapper(tmp_path, data, reason):
    path = tmp_path / "x.jpg"
    if data is not None:
        path.write_bytes(data)
    with pytest.raises(UnreadableImage, match=rf"^{re.escape(str(path))}: .*{reason}"):
        plain_mapper()(record(path, 32), size=0)


@pytest.mark.parametrize("suffix", ["jpg", "png", "bmp"])
def test_truncated_for_detectron2s_mapper(tmp_path, suffix):
    """Wherever a file breaks off, the reason is the same kind of error."""
    path = tmp_path / f"x.{suffix}"
    Image.fromarray(noise(32)).save(path)
    data = path.read_bytes()
    for length in np.linspace(1, len(data) * 3 // 4, 20).astype(int):
        path.write_bytes(data[:length])
        with pytest.raises(UnreadableImage, match=re.escape(str(path))):
            plain_mapper()(record(path, 32), size=0)


def test_damaged_chunk_for_detectron2s_mapper(tmp_path):
    """Pillow raises a SyntaxError at a chunk of a PNG file without a name."""
    path = tmp_path / "x.png"
    Image.fromarray(noise(200)).save(path)
    data = bytearray(path.read_bytes())
    second = data.index(b"IDAT", data.index(b"IDAT") + 4)
    data[second : second + 4] = b"\0\0\0\0"
    path.write_bytes(data)
    with pytest.raises(UnreadableImage, match=r"x\.png: "):
        plain_mapper()(record(path, 200), size=0)


def test_more_pixels_than_pillow_allows(tmp_path, monkeypatch):
    """Its exception is not of the kind that the other ones are."""
    given = write(tmp_path / "x.png", 40, 48, {})
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 900)
    with pytest.raises(UnreadableImage, match=r"x\.png: Image size \(1920 pixels\) exceeds limit"):
        plain_mapper()(given, size=0)


def test_other_size_for_detectron2s_mapper(tmp_path):
    given = {**write(tmp_path / "x.png", 32, 48, {}), "width": 40}
    with pytest.raises(UnreadableImage, match=r"x\.png: .*Mismatched image shape"):
        plain_mapper()(given, size=0)
