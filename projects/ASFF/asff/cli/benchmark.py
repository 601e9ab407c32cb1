"""Measure speed and memory of models, training and data loading on this machine.

    asff benchmark model --config-files A.yaml B.yaml [--height 608] [--width 608] [KEY VALUE ...]
    asff benchmark train --config-file FILE --images 4 --size 320 [KEY VALUE ...]
    asff benchmark data --config-file FILE [--size 608] [--workers 2] [KEY VALUE ...]
    asff benchmark memory [--images 1000000] [--workers 2]
    asff benchmark losses

None of them needs a dataset: images are random, or generated photographs.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

from . import VerbParser, at_least


def add_arguments(parser: VerbParser) -> None:
    commands = parser.add_subparsers(
        required=True, metavar="COMMAND", title="commands", parser_class=VerbParser
    )

    def add(name: str, benchmark: Callable, summary: str, numbers: dict[str, tuple]) -> VerbParser:
        command = commands.add_parser(name, help=summary, description=f"Measure {summary}.")
        command.set_defaults(benchmark=benchmark)
        for option, (default, text) in numbers.items():
            kind, text = at_least(min(default, 1)), f"{text}; default: {default}"
            command.add_argument(option, type=kind, default=default, metavar="N", help=text)
        return command

    pixels = "height and width in pixels, divisible by 32"
    numbers = {"--height": (608, "of the image in pixels"), "--width": (608, "of the image")}
    model = add("model", _run_model, "parameters and multiply-adds of models", numbers)
    model.add_argument("--config-files", nargs="+", required=True, metavar="FILE")
    model.add_opts()

    numbers = {"--images": (4, "per step"), "--size": (320, pixels), "--repeats": (10, "steps")}
    train = add("train", _run_train, "the time of a training step on random images", numbers)
    train.add_config_file(required=True)

    numbers = {
        "--size": (608, pixels),
        "--samples": (400, "samples to measure"),
        "--files": (60, "photographs to generate"),
        "--quality": (90, "of their JPEG compression"),
        "--workers": (0, "of a loader that is measured, too"),
    }
    data = add("data", _run_data, "training samples per second, and their parts", numbers)
    data.add_config_file(required=True)

    numbers = {"--images": (1_000_000, "of the dataset"), "--workers": (2, "of the loader")}
    add("memory", _run_memory, "the memory of data workers with a large dataset", numbers)

    numbers = {"--images": (16, "per batch"), "--boxes": (50, "per image"), "--size": (416, pixels)}
    add("losses", _run_losses, "matching and losses against a plain loop", numbers)


def run(args: argparse.Namespace) -> None:
    print(args.benchmark(args))


def _run_model(args: argparse.Namespace) -> str:
    from ..benchmark.model import measure_models
    from ..config_files import load_config

    cfgs = {Path(file).stem: load_config(file, args.opts) for file in args.config_files}
    return measure_models(cfgs, args.height, args.width)


def _run_train(args: argparse.Namespace) -> str:
    from ..benchmark.train import measure_train
    from ..config_files import load_config

    cfg = load_config(args.config_file, args.opts)
    return f"{args.config_file}: {measure_train(cfg, args.images, args.size, args.repeats)}"


def _run_data(args: argparse.Namespace) -> str:
    from ..benchmark.data import measure_data
    from ..config_files import load_config

    result = measure_data(
        load_config(args.config_file, args.opts),
        size=args.size,
        num_samples=args.samples,
        num_files=args.files,
        quality=args.quality,
        num_workers=args.workers,
    )
    return f"{args.config_file}: {result}"


def _run_memory(args: argparse.Namespace) -> str:
    from ..benchmark.memory import measure_memory

    return measure_memory(args.images, args.workers)


def _run_losses(args: argparse.Namespace) -> str:
    from ..benchmark.losses import measure_losses

    return measure_losses(args.images, args.boxes, args.size)
