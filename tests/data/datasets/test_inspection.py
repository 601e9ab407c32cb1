from __future__ import annotations

import json
import logging
import math
from collections.abc import Callable
from pathlib import Path

import pytest
from detectron2.structures import BoxMode

from asff.data import check_annotations
from asff.data.datasets import CocoDataset, summarize
from asff.data.datasets.image_files import examine_files
from asff.data.datasets.inspection import inspect
from tests.data.datasets.written import refused, write_config
from tests.training import run_here

XYWH, XYXY = BoxMode.XYWH_ABS, BoxMode.XYXY_ABS


@pytest.mark.parametrize(
    ("split", "examples"),
    [
        # Two boxes have no width and no height.
        ("train", ["BloodImage_00343.jpg: annotation 2288, box [181.0, 329.0, 0.0, 0.0]"]),
        ("val", ["BloodImage_00338.jpg: annotation 887, box [504.0, 337.0, 0.0, 0.0]"]),
        ("test", []),
    ],
)
def test_blood_cells(bccd, split, examples):
    dataset = CocoDataset.read(bccd / f"{split}.json", str(bccd / "images"))
    found = inspect(dataset, examine_files(dataset, opened=True))
    assert {name: x.examples for name, x in found.items()} == (
        {"degenerate_box": examples} if examples else {}
    )


# The check at the start of a training


def change_list(name: str, index: int, **values: object) -> Callable[[dict], None]:
    """Return a change of an item of a list of a COCO file; a value of "none" removes the key."""

    def change(content: dict) -> None:
        item = content[name][index]
        item.update(values)
        for key in [key for key, value in values.items() if value == "none"]:
            del item[key]

    return change


def no_boxes(content: dict) -> None:
    for annotation in content["annotations"][2:7]:  # more than are named
        del annotation["bbox"]


BROKEN = {
    "image id": (change_list("images", 1, id=1), "images with the id of another (1), as "),
    "category id": (
        change_list("categories", 1, id=1),
        "categories with the id or name of another (2), as circle",
    ),
    "unknown category": (
        change_list("annotations", 2, category_id=77),
        "annotations of unknown categories (1), as ",
    ),
    "no annotation id": (
        change_list("annotations", 2, id="none"),
        "annotations without an id of their own (1), as ",
    ),
    "no boxes": (no_boxes, "boxes that are not four finite numbers (5), as "),
    "no height": (change_list("images", 1, height="none"), "stated 80 x None"),
}
BROKEN_TESTS = {
    "missing file": (
        change_list("images", 1, file_name="lost.png"),
        "images whose file does not exist (1), as lost.png",
    ),
    "no area": (
        change_list("annotations", 2, area="none"),
        "annotations that lack 'area' or 'iscrowd' (1), as ",
    ),
}


@pytest.fixture
def break_split(config, datasets, tmp_path):
    """Options of a run whose DATASETS.TRAIN or TEST is broken by a function."""

    def break_split(change: Callable[[dict], None], key: str) -> tuple:
        split = {"TRAIN": "train", "TEST": "val"}[key]
        content = json.loads((datasets / "shapes" / f"{split}.json").read_text())
        change(content)
        path = tmp_path / "broken.json"
        path.write_text(json.dumps(content))
        images = str(datasets / "shapes" / "images")
        custom = {"name": "broken", "format": "coco", "annotations": str(path), "images": images}
        names = {"CUSTOM": [custom], key: ["broken"]}
        own = write_config(tmp_path, _BASE_=str(config), DATASETS=names)
        return ("--config-file", own, "OUTPUT_DIR", tmp_path / "out")

    return break_split


@pytest.mark.parametrize("key", ["TRAIN", "TEST"])
@pytest.mark.parametrize(("change", "message"), BROKEN.values(), ids=BROKEN)
def test_refused(break_split, change, message, key):
    run = run_here(*break_split(change, key))
    for part in (f"DATASETS.{key} names the dataset 'broken'", message, "asff check-data"):
        assert part in run.error


@pytest.mark.parametrize(("change", "message"), BROKEN_TESTS.values(), ids=BROKEN_TESTS)
def test_refused_in_tests_alone(break_split, change, message):
    """Where no other image takes the place of one, and areas are needed."""
    assert message in run_here(*break_split(change, "TEST")).error
    limit = ("DATALOADER.MAX_UNREADABLE", 0.5, "SOLVER.MAX_ITER", 1)
    run = run_here(*break_split(change, "TRAIN"), *limit)
    assert run.code == 0, run.output


