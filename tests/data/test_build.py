"""Loaders: what becomes of an image and its boxes on their way to the model."""

from __future__ import annotations

import json
from collections.abc import Callable

import cv2
import numpy as np
import pytest
import torch
from detectron2.config import get_cfg
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import load_coco_json
from detectron2.structures import BoxMode

from asff.data import build_mapper, build_test_loader, build_train_loader, load_training_dicts
from asff.data.build import build_augmentations
from asff.engine.setup import load_config
from tests.helpers import detector_cfg
from tests.training import CLASSES, EMPTY, FLAT, NUM_TRAIN, NUM_VAL


@pytest.fixture
def record(tmp_path) -> dict:
    """The dataset dict of an image of 100 x 50 pixels: red, its left fifth blue."""
    pixels = np.zeros((50, 100, 3), np.uint8)
    pixels[..., 2] = 200  # OpenCV writes blue, green, red
    pixels[:, :20] = (200, 0, 0)
    path = tmp_path / "image.png"
    cv2.imwrite(str(path), pixels)
    boxes = [[10.0, 5.0, 20.0, 20.0], [50.0, 25.0, 0.0, 10.0], [90.0, 40.0, 10.0, 10.0]]
    annotations = [
        {"bbox": box, "bbox_mode": BoxMode.XYWH_ABS, "category_id": k, "iscrowd": 0}
        for k, box in enumerate(boxes)
    ]
    return {"file_name": str(path), "height": 50, "width": 100, "annotations": annotations}


def map_record(record: dict, is_train: bool, flip: str = "none") -> dict:
    sizes = ("INPUT.TRAIN_SIZE", 64, "INPUT.TEST_SIZE", 32)
    cfg = detector_cfg(*sizes, "INPUT.FORMAT", "RGB", "INPUT.RANDOM_FLIP", flip)
    return build_mapper(cfg, is_train)(record)


def test_training_squashes_to_a_square(record):
    """x times 64 / 100, y times 64 / 50."""
    mapped = map_record(record, is_train=True)
    image, truths = mapped["image"], mapped["instances"]
    assert image.shape == (3, 64, 64) and truths.image_size == (64, 64)
    # The second box has no width.
    assert truths.gt_classes.tolist() == [0, 2]
    boxes = torch.tensor([[6.4, 6.4, 19.2, 32.0], [57.6, 51.2, 64.0, 64.0]])
    torch.testing.assert_close(truths.gt_boxes.tensor, boxes)
    # Red first; the blue fifth is 12.8 pixels wide.
    assert image[:, 30, 11].tolist() == [0, 0, 200]
    assert image[:, 30, 15].tolist() == [200, 0, 0]


@pytest.mark.parametrize(
    ("flip", "boxes", "blue"),
    [
        # x from the right: 64 - 19.2 and 64 - 6.4; 64 - 64 and 64 - 57.6.
        ("horizontal", [[44.8, 6.4, 57.6, 32.0], [0, 51.2, 6.4, 64]], 60),
        ("vertical", [[6.4, 32.0, 19.2, 57.6], [57.6, 0, 64, 12.8]], 3),
        ("horizontal+vertical", [[44.8, 32.0, 57.6, 57.6], [0, 0, 6.4, 12.8]], 60),
    ],
)
def test_flips(record, monkeypatch, flip, boxes, blue):
    monkeypatch.setattr(np.random, "uniform", lambda low, high, size: np.array([low]))
    mapped = map_record(record, is_train=True, flip=flip)
    torch.testing.assert_close(mapped["instances"].gt_boxes.tensor, torch.tensor(boxes))
    assert mapped["image"][:, 30, blue].tolist() == [0, 0, 200]
    monkeypatch.setattr(np.random, "uniform", lambda low, high, size: np.array([high]))
    kept = map_record(record, is_train=True, flip=flip)["instances"]
    assert kept.gt_boxes.tensor[0].tolist() == pytest.approx([6.4, 6.4, 19.2, 32.0])


def test_flips_by_halves(record):
    """Of 100 draws, fewer than 30 or more than 70 flips come once in 30000 runs."""
    np.random.seed(0)
    lefts = []
    for _ in range(100):
        mapped = map_record(record, is_train=True, flip="horizontal")
        lefts.append(round(mapped["instances"].gt_boxes.tensor[0, 0].item(), 1))
    assert set(lefts) == {6.4, 44.8} and 30 <= lefts.count(44.8) <= 70


def test_testing_keeps_the_original_size(record):
    """The detector maps its boxes back to it."""
    mapped = map_record(record, is_train=False, flip="horizontal")
    assert mapped["image"].shape == (3, 32, 32)
    assert (mapped["height"], mapped["width"]) == (50, 100)
    assert "instances" not in mapped
    # Not flipped: the blue fifth, 6.4 pixels wide, is on the left.
    assert mapped["image"][:, 15, 5].tolist() == [0, 0, 200]


def test_crop_comes_before_the_resize(record):
    crop = ("INPUT.CROP.ENABLED", True, "INPUT.CROP.TYPE", "absolute", "INPUT.CROP.SIZE", [50, 20])
    cfg = detector_cfg("INPUT.TRAIN_SIZE", 64, *crop)
    names = [type(x).__name__ for x in build_augmentations(cfg, is_train=True)]
    assert names == ["RandomCrop", "Resize", "RandomFlip"]
    assert [type(x).__name__ for x in build_augmentations(cfg, is_train=False)] == ["Resize"]
    assert build_mapper(cfg, is_train=True)(record)["image"].shape == (3, 64, 64)


