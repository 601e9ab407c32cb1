#!/usr/bin/env python
"""Measures where the gradient of the unfused features comes from (paper 3.3), to compare fusions.

    python tools/gradient_consistency.py FOLDER --run LABEL CONFIG [WEIGHTS] [--run ...] \\
        [--batches 8] [--seed 0] [--opts KEY VALUE ...]

Each run is measured before training, from a random initialisation or the config's MODEL.WEIGHTS,
and, where WEIGHTS is a checkpoint of its training, after it; always on the first batches that a
training with this seed sees. FOLDER gets gradients.md, gradients.json and gradients.png.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from dataclasses import asdict
from itertools import islice
from pathlib import Path

from ..analysis.gradients import LevelGradients, measure_gradients

# First, for it says what is not installed.
from ..checkpoint import Checkpointer
from ..data import build_train_loader
from ..engine import Trainer, argument_parser, setup, user_errors
from ..visualization.gradient_figure import Measurement, draw_gradients, gradient_table

# isort: split
import torch
from detectron2.config import CfgNode
from tqdm import tqdm


def read_config(config_file: str, weights: str, args: argparse.Namespace) -> CfgNode:
    """The config of a run, with the command line's seed and ``weights``, where there are any.

    Raises:
        ValueError: naming the key or file, its value, and the fix.
    """
    options = [*args.opts, "SEED", str(args.seed)]
    if weights:
        options += ["MODEL.WEIGHTS", weights]
    cfg = setup(argument_parser().parse_args(["--config-file", config_file, *options]))
    if cfg.MODEL.META_ARCHITECTURE != "YOLOv3":
        raise ValueError(
            f"{config_file}: MODEL.META_ARCHITECTURE is '{cfg.MODEL.META_ARCHITECTURE}'; gradients "
            "are measured between neck and fusion of a YOLOv3. Use a config of configs/coco."
        )
    return cfg


def plan(args: argparse.Namespace) -> Iterator[tuple[Measurement, CfgNode]]:
    """What is to be measured, with its config; the levels are still missing."""
    for label, config_file, *weights in args.run:
        for stage, file in zip(("before", "after"), ("", *weights)):
            cfg = read_config(config_file, file, args)
            yield Measurement(label, stage, config_file, cfg.MODEL.WEIGHTS, []), cfg


def measure(cfg: CfgNode, num_batches: int, description: str) -> list[LevelGradients]:
    """Build a config's detector, and measure it on the first batches of its training."""
    torch.manual_seed(cfg.SEED)
    model = Trainer.build_model(cfg).train()
    Checkpointer(model).load(cfg.MODEL.WEIGHTS)
    batches = islice(build_train_loader(cfg), num_batches)
    return measure_gradients(
        model, tqdm(batches, desc=description, total=num_batches, unit="batch")
    )


def make_folder(folder: Path) -> None:
    """Create the folder of the results, or raise a ValueError."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"FOLDER {folder} cannot be created: {error.strerror}.") from error


def write_report(measurements: list[Measurement], args: argparse.Namespace) -> None:
    """Write, and print, the table; write the numbers and the figure."""
    table = gradient_table(measurements)
    (args.folder / "gradients.md").write_text(f"{table}\n")
    content = {
        "batches": args.batches,
        "seed": args.seed,
        "opts": args.opts,
        "measurements": [asdict(x) for x in measurements],
    }
    (args.folder / "gradients.json").write_text(json.dumps(content, indent=2) + "\n")
    draw_gradients(measurements, args.folder / "gradients.png")
    print(f"{table}\nWrote gradients.md, gradients.json and gradients.png to {args.folder}.")


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0],
        usage="%(prog)s FOLDER --run LABEL CONFIG [WEIGHTS] [--run ...] [--batches N] [--seed N] "
        "[--opts KEY VALUE ...]",
    )
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="of the results")
    parser.add_argument("--run", action="append", nargs="+", required=True, metavar="LABEL CONFIG")
    parser.add_argument("--batches", type=int, default=8, help="of the training stream")
    parser.add_argument("--seed", type=int, default=0, help="of initialisation and stream")
    parser.add_argument("--opts", nargs="+", default=[], metavar="KEY VALUE", help="of all runs")
    args = parser.parse_args()
    if any(len(run) not in (2, 3) for run in args.run):
        parser.error("--run takes LABEL CONFIG, or LABEL CONFIG WEIGHTS")
    if len({label for label, *_ in args.run}) < len(args.run):
        parser.error("each --run needs a LABEL of its own")
    if args.batches < 1 or args.seed < 0:
        parser.error("--batches must be at least 1, and --seed at least 0")
    return args


def main() -> None:
    args = parse_args()
    with user_errors():
        make_folder(args.folder)
        planned = list(plan(args))  # all configs, before the first is measured
        for measurement, cfg in planned:
            name = f"{measurement.label}, {measurement.stage} training"
            measurement.levels = measure(cfg, args.batches, name)
    write_report([measurement for measurement, _ in planned], args)


if __name__ == "__main__":
    main()