def test_eval_only_looks_at_the_test_data_alone(break_split, tmp_path: Path):
    options = break_split(no_boxes, "TRAIN")
    run = run_here(*options, "--eval-only", "MODEL.WEIGHTS", tmp_path / "none.pth")
    assert "MODEL.WEIGHTS" in run.error and "broken" not in run.error


def test_no_image_is_opened(datasets, monkeypatch):
    monkeypatch.setattr("asff.data.datasets.image_files.read_image", lambda path: pytest.fail(path))
    check_annotations(["shapes_train"], "DATASETS.TRAIN")


def test_only_files_that_are_here_are_looked_at(register, tmp_path):
    (tmp_path / "cut.json").write_text("{")
    register("python")
    for name, file in (("remote", "https://example.org/a.json"), ("cut", tmp_path / "cut.json")):
        register(name, json_file=str(file), image_root="", evaluator_type="coco")
    check_annotations(["python", "remote"], "DATASETS.TEST")
    message = r"DATASETS\.TEST names the dataset 'cut': .*cut\.json is not JSON"
    with pytest.raises(ValueError, match=message):
        check_annotations(["python", "remote", "cut"], "DATASETS.TEST")


# The summary of the training data


def make_dict(path: Path, *boxes: list[float], mode: BoxMode = XYWH, crowd: int = 0) -> dict:
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


def test_summary_of_sound_data(image):
    dataset_dicts = [
        make_dict(image, [1, 2, 3, 4], [0, 0, 60, 40]),
        make_dict(image, [1, 2, 3, 4], crowd=1),
        make_dict(image, [59, 39, 60, 40], mode=XYXY),
        make_dict(image),
    ]
    assert summarize(dataset_dicts) == [first_line(images=4, objects=4, empty=1, crowd=1)]
    assert summarize([]) == [first_line(images=0, objects=0, empty=0, crowd=0)]


def test_boxes_that_are_not_used(image):
    wide = {**make_dict(image, [70, 2, 9, 9], [100, 30, 9, 9]), "width": 120}
    dataset_dicts = [
        make_dict(image, [9, 9, 9, 20], mode=XYXY),
        make_dict(image, [1, 2, 0, 4], [1, 2, 3, -4], [1, 2, math.nan, 4]),
        make_dict(image, [60, 2, 3, 4], [-3, 2, 3, 4], [-2, 2, 3, 4], [59, 39, 9, 9]),
        make_dict(image, [2, 40, 5, 50], mode=XYXY),
        wide,
    ]
    assert summarize(dataset_dicts) == [
        first_line(images=5, objects=11, empty=0, crowd=0),
        (logging.WARNING, "Not used: boxes that are not four finite numbers (1)."),
        (logging.WARNING, "Not used: degenerate (zero-area) boxes (3)."),
        (logging.WARNING, "Not used: boxes outside their image (3)."),
    ]


def test_dataset_dicts_may_lack_annotations_and_sizes(image):
    dataset_dict = {"file_name": str(image)}
    box = make_dict(image, [500, 500, 1, 1])["annotations"]
    del box[0]["iscrowd"]
    assert summarize([dataset_dict, {**dataset_dict, "annotations": box}]) == [
        first_line(images=2, objects=1, empty=1, crowd=0)
    ]


def test_missing_files_are_counted_and_some_are_named(image, tmp_path):
    missing = [tmp_path / f"gone{i}.png" for i in (4, 0, 3, 1, 2)]
    dataset_dicts = [make_dict(path) for path in (missing[0], image, *missing)]
    *_, (level, line) = summarize(dataset_dicts)
    assert level == logging.WARNING
    assert line.startswith("5 image files do not exist (asff check-data --fix ")
    assert line.endswith(f": {missing[0]}, {missing[1]}, {missing[2]}, ...")
    *_, (_, line) = summarize(dataset_dicts[:5])
    assert line.endswith(f": {missing[0]}, {missing[1]}, {missing[2]}")


def test_all_files_missing(tmp_path):
    dataset_dicts = [make_dict(tmp_path / "images" / f"{i}.png") for i in range(2)] * 2
    with refused(
        f"None of the 2 image files exists, for example in '{tmp_path}/images': {tmp_path}"
        f"/images/0.png",
        "DETECTRON2_DATASETS",
    ):
        summarize(dataset_dicts)
