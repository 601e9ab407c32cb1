"""The brief check at the start of training."""

from __future__ import annotations

import logging
import math
from pathlib import Path

import pytest
from detectron2.structures import BoxMode

from asff.data.datasets.summary import summarize

XYWH, XYXY = BoxMode.XYWH_ABS, BoxMode.XYXY_ABS


def make_record(path: Path, *boxes: list[float], mode: BoxMode = XYWH, crowd: int = 0) -> dict:
    """A dataset dict of an image of 60 x 40 pixels."""
    return {
        "file_name": str(path),
        "width": 60,
        "height": 40,
        "annotations": [
            {"bbox": box, "bbox_mode": mode, "category_id": 0, "iscrowd": crowd} for box in boxes
        ],
    }


def first_line(**counts: int) -> tuple[int, str]:
    return (
        logging.INFO,
        "Training data: {images} images with {objects} objects; {empty} images without objects, "
        "{crowd} crowd boxes (not used).".format(**counts),
    )


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "a.png"
    path.touch()
    return path


def test_sound_data(image):
    records = [
        make_record(image, [1, 2, 3, 4], [0, 0, 60, 40]),
        make_record(image, [1, 2, 3, 4], crowd=1),
        make_record(image, [59, 39, 60, 40], mode=XYXY),
        make_record(image),
    ]
    assert summarize(records) == [first_line(images=4, objects=4, empty=1, crowd=1)]


def test_boxes_that_are_not_used(image):
    records = [
        make_record(image, [9, 9, 9, 20], mode=XYXY),
        make_record(image, [1, 2, 0, 4], [1, 2, 3, -4], [1, 2, math.nan, 4]),
        make_record(image, [60, 2, 3, 4], [-3, 2, 3, 4], [-2, 2, 3, 4], [59, 39, 9, 9]),
        make_record(image, [2, 40, 5, 50], mode=XYXY),
    ]
    assert summarize(records) == [
        first_line(images=4, objects=9, empty=0, crowd=0),
        (logging.WARNING, "Not used: boxes without area (4)."),
        (logging.WARNING, "Not used: boxes outside their image (3)."),
    ]


def test_boxes_are_held_against_their_own_image(image):
    """Two in an image that is wide enough, and one in an image that is not."""
    wide = {**make_record(image, [70, 2, 9, 9], [100, 30, 9, 9]), "width": 120}
    *_, line = summarize([wide, make_record(image, [70, 2, 9, 9])])
    assert line == (logging.WARNING, "Not used: boxes outside their image (1).")


def test_records_may_lack_annotations_and_sizes(image):
    """And annotations need not say that they are no crowds."""
    record = {"file_name": str(image)}
    box = make_record(image, [500, 500, 1, 1])["annotations"]
    del box[0]["iscrowd"]
    assert summarize([record, {**record, "annotations": box}]) == [
        first_line(images=2, objects=1, empty=1, crowd=0)
    ]


def test_missing_files_are_counted_and_some_are_named(image, tmp_path):
    missing = [tmp_path / f"gone{i}.png" for i in (4, 0, 3, 1, 2)]
    records = [make_record(path) for path in (missing[0], image, *missing)]
    *_, (level, line) = summarize(records)
    assert level == logging.WARNING
    assert line.startswith("5 image files do not exist (tools/check_dataset.py --fix ")
    assert line.endswith(f": {missing[0]}, {missing[1]}, {missing[2]}, ...")
    *_, (_, line) = summarize(records[:5])
    assert line.endswith(f": {missing[0]}, {missing[1]}, {missing[2]}")
    *_, (_, line) = summarize(records[:2])
    assert line.startswith("1 image files") and line.endswith(f": {missing[0]}")


def test_all_files_missing(tmp_path):
    records = [make_record(tmp_path / "images" / f"{i}.png") for i in range(2)] * 2
    with pytest.raises(ValueError) as error:
        summarize(records)
    message = str(error.value)
    assert message.startswith(f"None of the 2 image files exists, for example in '{tmp_path}/imag")
    assert str(tmp_path / "images" / "0.png") in message and "DETECTRON2_DATASETS" in message


def test_no_data():
    assert summarize([]) == [first_line(images=0, objects=0, empty=0, crowd=0)]


def test_paths_may_be_written_in_other_ways(tmp_path):
    """As some programs do: with two slashes, or by way of another folder."""
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.png").write_bytes(b"x")
    records = [
        {"file_name": f"{tmp_path}/{name}", "height": 9, "width": 9, "annotations": []}
        for name in ("images//a.png", "other/../images/a.png", "images//b.png")
    ]
    (_, message) = summarize(records)[-1]
    assert message.startswith("1 image files do not exist") and "images//b.png" in message
