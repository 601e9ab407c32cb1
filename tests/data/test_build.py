from __future__ import annotations

import json
import logging
import pickle
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from detectron2.data import transforms as T
from detectron2.data.datasets import load_coco_json

from asff.config_files import load_config
from asff.data import (
    build_batch_plan,
    build_test_loader,
    build_train_dataset,
    build_train_loader,
    build_train_mapper,
    load_training_dicts,
)
from asff.data.augmentation import RandomAffine, RandomColor, RandomExpand, RandomMinIoUCrop
from asff.data.batch_plan import SampleSpec
from asff.data.build import build_augmentations
from tests.data.rectangles import noise
from tests.helpers import detector_cfg
from tests.training import CLASSES, DEGENERATE, EMPTY, NUM_TRAIN

SQUARE = ("INPUT.SQUARE", True, "INPUT.FORMAT", "RGB")
CROP = ("INPUT.CROP.ENABLED", True, "INPUT.CROP.TYPE")


@pytest.fixture(autouse=True)
def log_info(caplog) -> None:
    caplog.set_level(logging.INFO, "asff")


def map_dict(dataset_dict: dict, *options: object) -> dict:
    cfg = detector_cfg(*SQUARE, "INPUT.RANDOM_FLIP", "none", *options)
    return build_train_mapper(cfg)(dataset_dict, size=64)


@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        ((), [T.RandomFlip()]),
        (("INPUT.RANDOM_FLIP", "none"), []),
        (("INPUT.RANDOM_FLIP", "vertical"), [T.RandomFlip(horizontal=False, vertical=True)]),
        (
            (*CROP, "absolute", "INPUT.CROP.SIZE", [25, 50]),
            [T.RandomCrop("absolute", (25, 50)), T.RandomFlip()],
        ),
        (
            (
                *("INPUT.FORMAT", "BGR", "MODEL.PIXEL_MEAN", [103.4, 116.6, 123.5]),
                *("INPUT.COLOR.PROB", 0.8, "INPUT.COLOR.BRIGHTNESS", 9.0),
                *("INPUT.COLOR.CONTRAST", 0.2, "INPUT.COLOR.SATURATION", 0.3),
                *("INPUT.COLOR.HUE", 40.0),
                *("INPUT.EXPAND.PROB", 0.4, "INPUT.EXPAND.MAX_RATIO", 2.5),
                *("INPUT.AFFINE.PROB", 0.3, "INPUT.AFFINE.ROTATION", 5.0),
                *("INPUT.AFFINE.SHEAR", 6.0, "INPUT.AFFINE.SCALE", 0.7),
                *("INPUT.AFFINE.TRANSLATION", 0.8),
                *(*CROP, "min_iou", "INPUT.CROP.MIN_IOUS", [0.4], "INPUT.CROP.MIN_SIZE", 0.6),
                *("INPUT.RANDOM_FLIP", "horizontal+vertical"),
            ),
            [
                T.RandomApply(
                    RandomColor(
                        brightness=9, contrast=0.2, saturation=0.3, hue=40, image_format="BGR"
                    ),
                    0.8,
                ),
                T.RandomApply(RandomExpand(2.5, (103, 117, 124)), 0.4),
                T.RandomApply(
                    RandomAffine(
                        rotation=5, shear=6, scale=0.7, translation=0.8, fill=(103, 117, 124)
                    ),
                    0.3,
                ),
                RandomMinIoUCrop([0.4], 0.6),
                T.RandomFlip(),
                T.RandomFlip(horizontal=False, vertical=True),
            ],
        ),
    ],
    ids=["default", "none", "vertical", "crop", "all"],
)
def test_augmentations_of_the_config(options, wanted):
    """The same random numbers give the same pixels and boxes as a list built by hand."""
    boxes = np.array([[5.0, 5, 40, 45], [30, 20, 70, 40]])
    results = []
    for augmentations in (build_augmentations(detector_cfg(*options)), wanted):
        np.random.seed(0)
        for _ in range(60):
            view = T.AugInput(noise(50, 80), boxes=boxes)
            T.AugmentationList(augmentations)(view)
            results.append((view.image.shape, view.image.tobytes(), view.boxes.tolist()))
    assert results[:60] == results[60:]


@pytest.mark.parametrize("cache", ["", "memory"])
def test_channels_are_in_the_order_of_the_format(dataset_dict, cache):
    """Blue first; the blue fifth of the image is on the left."""
    options = ("INPUT.FORMAT", "BGR", "INPUT.RANDOM_FLIP", "none", "DATALOADER.CACHE", cache)
    cfg = detector_cfg(*SQUARE, *options)
    mapped = build_train_mapper(cfg, [dataset_dict])(dataset_dict, size=64)
    assert mapped["image"][:, 30, 5].tolist() == [200, 0, 0]


