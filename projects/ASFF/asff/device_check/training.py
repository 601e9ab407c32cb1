"""Short trainings on the device: the loss falls in every dtype, and a resumed run goes on."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from ..config_files import get_config_file
from ..data.datasets.shapes import write_shapes_dataset
from ..engine import argument_parser, main, setup
from ..report import read_metrics
from .target import NARROW, Result, Target, distance

ITERATIONS = 40  # the loss is written every 20, as the median of these
OPTIONS = (
    *("MODEL.YOLOV3.FEATURE_ADAPTION", True, "MODEL.YOLOV3.RFB", True),
    *("MODEL.YOLOV3.DROP_BLOCK.KEEP_PROB", 0.95),
    *("MODEL.YOLOV3.DROP_BLOCK.SCHEDULE", [[0.0, 1, 3, 3]]),
    *("SOLVER.MAX_ITER", ITERATIONS, "SOLVER.CHECKPOINT_PERIOD", ITERATIONS // 2),
    *("SOLVER.WARMUP_ITERS", 5, "TEST.EVAL_PERIOD", 0, "TEST.VIS_IMAGES", 0),
    *("DATASETS.TRAIN", ("train",), "DATASETS.TEST", ()),
)
SMALL = (
    *NARROW,
    *("INPUT.TRAIN_SIZES", [96], "SOLVER.IMS_PER_BATCH", 4, "DATALOADER.NUM_WORKERS", 0),
)


def check_training(target: Target) -> Iterator[Result]:
    """Train the quick start's detector, with everything that ASFF* has, and resume it."""
    size = 192 if target.on_gpu else 96
    write_shapes_dataset(target.folder / "shapes", num_train=64, num_val=8, image_size=size)
    for dtype in ("float32", "bfloat16", "float16"):
        amp = ("SOLVER.AMP.ENABLED", True, "SOLVER.AMP.DTYPE", dtype)
        folder = target.folder / dtype
        train(target, folder, *(() if dtype == "float32" else amp))
        metrics = read_metrics(folder / "metrics.json")
        first, *_, last = (x["total_loss"] for x in metrics if "total_loss" in x)
        numbers = f"loss {first:.1f} -> {last:.1f} in {ITERATIONS} steps"
        yield Result(f"training, {dtype}", last < 0.95 * first, numbers)
    yield check_resume(target)


def train(target: Target, folder: Path, *opts: object, resume: bool = False) -> None:
    """Train into a folder, and show nothing but warnings."""
    shapes = target.folder / "shapes"
    files = {"annotations": str(shapes / "train.json"), "images": str(shapes / "images")}
    dataset = {"name": "train", "format": "coco", **files}
    options = (*OPTIONS, *(() if target.on_gpu else SMALL), "DATASETS.CUSTOM", [dataset])
    options += ("MODEL.DEVICE", target.device.type, "OUTPUT_DIR", folder, *opts)
    args = ["--config-file", get_config_file("quickstart.yaml"), *["--resume"] * resume]
    args = argument_parser().parse_args([*args, *map(str, options)])
    disabled = logging.root.manager.disable
    logging.disable(logging.INFO)
    try:
        main(setup(args), args)
    finally:
        logging.disable(disabled)


def check_resume(target: Target) -> Result:
    """Resume the float32 training from its middle: its end is the same, on a GPU nearly so."""
    whole, resumed = target.folder / "float32", target.folder / "resumed"
    middle = f"model_{ITERATIONS // 2 - 1:07d}.pth"
    resumed.mkdir()
    shutil.copy(whole / middle, resumed)
    (resumed / "last_checkpoint").write_text(middle)
    train(target, resumed, resume=True)
    start, end = read_weights(whole / middle), read_weights(whole / "model_final.pth")
    far = distance(read_weights(resumed / "model_final.pth") - start, end - start)
    # Sums of a GPU have another order each time, and what follows drifts apart.
    passed = far < 0.2 if target.on_gpu else far == 0
    return Result("resume", passed, f"weights differ by {far:.1e} of what the rest changed")


def read_weights(checkpoint: Path) -> Tensor:
    """Return all weights of a checkpoint in one vector."""
    tensors = torch.load(checkpoint, weights_only=True, map_location="cpu")["model"].values()
    return torch.cat([x.flatten().double() for x in tensors if x.is_floating_point()])
