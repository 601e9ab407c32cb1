"""Annotations that would end a training later, or mix up its images, are refused at the start."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances

from asff.data import check_annotations
from tests.training import run_here


def share_id(content: dict) -> None:
    content["images"][1]["id"] = content["images"][0]["id"]


def share_category(content: dict) -> None:
    content["categories"][1]["id"] = content["categories"][0]["id"]


def unknown_category(content: dict) -> None:
    content["annotations"][2]["category_id"] = 77


def no_annotation_id(content: dict) -> None:
    del content["annotations"][2]["id"]


def no_box(content: dict) -> None:
    for annotation in content["annotations"][2:7]:  # more than are named
        del annotation["bbox"]


def three_numbers(content: dict) -> None:
    content["annotations"][2]["bbox"] = [1, 2, 3]


def no_number(content: dict) -> None:
    content["annotations"][2]["bbox"] = [1, None, 3, 4]


def no_height(content: dict) -> None:
    del content["images"][1]["height"]


def missing_file(content: dict) -> None:
    content["images"][1]["file_name"] = "lost.png"


def no_area(content: dict) -> None:
    del content["annotations"][2]["area"]


BROKEN = {
    share_id: "images with the id of another (1), as ",
    share_category: "categories with the id or name of another (2), as circle",
    unknown_category: "annotations of unknown categories (1), as ",
    no_annotation_id: "annotations without an id of their own (1), as ",
    no_box: "boxes that are not four finite numbers (5), as ",
    three_numbers: "annotation 3, box [1, 2, 3]. ",
    no_number: "annotation 3, box [1, None, 3, 4]. ",
    no_height: "stated 80 x None",
}
BROKEN_TESTS = {
    missing_file: "images whose file does not exist (1), as lost.png",
    no_area: "annotations that lack 'area' or 'iscrowd' (1), as ",
}


@pytest.fixture
def break_split(config, datasets, tmp_path):
    """Options of a run whose DATASETS.TRAIN or TEST is broken by a function."""

    def break_split(change: Callable[[dict], None], split: str) -> tuple:
        content = json.loads((datasets / "shapes" / f"{split}.json").read_text())
        change(content)
        path = tmp_path / "broken.json"
        path.write_text(json.dumps(content))
        images = datasets / "shapes" / "images"
        entry = {
            "name": "broken",
            "format": "coco",
            "annotations": str(path),
            "images": str(images),
        }
        key = {"train": "TRAIN", "val": "TEST"}[split]
        own = tmp_path / "own.yaml"
        datasets_node = f'{{CUSTOM: {json.dumps([entry])}, {key}: ["broken"]}}'
        own.write_text(f'_BASE_: "{config}"\nDATASETS: {datasets_node}\n')
        return ("--config-file", own, "OUTPUT_DIR", tmp_path / "out")

    return break_split


@pytest.mark.parametrize("split", ["train", "val"])
@pytest.mark.parametrize(
    ("change", "message"), BROKEN.items(), ids=lambda x: getattr(x, "__name__", "")
)
def test_refused(break_split, change, message, split):
    run = run_here(*break_split(change, split))
    key = {"train": "DATASETS.TRAIN", "val": "DATASETS.TEST"}[split]
    assert f"{key} names the dataset 'broken'" in run.error
    assert message in run.error
    assert "tools/check_dataset.py" in run.error


@pytest.mark.parametrize(
    ("change", "message"), BROKEN_TESTS.items(), ids=lambda x: getattr(x, "__name__", "")
)
def test_refused_in_tests_alone(break_split, change, message):
    """Where nothing takes the place of an image, and areas are needed."""
    assert message in run_here(*break_split(change, "val")).error
    limit = ("DATALOADER.MAX_UNREADABLE", 0.5, "SOLVER.MAX_ITER", 1)
    run = run_here(*break_split(change, "train"), *limit)
    assert run.code == 0, run.output


def test_eval_only_looks_at_the_test_data_alone(break_split, tmp_path: Path):
    options = break_split(no_box, "train")
    run = run_here(*options, "--eval-only", "MODEL.WEIGHTS", tmp_path / "none.pth")
    assert "MODEL.WEIGHTS" in run.error and "broken" not in run.error


def test_no_image_is_opened(datasets, monkeypatch):
    """There may be millions."""
    monkeypatch.setattr("asff.data.datasets.file_status.read_image", lambda path: pytest.fail(path))
    check_annotations(["shapes_train"], "DATASETS.TRAIN")


@pytest.fixture
def three_datasets(tmp_path: Path):
    """One of Python code, a remote one, and one whose file is cut off."""
    (tmp_path / "cut.json").write_text("{")
    DatasetCatalog.register("python", list)
    register_coco_instances("remote", {}, "https://example.org/a.json", "https://example.org")
    register_coco_instances("cut", {}, str(tmp_path / "cut.json"), str(tmp_path))
    names = ["python", "remote", "cut"]
    yield names
    for name in names:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


def test_only_files_that_are_here_are_looked_at(three_datasets):
    check_annotations(three_datasets[:2], "DATASETS.TEST")
    message = r"DATASETS\.TEST names the dataset 'cut': .*cut\.json is not JSON"
    with pytest.raises(ValueError, match=message):
        check_annotations(three_datasets, "DATASETS.TEST")
