"""From the config to mappers: every key does what it says."""

from __future__ import annotations

import logging
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from detectron2.config import get_cfg
from detectron2.data import transforms as T

from asff import add_asff_config
from asff.data import (
    build_test_mapper,
    build_train_dataset,
    build_train_mapper,
)
from asff.data.batch_plan import SampleSpec
from asff.data.build import build_augmentations
from asff.data.training_dataset import TrainingDataset
from tests.helpers import detector_cfg

SQUARE = ("INPUT.SQUARE", True, "INPUT.FORMAT", "RGB")


def map_dict(dataset_dict: dict, flip: str = "none", *options: object) -> dict:
    cfg = detector_cfg(*SQUARE, "INPUT.RANDOM_FLIP", flip, *options)
    return build_train_mapper(cfg)(dataset_dict, size=64)


def test_training_squashes_to_a_square(dataset_dict):
    """x times 64 / 100, y times 64 / 50."""
    mapped = map_dict(dataset_dict)
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
def test_flips(dataset_dict, monkeypatch, flip, boxes, blue):
    monkeypatch.setattr(np.random, "uniform", lambda low, high, size: np.array([low]))
    mapped = map_dict(dataset_dict, flip)
    torch.testing.assert_close(mapped["instances"].gt_boxes.tensor, torch.tensor(boxes))
    assert mapped["image"][:, 30, blue].tolist() == [0, 0, 200]
    monkeypatch.setattr(np.random, "uniform", lambda low, high, size: np.array([high]))
    kept = map_dict(dataset_dict, flip)["instances"]
    assert kept.gt_boxes.tensor[0].tolist() == pytest.approx([6.4, 6.4, 19.2, 32.0])


def test_flips_by_halves(dataset_dict):
    """Of 100 draws, fewer than 30 or more than 70 flips come once in 30000 runs."""
    np.random.seed(0)
    lefts = []
    for _ in range(100):
        mapped = map_dict(dataset_dict, "horizontal")
        lefts.append(round(mapped["instances"].gt_boxes.tensor[0, 0].item(), 1))
    assert set(lefts) == {6.4, 44.8} and 30 <= lefts.count(44.8) <= 70


@pytest.mark.parametrize("cache", ["", "memory"])
def test_channels_are_in_the_order_of_the_format(dataset_dict, cache):
    """Blue first, in training as in testing; the blue fifth is on the left."""
    cfg = detector_cfg(*SQUARE, "INPUT.FORMAT", "BGR", "DATALOADER.CACHE", cache)
    cfg.INPUT.RANDOM_FLIP = "none"
    mapped = build_train_mapper(cfg, [dataset_dict])(dataset_dict, size=64)
    assert mapped["image"][:, 30, 5].tolist() == [200, 0, 0]
    assert build_test_mapper(cfg)(dataset_dict)["image"][:, 30, 5].tolist() == [200, 0, 0]


def names(augmentations: list[T.Augmentation]) -> list[str]:
    return [type(getattr(x, "aug", x)).__name__ for x in augmentations]


def test_no_augmentation_by_default_but_flips():
    assert names(build_augmentations(detector_cfg())) == ["RandomFlip"]
    assert build_augmentations(detector_cfg("INPUT.RANDOM_FLIP", "none")) == []


@pytest.mark.parametrize("kind", ["relative", "absolute"])
def test_crops_of_detectron2(dataset_dict, kind):
    """Half of the sides: the upper left box is seen only by chance, the square is always full."""
    size = {"relative": [0.5, 0.5], "absolute": [25, 50]}[kind]
    crop = ("INPUT.CROP.ENABLED", True, "INPUT.CROP.TYPE", kind, "INPUT.CROP.SIZE", size)
    assert names(build_augmentations(detector_cfg(*crop))) == ["RandomCrop", "RandomFlip"]
    widths = set()
    for seed in range(30):
        np.random.seed(seed)
        mapped = map_dict(dataset_dict, "none", *crop)
        assert mapped["image"].shape == (3, 64, 64)
        assert (mapped["image"].amax(dim=0) >= 99).all()  # red, blue, or half of each
        boxes = mapped["instances"].gt_boxes.tensor
        assert len(boxes) + mapped["dropped_boxes"] == 2
        widths |= {round(x, 1) for x in (boxes[:, 2] - boxes[:, 0]).tolist()}
    assert max(widths) == 25.6  # 20 of 50 pixels


def test_order_and_values_of_augmentations():
    """Nothing after the crop may enlarge the picture, for boxes are clipped once, at the end."""
    augmentations = build_augmentations(
        detector_cfg(
            *("INPUT.FORMAT", "BGR", "MODEL.PIXEL_MEAN", [103.4, 116.6, 123.5]),
            *("INPUT.COLOR.PROB", 0.1, "INPUT.COLOR.BRIGHTNESS", 1.0, "INPUT.COLOR.CONTRAST", 0.2),
            *("INPUT.COLOR.SATURATION", 0.3, "INPUT.COLOR.HUE", 4.0),
            *("INPUT.EXPAND.PROB", 0.2, "INPUT.EXPAND.MAX_RATIO", 2.5),
            *("INPUT.AFFINE.PROB", 0.3, "INPUT.AFFINE.ROTATION", 5.0, "INPUT.AFFINE.SHEAR", 6.0),
            *("INPUT.AFFINE.SCALE", 0.7, "INPUT.AFFINE.TRANSLATION", 0.8),
            *("INPUT.CROP.ENABLED", True, "INPUT.CROP.TYPE", "min_iou"),
            *("INPUT.CROP.MIN_IOUS", [0.4], "INPUT.CROP.MIN_SIZE", 0.6),
            *("INPUT.RANDOM_FLIP", "horizontal+vertical"),
        )
    )
    assert names(augmentations) == [
        *("RandomColor", "RandomExpand", "RandomAffine", "RandomMinIoUCrop"),
        *("RandomFlip", "RandomFlip"),
    ]
    assert [x.prob for x in augmentations[:3]] == [0.1, 0.2, 0.3]
    color, expand, affine = (x.aug for x in augmentations[:3])
    crop, *flips = augmentations[3:]
    assert (color.brightness, color.contrast, color.saturation, color.hue) == (1, 0.2, 0.3, 4)
    assert color.image_format == "BGR"
    assert (expand.max_ratio, expand.fill) == (2.5, [103, 117, 124])
    assert (affine.rotation, affine.shear, affine.scale, affine.translation) == (5, 6, 0.7, 0.8)
    assert affine.fill == [103, 117, 124]
    assert (crop.min_ious, crop.min_size) == ([0.4], 0.6)
    assert [(x.horizontal, x.vertical) for x in flips] == [(True, False), (False, True)]


