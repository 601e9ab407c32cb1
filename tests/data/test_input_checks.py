"""Wrong values of INPUT and DATALOADER are refused by key, value and fix."""

from __future__ import annotations

import re

import pytest

from asff.data import check_input
from asff.engine.setup import load_config
from tests.helpers import detector_cfg
from tests.training import ROOT

SQUARE = ("INPUT.SQUARE", True)


def complaint(*options: object) -> str:
    with pytest.raises(ValueError) as caught:
        check_input(detector_cfg(*options))
    return str(caught.value)


def accept(*options: object) -> None:
    check_input(detector_cfg(*options))


@pytest.mark.parametrize(
    "path", sorted((ROOT / "configs").rglob("*.yaml")), ids=lambda path: path.stem
)
def test_shipped_configs_are_accepted(path):
    check_input(load_config(str(path)))


def test_defaults_are_accepted():
    """Of our mapper, and of Detectron2's."""
    accept(*SQUARE)
    accept("INPUT.SQUARE", False)


@pytest.mark.parametrize("key", ["TEST_SIZE", "FINAL_SIZE"])
@pytest.mark.parametrize(
    ("size", "fix"),
    [(100, "96 or 128"), (417, "416 or 448"), (31, "32 or 64"), (0, "32 or 64"), (-64, "32 or 64")],
)
def test_sizes(key, size, fix):
    message = f"INPUT.{key} is {size}, which is not a positive multiple of 32. Use {fix}."
    assert complaint(f"INPUT.{key}", size) == message


@pytest.mark.parametrize(
    ("sizes", "wrong", "fix"),
    [
        ([320, 330, 352], "330", "320 or 352"),
        ([416.5], "416.5", "416 or 448"),
        (["large"], "large", "416 or 448"),
    ],
)
def test_training_sizes(sizes, wrong, fix):
    message = complaint("INPUT.TRAIN_SIZES", sizes)
    wanted = f"INPUT.TRAIN_SIZES is {wrong}, which is not a positive multiple of 32. Use {fix}."
    assert message == wanted


def test_no_training_sizes():
    message = "INPUT.TRAIN_SIZES is empty: name at least one size, as in [416]."
    assert complaint("INPUT.TRAIN_SIZES", []) == message


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
    """The limits themselves are fine; what is just beyond is not."""
    low, high = RANGES[key]
    kind = type(low)
    step = kind(1) if kind is int else 1e-3
    accept(*SQUARE, key, low)
    accept(*SQUARE, key, kind(high if high < INFINITY else 1e6))
    wrong = [low - step] if high == INFINITY else [low - step, high + step]
    limit = f"at least {low:g}" if high == INFINITY else f"from {low:g} to {high:g}"
    for value in wrong:
        assert complaint(*SQUARE, key, value) == f"{key} is {value:g}, but must be {limit}."


def test_what_is_no_number():
    message = "INPUT.MIXUP.PROB is nan, but must be from 0 to 1."
    assert complaint(*SQUARE, "INPUT.MIXUP.PROB", float("nan")) == message


@pytest.mark.parametrize("wrong", [-0.1, 1.5])
def test_thresholds_of_crops(wrong):
    message = complaint("INPUT.CROP.MIN_IOUS", [0.1, wrong])
    assert message == f"INPUT.CROP.MIN_IOUS is {wrong:g}, but must be from 0 to 1."
    accept("INPUT.CROP.MIN_IOUS", [])


@pytest.mark.parametrize(
    ("key", "value", "choices"),
    [
        (
            "DATALOADER.SAMPLER_TRAIN",
            "RandomSubsetTrainingSampler",
            "'TrainingSampler' or 'RepeatFactorTrainingSampler'",
        ),
        ("DATALOADER.CACHE", "ram", "'' or 'memory' or 'disk'"),
        (
            "INPUT.CROP.TYPE",
            "iou",
            "'min_iou' or 'relative' or 'relative_range' or 'absolute' or 'absolute_range'",
        ),
        (
            "INPUT.RANDOM_FLIP",
            "Horizontal",
            "'none' or 'horizontal' or 'vertical' or 'horizontal+vertical'",
        ),
        ("INPUT.FORMAT", "rgb", "'RGB' or 'BGR'"),
    ],
)
def test_choices(key, value, choices):
    assert complaint(*SQUARE, key, value) == f"{key} is '{value}'. Use {choices}."
    for choice in re.findall(r"'(.*?)'", choices):
        accept(*SQUARE, key, choice)


def test_formats_of_detectron2s_mapper():
    accept("INPUT.SQUARE", False, "INPUT.FORMAT", "L")


@pytest.mark.parametrize("key", ["MODEL.MASK_ON", "MODEL.KEYPOINT_ON", "MODEL.LOAD_PROPOSALS"])
def test_squares_of_boxes_alone(key):
    """Detectors of masks need Detectron2's mapper."""
    message = complaint(*SQUARE, key, True)
    assert message.startswith(f"{key} is True") and "Set INPUT.SQUARE to False" in message
    accept("INPUT.SQUARE", False, key, True)


@pytest.mark.parametrize(
    ("key", "options"),
    [
        ("INPUT.MIXUP.PROB", ("INPUT.MIXUP.PROB", 0.5)),
        ("INPUT.COLOR.PROB", ("INPUT.COLOR.PROB", 0.5)),
        ("INPUT.EXPAND.PROB", ("INPUT.EXPAND.PROB", 0.5)),
        ("INPUT.AFFINE.PROB", ("INPUT.AFFINE.PROB", 0.5)),
        ("INPUT.CROP.TYPE", ("INPUT.CROP.ENABLED", True, "INPUT.CROP.TYPE", "min_iou")),
        ("DATALOADER.CACHE", ("DATALOADER.CACHE", "memory")),
    ],
)
def test_what_only_the_square_mapper_can_do(key, options):
    """It must not be silently without effect."""
    assert complaint("INPUT.SQUARE", False, *options) == (
        f"{key} is set, but has no effect while INPUT.SQUARE is False: Detectron2's own mapper is "
        "used. Set INPUT.SQUARE to True."
    )
    accept(*SQUARE, *options)


def test_crops_that_are_off_do_not_matter():
    accept("INPUT.SQUARE", False, "INPUT.CROP.TYPE", "min_iou")
    accept("INPUT.SQUARE", False, "INPUT.CROP.ENABLED", True)  # Detectron2's own


def test_both_flips_need_our_mapper():
    """Detectron2's compares for equality, and then flips in no direction at all."""
    both = ("INPUT.RANDOM_FLIP", "horizontal+vertical")
    accept(*SQUARE, *both)
    assert complaint(*both) == (
        "INPUT.RANDOM_FLIP is 'horizontal+vertical'. Use 'none' or 'horizontal' or 'vertical'."
    )


def test_random_interpolation_needs_our_mapper():
    accept(*SQUARE, "INPUT.RANDOM_INTERPOLATION", True)
    assert "INPUT.RANDOM_INTERPOLATION is set, but has no effect while INPUT.SQUARE is False" in (
        complaint("INPUT.RANDOM_INTERPOLATION", True)
    )
