"""From the config to mappers, batch plan and loaders: every key does what it says."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from detectron2.config import get_cfg
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data import transforms as T
from detectron2.data.datasets import load_coco_json

from asff import add_asff_config
from asff.data import (
    build_batch_plan,
    build_test_loader,
    build_test_mapper,
    build_train_dataset,
    build_train_loader,
    build_train_mapper,
    load_training_dicts,
    resolve_seed,
)
from asff.data.batch_plan import SampleSpec
from asff.data.build import build_augmentations
from asff.engine.setup import load_config
from tests.helpers import detector_cfg
from tests.training import CLASSES, EMPTY, FLAT, NUM_TRAIN

SQUARE = ("INPUT.SQUARE", True, "INPUT.FORMAT", "RGB")


def map_dict(dataset_dict: dict, flip: str = "none", *options: object) -> dict:
    cfg = detector_cfg(*SQUARE, "INPUT.RANDOM_FLIP", flip, *options)
    return build_train_mapper(cfg)(dataset_dict, size=64)


def test_training_resizes_to_a_square(dataset_dict):
    """x times 64 / 100, y times 64 / 50."""
    mapped = map_dict(dataset_dict)
    image, instances = mapped["image"], mapped["instances"]
    assert image.shape == (3, 64, 64) and instances.image_size == (64, 64)
    # The second box has no width.
    assert instances.gt_classes.tolist() == [0, 2]
    boxes = torch.tensor([[6.4, 6.4, 19.2, 32.0], [57.6, 51.2, 64.0, 64.0]])
    torch.testing.assert_close(instances.gt_boxes.tensor, boxes)
    # Red first; the blue fifth is 12.8 pixels wide.
    assert image[:, 30, 11].tolist() == [0, 0, 200]
    assert image[:, 30, 15].tolist() == [200, 0, 0]


@pytest.mark.parametrize(
    ("flip", "lefts", "tops", "blues"),
    [
        # x from the right: 64 - 19.2; y from below: 64 - 32.
        ("none", {6.4}, {6.4}, {3}),
        ("horizontal", {6.4, 44.8}, {6.4}, {3, 60}),
        ("vertical", {6.4}, {6.4, 32.0}, {3}),
        ("horizontal+vertical", {6.4, 44.8}, {6.4, 32.0}, {3, 60}),
    ],
)
def test_flips(dataset_dict, flip, lefts, tops, blues):
    """All combinations, by halves, and the pixels go with the boxes."""
    np.random.seed(0)
    seen = []
    for _ in range(100):
        mapped = map_dict(dataset_dict, flip)
        box = mapped["instances"].gt_boxes.tensor[0]
        blue = [x for x in (3, 60) if mapped["image"][:, 30, x].tolist() == [0, 0, 200]]
        seen.append((round(box[0].item(), 1), round(box[1].item(), 1), *blue))
    assert {x[0] for x in seen} == lefts and {x[1] for x in seen} == tops
    assert {x[2] for x in seen} == blues
    assert {x[0] == 44.8 for x in seen if x[2] == 60} <= {True}
    # Of 100 draws, fewer than 30 or more than 70 flips come once in 30000 runs.
    assert "horizontal" not in flip or 30 <= sum(x[0] == 44.8 for x in seen) <= 70
    assert "vertical" not in flip or 30 <= sum(x[1] == 32.0 for x in seen) <= 70


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


@pytest.mark.parametrize(("drawn", "count"), [(True, 5), (False, 1)])
def test_random_interpolation(dataset_dict, drawn, count):
    """Five interpolations, of which each makes other pixels of noise."""
    rng = np.random.default_rng(0)
    cv2.imwrite(dataset_dict["file_name"], rng.integers(0, 256, (50, 100, 3)).astype(np.uint8))
    images = set()
    for seed in range(40):
        np.random.seed(seed)
        mapped = map_dict(dataset_dict, "none", "INPUT.RANDOM_INTERPOLATION", drawn)
        images.add(mapped["image"].numpy().tobytes())
    assert len(images) == count


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


def tiny_cfg(config, *options):
    cfg = load_config(str(config), list(options))
    cfg.SOLVER.IMS_PER_BATCH = NUM_TRAIN
    return cfg


def test_builtin_datasets_are_read(datasets):
    folder = datasets / "shapes"
    dataset_dicts = load_coco_json(str(folder / "train.json"), str(folder / "images"))
    assert len(dataset_dicts) == NUM_TRAIN
    assert [len(x["annotations"]) for x in dataset_dicts].count(0) == 1
    names = [c["name"] for c in json.loads((folder / "val.json").read_text())["categories"]]
    assert names == CLASSES


@pytest.mark.parametrize("drop", [True, False])
def test_images_without_boxes(config, caplog, drop):
    """Dropped or kept by Detectron2's key; where only the box is useless, the image stays."""
    caplog.set_level(logging.INFO, "asff")
    cfg = tiny_cfg(config, "DATALOADER.FILTER_EMPTY_ANNOTATIONS", drop)
    dataset_dicts = load_training_dicts(cfg)
    assert len(dataset_dicts) == NUM_TRAIN - drop
    names = [dataset_dict["file_name"].rsplit("/")[-1] for dataset_dict in dataset_dicts]
    assert (f"train_{EMPTY}.png" in names) is not drop
    flat = dataset_dicts[names.index(f"train_{FLAT}.png")]
    assert [a["bbox"][2] for a in flat["annotations"]].count(0) == 1
    summary = {r.getMessage(): r.levelname for r in caplog.records if r.name == "asff"}
    assert summary["Not used: degenerate (zero-area) boxes (1)."] == "WARNING"
    mapped = build_train_mapper(cfg)(flat, size=64)
    assert len(mapped["instances"]) == len(flat["annotations"]) - 1


