from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from detectron2.data import MetadataCatalog
from detectron2.structures import BoxMode

from asff.data.datasets import CocoDataset, load_dataset

CONTENT = {
    "images": [{"id": 1, "file_name": "a.png", "height": 4, "width": 6}],
    "annotations": [{"image_id": 1, "category_id": 2}],  # its id is missed later
    "categories": [{"id": 2, "name": "cell"}],
}


@pytest.fixture
def name() -> Iterator[str]:
    """Of a dataset with metadata, but for this test alone."""
    yield "dataset_of_a_test"
    MetadataCatalog.pop("dataset_of_a_test", None)


def test_json_file(tmp_path: Path, name: str):
    path = tmp_path / "train.json"
    path.write_text(json.dumps({**CONTENT, "info": {"year": 2020}}))
    MetadataCatalog.get(name).set(json_file=str(path), image_root="some/images")
    dataset = load_dataset(name)
    assert dataset == CocoDataset(
        **CONTENT, image_root="some/images", other={"info": {"year": 2020}}
    )
    dataset.write(tmp_path / "copy.json")
    assert json.loads((tmp_path / "copy.json").read_text()) == json.loads(path.read_text())


def test_datasets_of_python_code_are_refused(name: str):
    MetadataCatalog.get(name).set(thing_classes=["cell"])
    with pytest.raises(ValueError, match=f"'{name}' comes from Python code.* COCO, VOC or YOLO"):
        load_dataset(name)


def test_test_images_need_no_annotations(tmp_path: Path):
    path = tmp_path / "image_info.json"
    path.write_text(json.dumps({key: CONTENT[key] for key in ("images", "categories")}))
    assert CocoDataset.read(path) == CocoDataset(**{**CONTENT, "annotations": []})


def test_missing_file(tmp_path: Path):
    with pytest.raises(ValueError, match=r"gone\.json cannot be read: No such file"):
        CocoDataset.read(tmp_path / "gone.json")


def test_dataset_dicts():
    """Classes are in the order of the category ids, file names below the image folder."""
    boxes = [{"image_id": 5, "bbox": [1, 2, 3, 4], "iscrowd": i, "area": 12} for i in range(2)]
    dataset = CocoDataset(
        images=[{"id": 5, "file_name": "a.png", "height": 40, "width": 60}],
        annotations=[{**boxes[0], "category_id": 9}, {**boxes[1], "category_id": 4}],
        categories=[{"id": 9, "name": "nut"}, {"id": 4, "name": "bolt"}],
        image_root="folder",
    )
    assert dataset.class_names == ["bolt", "nut"]
    keys = {"bbox": [1, 2, 3, 4], "bbox_mode": BoxMode.XYWH_ABS}
    assert dataset.dataset_dicts("parts") == [
        {
            "file_name": "folder/a.png",
            "height": 40,
            "width": 60,
            "image_id": 5,
            "annotations": [
                {"category_id": 1, "iscrowd": 0, **keys},
                {"category_id": 0, "iscrowd": 1, **keys},
            ],
        }
    ]


def changed(key: str, **values: object) -> str:
    """Return the file with an item of the list ``key`` changed; a value of None removes its key."""
    entry = {k: v for k, v in {**CONTENT[key][0], **values}.items() if v is not None}
    return json.dumps({**CONTENT, key: [entry]})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is not JSON: Expecting property name"),
        (b"\xff\xfe\xfa", "is not JSON: "),
        ("[]", "is not in COCO's format: it must be an object with 'images'."),
        ("{}", "is not in COCO's format: it has no list 'images'."),
        (json.dumps({**CONTENT, "annotations": {}}), "it has no list 'annotations'."),
        (json.dumps({"images": []}), "it has no list 'categories'."),
        (
            json.dumps({**CONTENT, "images": [CONTENT["images"][0], 7]}),
            "images[1] is 7, but must be an object with id, file_name.",
        ),
        (
            changed("images", id=[3]),
            "images[0] has 'id' [3]: it must be a whole number or a",
        ),
        (changed("images", file_name=None), "images[0] has no 'file_name': it must be a string."),
        (changed("annotations", image_id=None), "annotations[0] has no 'image_id': it must be "),
        (changed("annotations", category_id=1.5), "annotations[0] has 'category_id' 1.5: it must"),
        (changed("annotations", id=[3]), "has 'id' [3]: it must be a whole number or a string or "),
        (changed("categories", name=3), "categories[0] has 'name' 3: it must be a string."),
    ],
)
def test_malformed_files(tmp_path: Path, text: str | bytes, message: str):
    path = tmp_path / "train.json"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ValueError) as error:
        CocoDataset.read(path)
    assert str(error.value).startswith(str(path)) and message in str(error.value)