@pytest.mark.parametrize("drawn", [True, False])
def test_random_interpolation(dataset_dict, monkeypatch, drawn):
    seen, resize = set(), cv2.resize

    def spy(image: np.ndarray, size: tuple, interpolation: int) -> np.ndarray:
        seen.add(interpolation)
        return resize(image, size, interpolation=interpolation)

    monkeypatch.setattr(cv2, "resize", spy)
    for seed in range(40):
        np.random.seed(seed)
        map_dict(dataset_dict, "none", "INPUT.RANDOM_INTERPOLATION", drawn)
    assert cv2.INTER_LINEAR in seen and len(seen) == (5 if drawn else 1)


def test_limits_of_boxes(dataset_dict):
    """Sides of 64 pixels: the first box is 12.8 wide, the last 6.4."""
    for side, kept in ((6.0, [0, 2]), (6.5, [0]), (13.0, [])):
        mapped = map_dict(dataset_dict, "none", "INPUT.MIN_BOX_SIDE", side)
        assert mapped["instances"].gt_classes.tolist() == kept
        assert mapped["dropped_boxes"] == 2 - len(kept)


@pytest.mark.parametrize(("least", "kept"), [(0.2, 1), (0.5, 0)])
def test_share_of_a_box_that_must_be_left(dataset_dict, least, kept):
    """Crops of half the sides leave half of the width, and 15 to 25 of 30 pixels of the height."""
    crop = ("INPUT.CROP.ENABLED", True, "INPUT.CROP.TYPE", "absolute", "INPUT.CROP.SIZE", [25, 50])
    dataset_dict["annotations"] = [
        {**dataset_dict["annotations"][0], "bbox": [0.0, 10.0, 100.0, 30.0]}
    ]
    mapped = map_dict(dataset_dict, "none", *crop, "INPUT.MIN_BOX_VISIBLE", least)
    assert (len(mapped["instances"]), mapped["dropped_boxes"]) == (kept, 1 - kept)


@pytest.mark.parametrize("cache", ["", "memory", "disk"])
def test_cache(dataset_dict, monkeypatch, cache):
    """Each of two samples of an image needs its pixels; whoever changes them spoils nothing."""
    reads, read = [], cv2.imdecode
    monkeypatch.setattr(cv2, "imdecode", lambda *args: reads.append(args) or read(*args))
    cfg = detector_cfg(*SQUARE, "DATALOADER.CACHE", cache, "INPUT.COLOR.PROB", 1.0)
    dataset = build_train_dataset(cfg, [dataset_dict])
    assert type(dataset) is TrainingDataset and not reads
    sample = SampleSpec(0, -1, 1.0, 64, 3)
    images = [dataset[sample]["image"] for _ in range(3)]
    assert torch.equal(images[0], images[1]) and torch.equal(images[0], images[2])
    assert len(reads) == (1 if cache else 3)


def test_processes_of_a_machine_share_the_cache_limit(dataset_dict, monkeypatch, caplog):
    caplog.set_level(logging.INFO, "asff")
    monkeypatch.setattr("detectron2.utils.comm.get_local_size", lambda: 4)
    build_train_mapper(
        detector_cfg(*SQUARE, "DATALOADER.CACHE", "memory", "DATALOADER.CACHE_LIMIT", 2.0),
        [dataset_dict],
    )
    assert "limit of this process: 0.50, by DATALOADER.CACHE_LIMIT" in caplog.text


@pytest.mark.parametrize(("cache", "limit"), [("disk", "1.50"), ("memory", "8.00")])
def test_cache_on_disk_takes_no_more_than_is_free(dataset_dict, monkeypatch, caplog, cache, limit):
    """Of two processes each may have half; a full disk would kill them."""
    caplog.set_level(logging.INFO, "asff")
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=3 * 2**30))
    monkeypatch.setattr("detectron2.utils.comm.get_local_size", lambda: 2)
    options = ("DATALOADER.CACHE", cache, "DATALOADER.CACHE_LIMIT", 16.0)
    build_train_mapper(detector_cfg(*SQUARE, *options), [dataset_dict])
    assert f"limit of this process: {limit}, by" in caplog.text


def test_other_detectors_keep_their_mapper(dataset_dict):
    """RetinaNet: the shorter side to 200 pixels, aspect ratio kept."""
    cfg = get_cfg()
    cfg.MODEL.META_ARCHITECTURE = "RetinaNet"
    cfg.INPUT.MIN_SIZE_TRAIN = (200,)
    cfg.INPUT.MIN_SIZE_TEST = 150
    add_asff_config(cfg)
    mapped = build_train_mapper(cfg)(dataset_dict, None, weight=1.0, size=64)
    assert mapped["image"].shape == (3, 200, 400)
    assert build_test_mapper(cfg)(dataset_dict)["image"].shape == (3, 150, 300)