def test_batch_with_an_empty_image(config):
    cfg = tiny_cfg(config, "DATALOADER.FILTER_EMPTY_ANNOTATIONS", False)
    batch = next(iter(build_train_loader(cfg)))
    assert len({x["file_name"] for x in batch}) == len(batch) == NUM_TRAIN
    assert {x["image"].shape for x in batch} == {(3, 64, 64)}
    (empty,) = [x["instances"] for x in batch if x["file_name"].endswith(f"train_{EMPTY}.png")]
    assert len(empty) == 0 and empty.gt_boxes.tensor.shape == (0, 4)


def test_loaded_dicts_are_not_loaded_again(config, monkeypatch):
    cfg = tiny_cfg(config)
    dataset_dicts = load_training_dicts(cfg)
    monkeypatch.setattr("asff.data.build.load_training_dicts", lambda cfg: pytest.fail("loaded"))
    assert len(next(iter(build_train_loader(cfg, dataset_dicts[:3])))) == NUM_TRAIN


def test_seed_of_the_loader(config):
    """By default the config's; the trainer gives the one it resumes with."""
    cfg = tiny_cfg(config, "SEED", 5, "DATASETS.TRAIN", ("shapes_train",))
    cfg.SOLVER.IMS_PER_BATCH = 4

    def files(**options: int) -> list[str]:
        loader = build_train_loader(cfg, **options)
        return [x["file_name"] for batch, _ in zip(loader, range(3)) for x in batch]

    assert files() == files(seed=5) != files(seed=6)
    assert build_train_loader(cfg, seed=0).sampler.batch_plan.seed == 0


@pytest.mark.parametrize(("seed", "resolved"), [(5, 5), (0, 0), (-1, 77)])
def test_drawn_seed_is_shared(monkeypatch, seed, resolved):
    """A negative one is drawn, and is what all processes agree on."""
    monkeypatch.setattr("detectron2.utils.comm.shared_random_seed", lambda: 77)
    assert resolve_seed(detector_cfg("SEED", seed)) == resolved


def test_workers_of_the_config(config):
    loader = build_train_loader(tiny_cfg(config, "DATALOADER.NUM_WORKERS", 2))
    assert loader.batches.num_workers == 2


def test_largest_size_comes_first(config):
    """All images of a batch have the size that the plan says."""
    cfg = tiny_cfg(config, "INPUT.TRAIN_SIZES", [64, 96, 32], "INPUT.SIZE_PERIOD", 1)
    loader = build_train_loader(cfg)
    plan = loader.sampler.batch_plan
    sizes = []
    for batch, iteration in zip(loader, range(6)):
        (shape,) = {x["image"].shape for x in batch}
        assert shape == (3, *[plan.size(iteration)] * 2)
        sizes.append(shape[-1])
    assert sizes[0] == 96 and len(set(sizes)) > 1


def plan_of(num_images: int, *options: object):
    keys = ("SOLVER.IMS_PER_BATCH", 8, "SOLVER.MAX_ITER", 100, *SQUARE, *options)
    return build_batch_plan(detector_cfg(*keys), [{"annotations": []}] * num_images, 3)


PHASES = (
    *("INPUT.MIXUP.PROB", 0.5, "INPUT.MIXUP.ALPHA", 2.0, "INPUT.MIXUP.OFF_EPOCHS", 2.0),
    *("INPUT.TRAIN_SIZES", [320, 352], "INPUT.FINAL_SIZE", 416),
    *("INPUT.FINAL_SIZE_EPOCHS", 1.0, "INPUT.FINAL_SIZE_ITERS", 20),
)


