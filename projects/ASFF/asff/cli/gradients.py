"""Measure how consistent the gradients of the levels are (paper 3.3), to compare fusions.

    asff gradients --config-files configs/ablations/shapes_yolov3_*.yaml
    asff gradients --config-files A.yaml B.yaml --weights A.pth B.pth --output FOLDER --seed 1

Each config is measured before training, from a random initialisation or its MODEL.WEIGHTS, and, if
--weights names checkpoints, one for each config, after training too; always on the first batches of
a training with this seed. The output folder gets gradients.md, gradients.json and gradients.png.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from . import VerbParser, at_least

if TYPE_CHECKING:
    from detectron2.config import CfgNode

    from ..analysis import LevelGradients, Measurement


def add_arguments(parser: VerbParser) -> None:
    parser.add_argument("--config-files", nargs="+", required=True, metavar="FILE", help="configs")
    parser.add_argument(
        "--weights", nargs="+", default=[], metavar="FILE", help="their checkpoints after training"
    )
    parser.add_argument("--batches", type=at_least(1), default=8, help="default: %(default)s")
    parser.add_argument(
        "--seed", type=at_least(0), default=0, help="of initialisation and batches; default: 0"
    )
    parser.add_output("output/gradients")
    parser.add_opts()


def run(args: argparse.Namespace) -> None:
    """Measure all configs, and write the results."""
    from ..visualization.files import OutputFolder

    OutputFolder(args.output, ())  # raises an error if it cannot be written to
    planned = _plan(args)  # all configs are checked before the first is measured
    for measurement, cfg in planned:
        name = f"{measurement.label}, {measurement.stage} training"
        measurement.levels = _measure(cfg, args.batches, name)
    _write_results([measurement for measurement, _ in planned], args)


def _plan(args: argparse.Namespace) -> list[tuple[Measurement, CfgNode]]:
    """Return the measurements, still without levels, and their configs."""
    from ..analysis import Measurement
    from ..analysis.gradients import STAGES

    labels = [Path(file).stem for file in args.config_files]
    if len({*labels}) < len(labels):
        raise ValueError(f"--config-files need different names, which are labels: {labels}.")
    if len(args.weights) not in (0, len(labels)):
        raise ValueError(
            f"--weights names {len(args.weights)} checkpoints for {len(labels)} configs: name one "
            "for each of them, or none."
        )
    planned = []
    for index, (label, file) in enumerate(zip(labels, args.config_files)):
        for stage, weights in zip(STAGES, ("", *args.weights[index : index + 1])):
            cfg = _read_config(file, weights, args)
            planned.append((Measurement(label, stage, file, cfg.MODEL.WEIGHTS, []), cfg))
    return planned


def _read_config(config_file: str, weights: str, args: argparse.Namespace) -> CfgNode:
    """Read a config, with the command line's seed and, if not empty, these weights."""
    from ..engine import argument_parser, setup

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


def _measure(cfg: CfgNode, num_batches: int, description: str) -> list[LevelGradients]:
    """Build a detector, and measure it on the first batches of its training."""
    from itertools import islice

    import torch
    from tqdm import tqdm

    from ..analysis import measure_gradients
    from ..checkpoint import Checkpointer
    from ..data import build_train_loader
    from ..engine import Trainer

    torch.manual_seed(cfg.SEED)
    model = Trainer.build_model(cfg).train()
    Checkpointer(model).load(cfg.MODEL.WEIGHTS)
    batches = islice(build_train_loader(cfg), num_batches)
    return measure_gradients(
        model, tqdm(batches, desc=description, total=num_batches, unit="batch")
    )


def _write_results(measurements: list[Measurement], args: argparse.Namespace) -> None:
    """Write and print the table; write the numbers and the figure."""
    import json
    from dataclasses import asdict

    from ..visualization import draw_gradients, gradient_table

    table = gradient_table(measurements)
    (args.output / "gradients.md").write_text(f"{table}\n")
    content = {
        "batches": args.batches,
        "seed": args.seed,
        "opts": args.opts,
        "measurements": [asdict(x) for x in measurements],
    }
    (args.output / "gradients.json").write_text(json.dumps(content, indent=2) + "\n")
    draw_gradients(measurements, args.output / "gradients.png")
    print(f"{table}\nWrote gradients.md, gradients.json and gradients.png to {args.output}.")
