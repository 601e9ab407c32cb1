from __future__ import annotations

import pytest

from asff.config_files import load_config
from asff.data import check_input
from tests.helpers import detector_cfg
from tests.training import ROOT

SQUARE = ("INPUT.SQUARE", True)


def refuse(options: tuple, *fragments: str) -> None:
    """Check that the options are refused by a message that begins and goes on so."""
    with pytest.raises(ValueError) as caught:
        check_input(detector_cfg(*options))
    message = str(caught.value)
    assert message.startswith(fragments[0]) and all(x in message for x in fragments), message


def accept(*options: object) -> None:
    check_input(detector_cfg(*options))


@pytest.mark.parametrize(
    "path", sorted((ROOT / "configs").rglob("*.yaml")), ids=lambda path: path.stem
)
def test_shipped_configs_are_accepted(path):
    check_input(load_config(str(path)))


@pytest.mark.parametrize(
    ("key", "value", "wrong", "fix"),
    [
        ("TEST_SIZE", 100, "100", "96 or 128"),
        ("FINAL_SIZE", 417, "417", "416 or 448"),
        ("FINAL_SIZE", -64, "-64", "32 or 64"),
        ("TRAIN_SIZES", [320, 330, 352], "330", "320 or 352"),
        ("TRAIN_SIZES", [416.5], "416.5", "416 or 448"),
        ("TRAIN_SIZES", ["large"], "large", "416 or 448"),
    ],
)
def test_sizes(key, value, wrong, fix):
    refuse((f"INPUT.{key}", value), f"INPUT.{key} is {wrong}, ", f"Use {fix}.")


def test_no_training_sizes():
    refuse(("INPUT.TRAIN_SIZES", []), "INPUT.TRAIN_SIZES is empty", "[416]")


INFINITY = float("inf")
# Least and largest values.
RANGES = {
    "INPUT.MIXUP.PROB": (0.0, 1.0),
    "INPUT.COLOR.PROB": (0.0, 1.0),
    "INPUT.EXPAND.PROB": (0.0, 1.0),
    "INPUT.AFFINE.PROB": (0.0, 1.0),
    "INPUT.MIXUP.ALPHA": (1e-6, INFINITY),
    "INPUT.MIXUP.OFF_EPOCHS": (0.0, INFINITY),
    "INPUT.MIXUP.OFF_ITERS": (0, INFINITY),
    "INPUT.FINAL_SIZE_EPOCHS": (0.0, INFINITY),
    "INPUT.FINAL_SIZE_ITERS": (0, INFINITY),
    "INPUT.SIZE_PERIOD": (1, INFINITY),
    "INPUT.MIN_BOX_SIDE": (0.0, INFINITY),
    "INPUT.MIN_BOX_VISIBLE": (0.0, 1.0),
    "INPUT.COLOR.BRIGHTNESS": (0.0, 255.0),
    "INPUT.COLOR.CONTRAST": (0.0, 1.0),
    "INPUT.COLOR.SATURATION": (0.0, 1.0),
    "INPUT.COLOR.HUE": (0.0, 180.0),
    "INPUT.EXPAND.MAX_RATIO": (1.0, INFINITY),
    "INPUT.AFFINE.ROTATION": (0.0, 45.0),
    "INPUT.AFFINE.SHEAR": (0.0, 45.0),
    "INPUT.AFFINE.SCALE": (0.0, 0.9),
    "INPUT.AFFINE.TRANSLATION": (0.0, 0.9),
    "INPUT.CROP.MIN_SIZE": (0.01, 1.0),
    "DATALOADER.MAX_UNREADABLE": (0.0, 1.0),
    "DATALOADER.CACHE_LIMIT": (0.0, INFINITY),
}


@pytest.mark.parametrize("key", RANGES)
def test_ranges(key):
    """The limits themselves are accepted; what is just beyond is not."""
    low, high = RANGES[key]
    kind = type(low)
    step = kind(1) if kind is int else 1e-3
    accept(*SQUARE, key, low)
    accept(*SQUARE, key, kind(high if high < INFINITY else 1e6))
    wrong = [low - step] if high == INFINITY else [low - step, high + step]
    limit = f"at least {low:g}" if high == INFINITY else f"from {low:g} to {high:g}"
    for value in wrong:
        refuse((*SQUARE, key, value), f"{key} is {value:g}, but must be {limit}")


def test_nan_and_items_of_lists():
    refuse((*SQUARE, "INPUT.MIXUP.PROB", float("nan")), "INPUT.MIXUP.PROB is nan", "from 0 to 1")
    refuse(("INPUT.CROP.MIN_IOUS", [0.1, 1.5]), "INPUT.CROP.MIN_IOUS is 1.5", "from 0 to 1")
    accept("INPUT.CROP.MIN_IOUS", [])


@pytest.mark.parametrize(
    ("key", "value", "choices"),
    [
        (
            "DATALOADER.SAMPLER_TRAIN",
            "RandomSubsetTrainingSampler",
            ["TrainingSampler", "RepeatFactorTrainingSampler"],
        ),
        ("DATALOADER.CACHE", "ram", ["", "memory", "disk"]),
        (
            "INPUT.CROP.TYPE",
            "iou",
            ["min_iou", "relative", "relative_range", "absolute", "absolute_range"],
        ),
        (
            "INPUT.RANDOM_FLIP",
            "Horizontal",
            ["none", "horizontal", "vertical", "horizontal+vertical"],
        ),
        ("INPUT.FORMAT", "rgb", ["RGB", "BGR"]),
    ],
)
def test_choices(key, value, choices):
    refuse((*SQUARE, key, value), f"{key} is '{value}'.", *(f"'{choice}'" for choice in choices))
    for choice in choices:
        accept(*SQUARE, key, choice)


@pytest.mark.parametrize("key", ["MODEL.MASK_ON", "MODEL.KEYPOINT_ON", "MODEL.LOAD_PROPOSALS"])
def test_our_mapper_supports_boxes_only(key):
    refuse((*SQUARE, key, True), f"{key} is True", "Set INPUT.SQUARE to False")
    accept("INPUT.SQUARE", False, key, True)


@pytest.mark.parametrize(
    "options",
    [
        ("INPUT.MIXUP.PROB", 0.5),
        ("INPUT.COLOR.PROB", 0.5),
        ("INPUT.EXPAND.PROB", 0.5),
        ("INPUT.AFFINE.PROB", 0.5),
        ("INPUT.CROP.TYPE", "min_iou", "INPUT.CROP.ENABLED", True),
        ("INPUT.RANDOM_INTERPOLATION", True),
        ("DATALOADER.CACHE", "memory"),
    ],
)
def test_options_of_our_mapper_alone(options):
    """They must not be silently without effect."""
    wanted = f"{options[0]} is set, but has no effect while INPUT.SQUARE is False"
    refuse(("INPUT.SQUARE", False, *options), wanted, "Set INPUT.SQUARE to True")
    accept(*SQUARE, *options)


def test_options_of_detectron2s_mapper():
    accept("INPUT.FORMAT", "L")
    accept("INPUT.CROP.TYPE", "min_iou")  # crops are off
    accept("INPUT.CROP.ENABLED", True)  # Detectron2's own
    # It compares for equality, and would flip in no direction at all.
    both = ("INPUT.RANDOM_FLIP", "horizontal+vertical")
    refuse(both, "INPUT.RANDOM_FLIP is 'horizontal+vertical'", "'none' or 'horizontal' or 'vert")
