"""Checks of the keys of INPUT and DATALOADER, before any data is read."""

from __future__ import annotations

from collections.abc import Iterator

from detectron2.config import CfgNode

SAMPLERS = ("TrainingSampler", "RepeatFactorTrainingSampler")
CACHES = ("", "memory", "disk")
CROPS = ("min_iou", "relative", "relative_range", "absolute", "absolute_range")
FLIPS = ("none", "horizontal", "vertical")  # Detectron2's; our mapper can do both
FORMATS = ("RGB", "BGR")
PARTS = ("MIXUP", "COLOR", "EXPAND", "AFFINE")


def check_input(cfg: CfgNode) -> None:
    """Check the values of INPUT and DATALOADER.

    Raises:
        ValueError: naming the key, its value, and the fix.
    """
    for key, size in _sizes(cfg):
        if not isinstance(size, int) or size <= 0 or size % 32:
            below = max(int(size) // 32 * 32, 32) if isinstance(size, (int, float)) else 416
            raise ValueError(
                f"INPUT.{key} is {size}, which is not a positive multiple of 32. "
                f"Use {below} or {below + 32}."
            )
    if not cfg.INPUT.TRAIN_SIZES:
        raise ValueError("INPUT.TRAIN_SIZES is empty: name at least one size, as in [416].")
    for key, value, wanted in _ranges(cfg):
        low, high = wanted
        if not low <= value <= high:
            limit = f"from {low:g} to {high:g}" if high < float("inf") else f"at least {low:g}"
            raise ValueError(f"{key} is {value:g}, but must be {limit}.")
    for key, value, choices in (
        ("DATALOADER.SAMPLER_TRAIN", cfg.DATALOADER.SAMPLER_TRAIN, SAMPLERS),
        ("DATALOADER.CACHE", cfg.DATALOADER.CACHE, CACHES),
        ("INPUT.CROP.TYPE", cfg.INPUT.CROP.TYPE, CROPS),
        (
            "INPUT.RANDOM_FLIP",
            cfg.INPUT.RANDOM_FLIP,
            (*FLIPS, "horizontal+vertical") if cfg.INPUT.SQUARE else FLIPS,
        ),
        # Detectron2's mapper supports others.
        ("INPUT.FORMAT", cfg.INPUT.FORMAT, FORMATS if cfg.INPUT.SQUARE else (cfg.INPUT.FORMAT,)),
    ):
        if value not in choices:
            raise ValueError(f"{key} is '{value}'. Use {' or '.join(map(repr, choices))}.")
    _check_mapper(cfg)


def _check_mapper(cfg: CfgNode) -> None:
    """Raise a ValueError if the config uses a feature of the mapper that it does not choose."""
    if cfg.INPUT.SQUARE:
        for key in ("MASK_ON", "KEYPOINT_ON", "LOAD_PROPOSALS"):
            if cfg.MODEL[key]:
                raise ValueError(
                    f"MODEL.{key} is True, but the mapper of INPUT.SQUARE supports boxes only. Set "
                    "INPUT.SQUARE to False."
                )
        return
    used = [f"INPUT.{part}.PROB" for part in PARTS if cfg.INPUT[part].PROB]
    used += ["INPUT.CROP.TYPE"] * (cfg.INPUT.CROP.ENABLED and cfg.INPUT.CROP.TYPE == "min_iou")
    used += ["INPUT.RANDOM_INTERPOLATION"] * cfg.INPUT.RANDOM_INTERPOLATION
    used += ["DATALOADER.CACHE"] * bool(cfg.DATALOADER.CACHE)
    if used:
        raise ValueError(
            f"{used[0]} is set, but has no effect while INPUT.SQUARE is False: Detectron2's own "
            "mapper is used. Set INPUT.SQUARE to True."
        )


def _sizes(cfg: CfgNode) -> Iterator[tuple[str, int]]:
    """Yield the keys of INPUT that hold a side of the square, and their values."""
    yield from (("TRAIN_SIZES", size) for size in cfg.INPUT.TRAIN_SIZES)
    yield from ((key, cfg.INPUT[key]) for key in ("FINAL_SIZE", "TEST_SIZE"))


def _ranges(cfg: CfgNode) -> Iterator[tuple[str, float, tuple[float, float]]]:
    """Yield keys, their values, and the smallest and largest value allowed."""
    share, positive, large = (0, 1), (1e-6, float("inf")), (0, float("inf"))
    options = cfg.INPUT
    for part in PARTS:
        yield f"INPUT.{part}.PROB", options[part].PROB, share
    yield "INPUT.MIXUP.ALPHA", options.MIXUP.ALPHA, positive
    for key in ("OFF_EPOCHS", "OFF_ITERS"):
        yield f"INPUT.MIXUP.{key}", options.MIXUP[key], large
    for key in ("FINAL_SIZE_EPOCHS", "FINAL_SIZE_ITERS", "MIN_BOX_SIDE"):
        yield f"INPUT.{key}", options[key], large
    yield "INPUT.SIZE_PERIOD", options.SIZE_PERIOD, (1, float("inf"))
    yield "INPUT.MIN_BOX_VISIBLE", options.MIN_BOX_VISIBLE, share
    for key in ("CONTRAST", "SATURATION"):
        yield f"INPUT.COLOR.{key}", options.COLOR[key], share
    yield "INPUT.COLOR.BRIGHTNESS", options.COLOR.BRIGHTNESS, (0, 255)
    yield "INPUT.COLOR.HUE", options.COLOR.HUE, (0, 180)
    yield "INPUT.EXPAND.MAX_RATIO", options.EXPAND.MAX_RATIO, (1, float("inf"))
    for key in ("ROTATION", "SHEAR"):
        yield f"INPUT.AFFINE.{key}", options.AFFINE[key], (0, 45)
    for key in ("SCALE", "TRANSLATION"):
        yield f"INPUT.AFFINE.{key}", options.AFFINE[key], (0, 0.9)
    yield from (("INPUT.CROP.MIN_IOUS", x, share) for x in options.CROP.MIN_IOUS)
    yield "INPUT.CROP.MIN_SIZE", options.CROP.MIN_SIZE, (0.01, 1)
    yield "DATALOADER.MAX_UNREADABLE", cfg.DATALOADER.MAX_UNREADABLE, share
    yield "DATALOADER.CACHE_LIMIT", cfg.DATALOADER.CACHE_LIMIT, large
