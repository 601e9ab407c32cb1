from __future__ import annotations

import logging

import pytest
from detectron2.config import get_cfg
from detectron2.data import MetadataCatalog

from asff.data import check_datasets, check_num_classes, check_same_classes, follow_classes
from asff.data.datasets import class_count
from asff.data.datasets.builtin import register_builtin_datasets
from asff.data.datasets.shapes import CLASS_NAMES
from tests.data.datasets.written import refused
from tests.helpers import detector_cfg
from tests.training import register_datasets


def test_complete_datasets_pass(datasets):
    check_datasets(["shapes_train", "shapes_val"], "DATASETS.TRAIN")


def test_unknown_name_shows_similar_ones():
    with pytest.raises(ValueError) as error:
        check_datasets(["coco_2017_trian"], "DATASETS.TRAIN")
    message = str(error.value)
    assert message.startswith("DATASETS.TRAIN names the dataset 'coco_2017_trian'")
    assert "coco_2017_train" in message.split("Similar names: ")[1].split(",")[0]
    with pytest.raises(ValueError, match="Similar names: none"):
        check_datasets(["@@@"], "DATASETS.TEST")


@pytest.mark.parametrize("missing", ["train.json", "images"])
def test_missing_files_are_named(register, tmp_path, missing):
    (tmp_path / "images").mkdir()
    (tmp_path / "train.json").touch()
    files = {"json_file": "train.json", "image_root": "images"}
    register("tiny", **{key: str(tmp_path / name) for key, name in files.items()})
    check_datasets(["tiny"], "DATASETS.TEST")
    path = tmp_path / missing
    path.rmdir() if path.is_dir() else path.unlink()
    with refused("DATASETS.TEST", "'tiny'", f"'{path}' does not exist", "DETECTRON2_DATASETS"):
        check_datasets(["tiny"], "DATASETS.TEST")


def test_remote_files_are_not_looked_for(register):
    url = "https://example.org"
    register("remote", json_file=f"{url}/train.json", image_root=f"{url}/images")
    check_datasets(["remote"], "DATASETS.TRAIN")


def test_unknown_class_count_is_not_checked():
    cfg = detector_cfg("MODEL.META_ARCHITECTURE", "SomethingElse")
    assert class_count(cfg) is None
    check_num_classes(cfg, ["coco_2017_val"])
    assert class_count(get_cfg()) == ("MODEL.ROI_HEADS.NUM_CLASSES", 80)  # without our keys


def test_different_class_counts_are_refused(register):
    cfg = detector_cfg("MODEL.YOLOV3.NUM_CLASSES", 2)
    check_num_classes(cfg, [])
    register("two", thing_classes=["cat", "dog"])
    register("unread")
    check_num_classes(cfg, ["two", "unread"])
    register("three", thing_classes=["cat", "dog", "cow"])
    key = "MODEL.YOLOV3.NUM_CLASSES"
    with refused(f"{key} is 2", "'three' has 3 classes (cat, dog, cow)", f"Set {key} to 3."):
        check_num_classes(cfg, ["two", "three"])


def test_datasets_must_have_the_same_classes(register):
    register("two", thing_classes=["cat", "dog"])
    register("unread")
    register("same", thing_classes=("cat", "dog"))
    check_same_classes(["two", "unread", "same"])
    check_same_classes([])
    register("turned", thing_classes=["dog", "cat"])
    with refused("'two' has the classes cat, dog", "'turned' has dog, cat", "classes: [cat, dog]"):
        check_same_classes(["unread", "two", "same", "turned"])


@pytest.mark.parametrize(
    ("architecture", "key"),
    [
        ("YOLOv3", "MODEL.YOLOV3.NUM_CLASSES"),
        ("RetinaNet", "MODEL.RETINANET.NUM_CLASSES"),
        ("GeneralizedRCNN", "MODEL.ROI_HEADS.NUM_CLASSES"),
    ],
)
def test_default_class_count_follows_the_data(register, caplog, architecture, key):
    caplog.set_level(logging.INFO, "asff")
    register("unread")
    register("two", thing_classes=["cat", "dog"])
    cfg = detector_cfg("MODEL.META_ARCHITECTURE", architecture)
    follow_classes(cfg, ["unread"])
    assert class_count(cfg) == (key, 80)
    follow_classes(cfg, ["unread", "two"])
    assert class_count(cfg) == (key, 2)
    assert caplog.messages == [f"{key}: 2, as two has (cat, dog)."]
    check_num_classes(cfg, ["two"])
    with pytest.raises(ValueError, match=f"{key} is 2, .* Set {key} to 80"):
        check_num_classes(cfg, ["coco_2017_val"])


def test_stated_class_count_stays(register, caplog):
    """It is checked later; and 80 classes are no news."""
    caplog.set_level(logging.INFO, "asff")
    register("two", thing_classes=["cat", "dog"])
    cfg = detector_cfg("MODEL.YOLOV3.NUM_CLASSES", 3)
    follow_classes(cfg, ["two"])
    assert cfg.MODEL.YOLOV3.NUM_CLASSES == 3
    cfg = detector_cfg()
    follow_classes(cfg, ["coco_2017_val"])
    assert cfg.MODEL.YOLOV3.NUM_CLASSES == 80
    follow_classes(detector_cfg("MODEL.META_ARCHITECTURE", "SomethingElse"), ["two"])
    assert not caplog.messages


def test_long_lists_of_classes_are_cut():
    with pytest.raises(ValueError, match=r"\(person, bicycle, .*, traffic light, \.\.\.\)"):
        check_num_classes(detector_cfg("MODEL.YOLOV3.NUM_CLASSES", 2), ["coco_2017_val"])


def test_builtin_datasets(datasets, tmp_path):
    try:
        register_datasets(tmp_path)
        metadata = MetadataCatalog.get("bccd_test")
        assert metadata.json_file == str(tmp_path / "bccd" / "test.json")
        assert metadata.image_root == str(tmp_path / "bccd" / "images")
        assert metadata.thing_classes == ["RBC", "WBC", "Platelets"]
        assert MetadataCatalog.get("shapes_val").thing_classes == list(CLASS_NAMES)
        # Once more, as when a module is reloaded: what is there stays.
        register_builtin_datasets(tmp_path / "other")
        assert MetadataCatalog.get("bccd_test").json_file == metadata.json_file
    finally:
        register_datasets(datasets)