@pytest.mark.parametrize(("drawn", "count"), [(True, 5), (False, 1)])
def test_random_interpolation(dataset_dict, drawn, count):
    """Five interpolations, of which each makes other pixels of noise."""
    cv2.imwrite(dataset_dict["file_name"], noise(50, 100))
    images = set()
    for seed in range(40):
        np.random.seed(seed)
        mapped = map_dict(dataset_dict, "INPUT.RANDOM_INTERPOLATION", drawn)
        images.add(mapped["image"].numpy().tobytes())
    assert len(images) == count


@pytest.mark.parametrize(("least", "kept"), [(0.2, 1), (0.5, 0)])
def test_visible_share_of_a_box(dataset_dict, least, kept):
    """Crops of half the sides leave half of the width, and 15 to 25 of 30 pixels of the height."""
    crop = (*CROP, "absolute", "INPUT.CROP.SIZE", [25, 50])
    dataset_dict["annotations"] = [
        {**dataset_dict["annotations"][0], "bbox": [0.0, 10.0, 100.0, 30.0]}
    ]
    mapped = map_dict(dataset_dict, *crop, "INPUT.MIN_BOX_VISIBLE", least)
    assert (len(mapped["instances"]), mapped["dropped_boxes"]) == (kept, 1 - kept)


@pytest.mark.parametrize("cache", ["", "memory", "disk"])
def test_cache(dataset_dict, cache):
    """An image is read once, and augmentation spoils nothing; without cache it is read again."""
    cfg = detector_cfg(*SQUARE, "DATALOADER.CACHE", cache, "INPUT.COLOR.PROB", 1.0)
    dataset = build_train_dataset(cfg, [dataset_dict])
    spec = SampleSpec(0, -1, 1.0, 64, 3)
    first = dataset[spec]["image"]
    Path(dataset_dict["file_name"]).unlink()
    for _ in range(2):
        again = dataset[spec]
        assert torch.equal(again["image"], first) if cache else "image" not in again


@pytest.mark.parametrize(("cache", "limit"), [("disk", "1.50"), ("memory", "8.00")])
def test_limit_of_the_cache(dataset_dict, monkeypatch, caplog, cache, limit):
    """Two processes share 16 GiB, but no more than the 3 that are free on the disk."""
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=3 * 2**30))
    monkeypatch.setattr("detectron2.utils.comm.get_local_size", lambda: 2)
    options = ("DATALOADER.CACHE", cache, "DATALOADER.CACHE_LIMIT", 16.0)
    build_train_mapper(detector_cfg(*SQUARE, *options), [dataset_dict])
    assert f"limit of this process: {limit}, by DATALOADER.CACHE_LIMIT" in caplog.messages[0]


def tiny_cfg(config, *options):
    return load_config(str(config), ["SOLVER.IMS_PER_BATCH", NUM_TRAIN, *options])


@pytest.mark.parametrize("drop", [True, False])
def test_images_without_boxes(config, caplog, drop):
    """Dropped or kept by Detectron2's key; where only the box is useless, the image stays."""
    cfg = tiny_cfg(config, "DATALOADER.FILTER_EMPTY_ANNOTATIONS", drop)
    dataset_dicts = {Path(x["file_name"]).stem: x for x in load_training_dicts(cfg)}
    assert len(dataset_dicts) == NUM_TRAIN - drop
    assert (f"train_{EMPTY}" in dataset_dicts) is not drop
    flat = dataset_dicts[f"train_{DEGENERATE}"]
    (warning,) = [x.getMessage() for x in caplog.records if x.levelname == "WARNING"]
    assert "degenerate (zero-area) boxes (1)" in warning
    mapped = build_train_mapper(cfg)(flat, size=64)
    assert len(mapped["instances"]) == len(flat["annotations"]) - 1


def test_seed_and_dicts_of_the_loader(config):
    """By default the config's; the trainer gives those that it has loaded and resumes with."""
    cfg = tiny_cfg(config, "SEED", 5, "SOLVER.IMS_PER_BATCH", 4)

    def files(*dicts: list, **options: int) -> list[str]:
        loader = build_train_loader(cfg, *dicts, **options)
        return [x["file_name"] for batch, _ in zip(loader, range(3)) for x in batch]

    assert files() == files(seed=5) != files(seed=6)
    assert files(seed=0) != files()
    dicts = load_training_dicts(cfg)[:3]
    assert set(files(dicts)) == {x["file_name"] for x in dicts}


def plan_of(num_images: int, *options: object):
    batch = ("SOLVER.IMS_PER_BATCH", 4, "SOLVER.ACCUM_ITERS", 2)
    keys = (*batch, "SOLVER.MAX_ITER", 100, *SQUARE, *options)
    return build_batch_plan(detector_cfg(*keys), [{"annotations": []}] * num_images, 3)