def test_phases_of_the_plan(caplog):
    """An epoch of 120 images has 15 iterations: no mixup in the last 30; 20 are more than 15."""
    caplog.set_level(logging.INFO, "asff")
    plan = plan_of(120, *PHASES)
    assert plan.seed == 3 and plan.batch_size == 8
    assert (plan.mixup.prob, plan.mixup.alpha, plan.mixup.end) == (0.5, 2, 70)
    sizes = plan.sizes
    assert (sizes.choices, sizes.period) == ([320, 352], 10)
    assert (sizes.final, sizes.final_start) == (416, 80)
    assert caplog.messages == [
        "Deterministic batch plan: 120 images, 15.0 iterations per epoch; sizes 320, 352, a "
        "new one every 10 iterations, 416 from iteration 80 on; mixup before iteration 70."
    ]


def test_phases_longer_than_the_training():
    plan = plan_of(120, *PHASES, "INPUT.MIXUP.OFF_ITERS", 101, "INPUT.FINAL_SIZE_EPOCHS", 50.0)
    assert plan.mixup.end == plan.sizes.final_start == 0
    assert {(x.partner, x.size) for k in range(100) for x in plan(k)} == {(-1, 416)}


def test_plain_plan(caplog):
    caplog.set_level(logging.INFO, "asff")
    plan = plan_of(20)
    assert {(x.partner, x.size) for k in range(100) for x in plan(k)} == {(-1, 416)}
    message = "Deterministic batch plan: 20 images, 2.5 iterations per epoch; sizes 416; no mixup."
    assert caplog.messages == [message]


def test_plan_that_keeps_aspect_ratios(caplog):
    """Sizes and mixup are none of Detectron2's mapper."""
    caplog.set_level(logging.INFO, "asff")
    plan_of(20, "INPUT.SQUARE", False)
    assert caplog.messages == ["Deterministic batch plan: 20 images, 2.5 iterations per epoch."]


def test_one_image_is_too_few_to_mix(caplog):
    """Whatever the key says."""
    caplog.set_level(logging.INFO, "asff")
    assert plan_of(1, "INPUT.MIXUP.PROB", 0.5, "INPUT.MIXUP.MIN_IMAGES", 0).mixup.prob == 0
    assert caplog.messages[0].startswith("Mixup is off: there are 1 images, fewer than 2 (")


@pytest.mark.parametrize(("num_images", "prob"), [(99, 0), (100, 0.5)])
def test_mixup_needs_some_images(caplog, num_images, prob):
    caplog.set_level(logging.INFO, "asff")
    plan = plan_of(num_images, "INPUT.MIXUP.PROB", 0.5)
    assert plan.mixup.prob == prob
    message = "Mixup is off: there are 99 images, fewer than 100 (INPUT.MIXUP.MIN_IMAGES)."
    assert (message in caplog.messages) is (prob == 0)


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


def test_phases_count_repeats():
    """Class 1 is in 1 of 25 images, seen sqrt(0.16 / 0.04) times: 2 epochs are 26 batches of 2."""
    dicts = [{"annotations": [{"category_id": int(i == 0)}]} for i in range(25)]
    options = ("DATALOADER.REPEAT_THRESHOLD", 0.16, "INPUT.MIXUP.OFF_EPOCHS", 2.0)
    schedule = ("SOLVER.IMS_PER_BATCH", 2, "SOLVER.MAX_ITER", 100)
    cfg = detector_cfg(*SQUARE, *REPEATED, *options, *schedule)
    assert build_batch_plan(cfg, dicts, seed=1).mixup.end == 100 - 26


def test_wide_images_share_batches_where_they_keep_their_shape():
    wide = [{"width": 2 + i % 2, "height": 2, "annotations": []} for i in range(40)]
    options = ("INPUT.SQUARE", False, "SOLVER.IMS_PER_BATCH", 8)
    plan = build_batch_plan(detector_cfg(*options), wide, seed=1)
    # 20 of each: two batches of 8 each, and one of the 4 that remain of both.
    kinds = [{index % 2 for index in plan.indices(k)} for k in range(5)]
    assert sorted(map(len, kinds)) == [1, 1, 1, 1, 2]
    off = detector_cfg(*options, "DATALOADER.ASPECT_RATIO_GROUPING", False)
    assert build_batch_plan(off, wide, seed=1).groups is None
    assert build_batch_plan(detector_cfg(*SQUARE), wide, seed=1).groups is None
    # Images of unknown size are with the high ones, and so are square ones.
    odd = [{"width": 3, "height": 2}, {"width": 2, "height": 2}, {}]
    odd = [{"annotations": [], **size} for size in odd]
    assert build_batch_plan(detector_cfg(*options), odd, seed=1).groups.tolist() == [1, 0, 0]