def test_other_detectors_keep_their_mapper(record):
    """RetinaNet: the shorter side to 200 pixels, aspect ratio kept."""
    cfg = get_cfg()
    cfg.MODEL.META_ARCHITECTURE = "RetinaNet"
    cfg.INPUT.MIN_SIZE_TRAIN = (200,)
    cfg.INPUT.MIN_SIZE_TEST = 150
    assert build_mapper(cfg, is_train=True)(record)["image"].shape == (3, 200, 400)
    assert build_mapper(cfg, is_train=False)(record)["image"].shape == (3, 150, 300)


def tiny_cfg(config, *options):
    cfg = load_config(str(config), list(options))
    cfg.SOLVER.IMS_PER_BATCH = NUM_TRAIN
    return cfg


def test_builtin_datasets_are_read(datasets):
    folder = datasets / "shapes"
    records = load_coco_json(str(folder / "train.json"), str(folder / "images"))
    assert len(records) == NUM_TRAIN
    assert [len(x["annotations"]) for x in records].count(0) == 1
    names = [c["name"] for c in json.loads((folder / "val.json").read_text())["categories"]]
    assert names == CLASSES


@pytest.mark.parametrize("drop", [True, False])
def test_images_without_boxes(config, drop):
    """Dropped or kept by Detectron2's key; where only the box is useless, the image stays."""
    cfg = tiny_cfg(config, "DATALOADER.FILTER_EMPTY_ANNOTATIONS", drop)
    records = load_training_dicts(cfg)
    assert len(records) == NUM_TRAIN - drop
    names = [record["file_name"].rsplit("/")[-1] for record in records]
    assert (f"train_{EMPTY}.png" in names) is not drop
    flat = records[names.index(f"train_{FLAT}.png")]
    assert [a["bbox"][2] for a in flat["annotations"]].count(0) == 1
    assert len(build_mapper(cfg, is_train=True)(flat)["instances"]) == len(flat["annotations"]) - 1


def test_batch_with_an_empty_image(config):
    cfg = tiny_cfg(config, "DATALOADER.FILTER_EMPTY_ANNOTATIONS", False)
    batch = next(iter(build_train_loader(cfg)))
    assert len({x["file_name"] for x in batch}) == len(batch) == NUM_TRAIN
    assert {x["image"].shape for x in batch} == {(3, 64, 64)}
    (empty,) = [x["instances"] for x in batch if x["file_name"].endswith(f"train_{EMPTY}.png")]
    assert len(empty) == 0 and empty.gt_boxes.tensor.shape == (0, 4)


def test_loaded_dicts_are_not_loaded_again(config, monkeypatch):
    cfg = tiny_cfg(config)
    records = load_training_dicts(cfg)
    monkeypatch.setattr("asff.data.build.load_training_dicts", lambda cfg: pytest.fail("loaded"))
    assert len(next(iter(build_train_loader(cfg, records[:3])))) == NUM_TRAIN


def test_test_loader_passes_once(config):
    loader = build_test_loader(tiny_cfg(config), "shapes_val")
    batches = list(loader)
    assert [len(batch) for batch in batches] == [1] * NUM_VAL
    assert len({batch[0]["image_id"] for batch in batches}) == NUM_VAL


@pytest.fixture
def register():
    """Register a dataset for the length of a test."""
    names = []

    def register(name: str, load: Callable[[], list[dict]], **metadata) -> None:
        names.append(name)
        DatasetCatalog.register(name, load)
        MetadataCatalog.get(name).set(**metadata)

    yield register
    for name in names:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


def test_boxes_of_whole_numbers_are_not_rounded(config, register, record):
    """COCO files with such boxes are common."""
    for annotation in record["annotations"]:
        annotation["bbox"] = [int(x) for x in annotation["bbox"]]
    register("whole", lambda: [record], thing_classes=CLASSES)
    cfg = tiny_cfg(config, "DATASETS.TRAIN", ("whole",), "INPUT.RANDOM_FLIP", "none")
    (loaded,) = load_training_dicts(cfg)
    boxes = build_mapper(cfg, is_train=True)(loaded)["instances"].gt_boxes.tensor
    assert boxes[0].tolist() == pytest.approx([6.4, 6.4, 19.2, 32.0])


def test_only_empty_images_are_refused(config, register, record):
    register("bare", lambda: [{**record, "annotations": []}], thing_classes=CLASSES)
    cfg = tiny_cfg(config, "DATASETS.TRAIN", ("bare",))
    with pytest.raises(ValueError, match=r"DATASETS\.TRAIN \(bare\)"):
        load_training_dicts(cfg)


@pytest.mark.parametrize("case", ["pentagon", "JSONDecodeError"])
def test_unfit_annotations_are_refused(config, datasets, register, tmp_path, case):
    content = json.loads((datasets / "shapes" / "train.json").read_text())
    content["categories"][0]["name"] = "pentagon"
    path = tmp_path / "unfit.json"
    path.write_text(json.dumps(content) if case == "pentagon" else "{")
    register("unfit", lambda: load_coco_json(str(path), "", "unfit"), thing_classes=CLASSES)
    with pytest.raises(ValueError, match=rf"(?s)DATASETS\.TRAIN \(unfit\).*{case}"):
        load_training_dicts(tiny_cfg(config, "DATASETS.TRAIN", ("unfit",)))