PHASES = (
    *("INPUT.MIXUP.PROB", 0.5, "INPUT.MIXUP.ALPHA", 2.0, "INPUT.MIXUP.OFF_EPOCHS", 2.0),
    *("INPUT.TRAIN_SIZES", [320, 352], "INPUT.FINAL_SIZE", 416),
    *("INPUT.FINAL_SIZE_EPOCHS", 1.0, "INPUT.FINAL_SIZE_ITERS", 20),
)


def test_phases_of_the_plan(caplog):
    """An epoch of 120 images has 15 iterations: no mixup in the last 30; 20 are more than 15."""
    plan = plan_of(120, *PHASES)
    assert (plan.seed, plan.batch_size) == (3, 8)
    assert (plan.mixup.prob, plan.mixup.alpha, plan.mixup.end) == (0.5, 2, 70)
    assert (plan.sizes.choices, plan.sizes.period) == ([320, 352], 10)
    assert (plan.sizes.final, plan.sizes.final_start) == (416, 80)
    (message,) = caplog.messages
    assert "120 images, 15.0 iterations per epoch" in message
    assert "sizes 320, 352, a new one every 10 iterations, 416 from iteration 80" in message
    assert "mixup before iteration 70" in message


@pytest.mark.parametrize(("off_epochs", "end"), [(0.0, 100), (2.0, 75), (0.1, 98)])
def test_parts_of_iterations_are_rounded_up(off_epochs, end):
    """100 images in batches of 8: 12.5 iterations per epoch."""
    options = ("INPUT.MIXUP.OFF_EPOCHS", off_epochs, "INPUT.FINAL_SIZE_EPOCHS", off_epochs)
    plan = plan_of(100, *options)
    assert plan.mixup.end == plan.sizes.final_start == end


def test_phases_longer_than_the_training():
    plan = plan_of(120, *PHASES, "INPUT.MIXUP.OFF_ITERS", 101, "INPUT.FINAL_SIZE_EPOCHS", 50.0)
    assert plan.mixup.end == plan.sizes.final_start == 0
    assert {(x.partner, x.size) for k in range(100) for x in plan(k)} == {(-1, 416)}


@pytest.mark.parametrize(("square", "rest"), [(True, "; sizes 416; no mixup."), (False, ".")])
def test_plain_plan(caplog, square, rest):
    """Detectron2's mapper has neither sizes nor mixup."""
    plan = plan_of(20, "INPUT.SQUARE", square)
    assert {(x.partner, x.size) for k in range(100) for x in plan(k)} == {(-1, 416)}
    assert caplog.messages[0].endswith(f": 20 images, 2.5 iterations per epoch{rest}")


@pytest.mark.parametrize(
    ("num_images", "limit", "least"), [(99, 100, 100), (100, 100, None), (1, 0, 2)]
)
def test_mixup_needs_some_images(caplog, num_images, limit, least):
    """A single image has no partner, whatever the key says."""
    plan = plan_of(num_images, "INPUT.MIXUP.PROB", 0.5, "INPUT.MIXUP.MIN_IMAGES", limit)
    assert plan.mixup.prob == (0 if least else 0.5)
    wanted = f"Mixup is off: there are {num_images} images, fewer than {least} (INPUT.MIXUP.MIN_"
    assert caplog.messages[0].startswith(wanted) is bool(least)


@pytest.mark.parametrize(("final_iters", "first"), [(0, 96), (1, 128)])
def test_first_size_is_the_largest_that_comes(final_iters, first):
    sizes = ("INPUT.TRAIN_SIZES", [32, 96, 64], "INPUT.FINAL_SIZE", 128)
    assert plan_of(9, *sizes, "INPUT.FINAL_SIZE_ITERS", final_iters).size(0) == first


REPEATED = ("DATALOADER.SAMPLER_TRAIN", "RepeatFactorTrainingSampler")


def test_large_sums_do_not_drift():
    """100,000 images, each seen once or now and then twice; in float32 one came 62 times."""
    dicts = [{"annotations": [{"category_id": 0}]}] * 100_000
    # The square root of 1.006009 / 1 is 1.003.
    cfg = detector_cfg(*SQUARE, *REPEATED, "DATALOADER.REPEAT_THRESHOLD", 1.006009)
    assert set(np.bincount(build_batch_plan(cfg, dicts, seed=1).order(0))) == {1, 2}


def test_wide_and_high_images_are_grouped_where_they_keep_their_shape():
    """Images of unknown size are with the high ones, and so are square ones."""
    sizes = [{"width": 3, "height": 2}, {"width": 2, "height": 2}, {}]
    dicts = [{"annotations": [], **size} for size in sizes]
    no_groups = ("DATALOADER.ASPECT_RATIO_GROUPING", False)
    for options, groups in ((("INPUT.SQUARE", False), [1, 0, 0]), (SQUARE, None)):
        plan = build_batch_plan(detector_cfg(*options), dicts, seed=1)
        assert (plan.groups if groups is None else plan.groups.tolist()) == groups
        assert build_batch_plan(detector_cfg(*options, *no_groups), dicts, seed=1).groups is None