def test_repeat_factors():
    """Class 1 is in a quarter of the images: sqrt(1 / 0.25) is 2, and an epoch has 5 images."""
    kinds = [[0], [0], [0, 1], [0]]
    dataset_dicts = [{"annotations": [{"category_id": k} for k in classes]} for classes in kinds]
    cfg = detector_cfg(*SQUARE, *REPEATED, "DATALOADER.REPEAT_THRESHOLD", 1.0)
    plan = build_batch_plan(cfg, dataset_dicts, 3)
    assert plan.epoch_length == 5
    assert plan.repeat_factors.tolist() == [1, 1, 2, 1]
    cfg.DATALOADER.REPEAT_SQRT = False  # 1 / 0.25 is 4
    assert build_batch_plan(cfg, dataset_dicts, 3).repeat_factors.tolist() == [1, 1, 4, 1]


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


@pytest.mark.parametrize(
    ("options", "box"),
    [
        (("INPUT.SQUARE", True), [6.4, 6.4, 19.2, 32.0]),
        # Detectron2's mapper: the shorter side of 50 pixels to 75.
        (("INPUT.SQUARE", False, "INPUT.MIN_SIZE_TRAIN", (75,)), [15.0, 7.5, 45.0, 37.5]),
    ],
)
def test_boxes_of_whole_numbers_are_not_rounded(config, register, dataset_dict, options, box):
    """COCO files with such boxes are common."""
    for annotation in dataset_dict["annotations"]:
        annotation["bbox"] = [int(x) for x in annotation["bbox"]]
    register("whole", lambda: [dataset_dict], thing_classes=CLASSES)
    options += ("DATASETS.TRAIN", ("whole",), "INPUT.RANDOM_FLIP", "none")
    cfg = tiny_cfg(config, *options)
    (loaded,) = load_training_dicts(cfg)
    boxes = build_train_mapper(cfg)(loaded, size=64)["instances"].gt_boxes.tensor
    assert boxes[0].tolist() == pytest.approx(box)


def test_only_empty_images_are_refused(config, register, dataset_dict):
    register("bare", lambda: [{**dataset_dict, "annotations": []}], thing_classes=CLASSES)
    drop = ("DATALOADER.FILTER_EMPTY_ANNOTATIONS", True)
    cfg = tiny_cfg(config, "DATASETS.TRAIN", ("bare",), *drop)
    with pytest.raises(ValueError, match=r"TRAIN \(bare\) cannot be used: AssertionError: "):
        load_training_dicts(cfg)


def test_no_training_set_is_refused(config):
    with pytest.raises(ValueError, match=r"DATASETS\.TRAIN is empty: name at least one dataset\."):
        load_training_dicts(tiny_cfg(config, "DATASETS.TRAIN", ()))


@pytest.mark.parametrize("used", [True, False])
def test_proposals_are_loaded_where_they_are_used(config, monkeypatch, used):
    seen = {}

    def load(names: tuple, **options: object) -> list[dict]:
        seen.update(options)
        return []

    monkeypatch.setattr("asff.data.build.get_detection_dataset_dicts", load)
    options = ("MODEL.LOAD_PROPOSALS", used, "DATASETS.PROPOSAL_FILES_TRAIN", ("boxes.pkl",))
    load_training_dicts(tiny_cfg(config, *options))
    assert seen["proposal_files"] == (("boxes.pkl",) if used else None)
    assert seen["min_keypoints"] == 0


def test_classes_that_only_loading_shows_are_checked(config, datasets, register, tmp_path):
    """In training, and in evaluation."""
    content = json.loads((datasets / "shapes" / "train.json").read_text())
    content["categories"].append({"id": 9, "name": "pentagon"})
    path = tmp_path / "late.json"
    path.write_text(json.dumps(content))
    images = str(datasets / "shapes" / "images")
    count = len(CLASSES)
    for name, build in (("late", load_training_dicts), ("later", build_test_loader)):
        register(name, lambda name=name: load_coco_json(str(path), images, name))
        cfg = tiny_cfg(config, "DATASETS.TRAIN", (name,))
        arguments = (cfg,) if build is load_training_dicts else (cfg, name)
        with pytest.raises(ValueError, match=f"NUM_CLASSES is {count}, but .* has {count + 1}"):
            build(*arguments)


@pytest.mark.parametrize("case", ["pentagon", "JSONDecodeError"])
def test_unfit_annotations_are_refused(config, datasets, register, tmp_path, case):
    content = json.loads((datasets / "shapes" / "train.json").read_text())
    content["categories"][0]["name"] = "pentagon"
    path = tmp_path / "unfit.json"
    path.write_text(json.dumps(content) if case == "pentagon" else "{")
    register("unfit", lambda: load_coco_json(str(path), "", "unfit"), thing_classes=CLASSES)
    with pytest.raises(ValueError, match=rf"(?s)DATASETS\.TRAIN \(unfit\).*{case}"):
        load_training_dicts(tiny_cfg(config, "DATASETS.TRAIN", ("unfit",)))
