"""Checks of the keys of INPUT and DATALOADER, before any data is read."""

from __future__ import annotations

from operator import attrgetter

from detectron2.config import CfgNode

from ..config import INFINITY, check_ranges, config_values

# Keys with the smallest and the largest value that each of them, or each item of a list, may have.
RANGES = {
    **dict.fromkeys([f"INPUT.{x}.PROB" for x in ("MIXUP", "COLOR", "EXPAND", "AFFINE")], (0, 1)),
    "INPUT.MIXUP.ALPHA": (1e-6, INFINITY),
    "INPUT.MIXUP.OFF_EPOCHS": (0, INFINITY),
    "INPUT.MIXUP.OFF_ITERS": (0, INFINITY),
    "INPUT.FINAL_SIZE_EPOCHS": (0, INFINITY),
    "INPUT.FINAL_SIZE_ITERS": (0, INFINITY),
    "INPUT.SIZE_PERIOD": (1, INFINITY),
    "INPUT.MIN_BOX_SIDE": (0, INFINITY),
    "INPUT.MIN_BOX_VISIBLE": (0, 1),
    "INPUT.COLOR.BRIGHTNESS": (0, 255),
    "INPUT.COLOR.CONTRAST": (0, 1),
    "INPUT.COLOR.SATURATION": (0, 1),
    "INPUT.COLOR.HUE": (0, 180),
    "INPUT.EXPAND.MAX_RATIO": (1, INFINITY),
    "INPUT.AFFINE.ROTATION": (0, 45),
    "INPUT.AFFINE.SHEAR": (0, 45),
    "INPUT.AFFINE.SCALE": (0, 0.9),
    "INPUT.AFFINE.TRANSLATION": (0, 0.9),
    "INPUT.CROP.MIN_IOUS": (0, 1),
    "INPUT.CROP.MIN_SIZE": (0.01, 1),
    "DATALOADER.MAX_UNREADABLE": (0, 1),
    "DATALOADER.CACHE_LIMIT": (0, INFINITY),
}
FLIPS = ("none", "horizontal", "vertical")  # Detectron2's mapper
CHOICES = {
    "DATALOADER.SAMPLER_TRAIN": ("TrainingSampler", "RepeatFactorTrainingSampler"),
    "DATALOADER.CACHE": ("", "memory", "disk"),
    "INPUT.CROP.TYPE": ("min_iou", "relative", "relative_range", "absolute", "absolute_range"),
}
# Where our mapper (True) or Detectron2's (False), which supports more formats, is used.
CHOICES_BY_SQUARE = {
    True: {"INPUT.RANDOM_FLIP": (*FLIPS, "horizontal+vertical"), "INPUT.FORMAT": ("RGB", "BGR")},
    False: {"INPUT.RANDOM_FLIP": FLIPS},
}


def check_input(cfg: CfgNode) -> None:
    """Check the values of INPUT and DATALOADER.

    Raises:
        ValueError: naming the key, its value, and the fix.
    """
    if not cfg.INPUT.TRAIN_SIZES:
        raise ValueError("INPUT.TRAIN_SIZES is empty: name at least one size, as in [416].")
    for key in ("INPUT.TRAIN_SIZES", "INPUT.FINAL_SIZE", "INPUT.TEST_SIZE"):
        for size in config_values(cfg, key):
            if not isinstance(size, int) or size <= 0 or size % 32:
                below = max(int(size) // 32 * 32, 32) if isinstance(size, (int, float)) else 416
                raise ValueError(
                    f"{key} is {size}, which is not a positive multiple of 32. "
                    f"Use {below} or {below + 32}."
                )
    check_ranges(cfg, RANGES)
    for key, choices in (CHOICES | CHOICES_BY_SQUARE[cfg.INPUT.SQUARE]).items():
        value = attrgetter(key)(cfg)
        if value not in choices:
            raise ValueError(f"{key} is '{value}'. Use {' or '.join(map(repr, choices))}.")
    _check_mapper(cfg)


def _check_mapper(cfg: CfgNode) -> None:
    """Raise a ValueError if a key needs the other mapper than INPUT.SQUARE chooses."""
    if cfg.INPUT.SQUARE:
        for key in ("MASK_ON", "KEYPOINT_ON", "LOAD_PROPOSALS"):
            if cfg.MODEL[key]:
                raise ValueError(
                    f"MODEL.{key} is True, but the mapper of INPUT.SQUARE supports boxes only. Set "
                    "INPUT.SQUARE to False."
                )
        return
    used = [key for key in RANGES if key.endswith(".PROB") and attrgetter(key)(cfg)]
    used += ["INPUT.CROP.TYPE"] * (cfg.INPUT.CROP.ENABLED and cfg.INPUT.CROP.TYPE == "min_iou")
    used += ["INPUT.RANDOM_INTERPOLATION"] * cfg.INPUT.RANDOM_INTERPOLATION
    used += ["DATALOADER.CACHE"] * bool(cfg.DATALOADER.CACHE)
    if used:
        raise ValueError(
            f"{used[0]} is set, but has no effect while INPUT.SQUARE is False: Detectron2's own "
            "mapper is used. Set INPUT.SQUARE to True."
        )