def test_repeat_factors():
    """Class 1 is in a quarter of the images: sqrt(1 / 0.25) is 2, and an epoch has 5 images."""
    kinds = [[0], [0], [0, 1], [0]]
    dataset_dicts = [{"annotations": [{"category_id": k} for k in classes]} for classes in kinds]
    options = ("DATALOADER.REPEAT_THRESHOLD", 1.0, "INPUT.MIXUP.OFF_EPOCHS", 2.0)
    schedule = ("SOLVER.IMS_PER_BATCH", 2, "SOLVER.MAX_ITER", 100)
    cfg = detector_cfg(*SQUARE, *REPEATED, *options, *schedule)
    plan = build_batch_plan(cfg, dataset_dicts, 3)
    assert plan.epoch_length == 5
    assert plan.mixup.end == 100 - 5  # two epochs in batches of 2
    assert plan.repeat_factors.tolist() == [1, 1, 2, 1]
    cfg.DATALOADER.REPEAT_SQRT = False  # 1 / 0.25 is 4
    assert build_batch_plan(cfg, dataset_dicts, 3).repeat_factors.tolist() == [1, 1, 4, 1]


@pytest.mark.parametrize(
    ("options", "box"),
    [
        (("INPUT.SQUARE", True), [6.4, 6.4, 19.2, 32.0]),
        # Detectron2's mapper: the shorter side of 50 pixels to 75.
        (("INPUT.SQUARE", False, "INPUT.MIN_SIZE_TRAIN", (75,)), [15.0, 7.5, 45.0, 37.5]),
    ],
)
def test_boxes_of_whole_numbers_are_not_rounded(config, register, dataset_dict, options, box):
    for annotation in dataset_dict["annotations"]:
        annotation["bbox"] = [int(x) for x in annotation["bbox"]]
    register("whole", lambda: [dataset_dict], thing_classes=CLASSES)
    options += ("DATASETS.TRAIN", ("whole",), "INPUT.RANDOM_FLIP", "none")
    cfg = tiny_cfg(config, *options)
    (loaded,) = load_training_dicts(cfg)
    boxes = build_train_mapper(cfg)(loaded, size=64)["instances"].gt_boxes.tensor
    assert boxes[0].tolist() == pytest.approx(box)


def test_datasets_without_images_are_refused(config, register, dataset_dict):
    drop = ("DATALOADER.FILTER_EMPTY_ANNOTATIONS", True)
    register("bare", lambda: [{**dataset_dict, "annotations": []}], thing_classes=CLASSES)
    for names, message in (
        (("bare",), r"DATASETS\.TRAIN \(bare\) cannot be used: AssertionError: "),
        ((), r"DATASETS\.TRAIN is empty: name at least one dataset"),
    ):
        with pytest.raises(ValueError, match=message):
            load_training_dicts(tiny_cfg(config, "DATASETS.TRAIN", names, *drop))


@pytest.mark.parametrize("used", [True, False])
def test_proposals_are_loaded_where_they_are_used(config, tmp_path, used):
    file = str(tmp_path / "proposals.pkl")
    options = ("MODEL.LOAD_PROPOSALS", used, "DATASETS.PROPOSAL_FILES_TRAIN", (file,))
    ids = [x["image_id"] for x in load_training_dicts(tiny_cfg(config))]
    boxes = [np.ones((2, 4), np.float32)] * len(ids)
    logits = [np.array([0.5, 1.5], np.float32)] * len(ids)
    proposals = {"ids": ids, "boxes": boxes, "objectness_logits": logits, "bbox_mode": 0}
    Path(file).write_bytes(pickle.dumps(proposals))
    loaded = load_training_dicts(tiny_cfg(config, *options))
    assert all(("proposal_boxes" in x) is used for x in loaded)


@pytest.mark.parametrize("training", [True, False])
def test_classes_are_checked_once_loaded(config, datasets, register, tmp_path, training):
    content = json.loads((datasets / "shapes" / "train.json").read_text())
    content["categories"].append({"id": 9, "name": "pentagon"})
    path = tmp_path / "more.json"
    path.write_text(json.dumps(content))
    register("more", lambda: load_coco_json(str(path), str(datasets / "shapes/images"), "more"))
    cfg, count = tiny_cfg(config, "DATASETS.TRAIN", ("more",)), len(CLASSES)
    with pytest.raises(ValueError, match=f"NUM_CLASSES is {count}, but .* has {count + 1}"):
        load_training_dicts(cfg) if training else build_test_loader(cfg, "more")
