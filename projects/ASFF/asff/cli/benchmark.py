"""Measure speed and memory of detectors, training, data loading and evaluation on this machine.

    asff benchmark model --config-files A.yaml B.yaml [--sizes 416 608] [--batches 1 4]
    asff benchmark model --config-files A.yaml --against REVISION --variants "TEST.DTYPE bfloat16"
    asff benchmark train --config-files A.yaml B.yaml [--images 4] [--boxes 10 100] [KEY VALUE ...]
    asff benchmark data --config-file FILE [--size 608] [--workers 2] [KEY VALUE ...]
    asff benchmark evaluate [--images 5000] [--detections 100]
    asff benchmark start --config-file FILE [--images 1000 100000]
    asff benchmark memory [--images 1000000] [--workers 2]
    asff benchmark plot A.json B.json --output FIGURE.webp

None of them needs a dataset: images are random, or generated photographs. Candidates take turns, so
that the load of the machine cancels in the ratios: medians over the rounds, to the first candidate
with the same inputs. The detectors of `model` and `train` have processes of their own.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path

from . import VerbParser, at_least

MAY_BE_ZERO = ("--rounds", "--objects", "--boxes", "--workers")


def add_arguments(parser: VerbParser) -> None:
    commands = parser.add_subparsers(
        required=True, metavar="COMMAND", title="commands", parser_class=VerbParser
    )

    def add(name: str, benchmark: Callable, summary: str, numbers: dict[str, tuple]) -> VerbParser:
        command = commands.add_parser(name, help=summary, description=f"Measure {summary}.")
        command.set_defaults(benchmark=benchmark, stage="total")
        command.add_output(metavar="FILE", help="write the numbers to this JSON file, too")
        for option, (default, text) in numbers.items():
            several = isinstance(default, tuple)
            shown = " ".join(map(str, default)) if several else default
            command.add_argument(
                option,
                type=at_least(0 if option in MAY_BE_ZERO else 1),
                default=default,
                nargs="+" if several else None,
                metavar="N",
                help=f"{text}; default: {shown}",
            )
        return command

    def add_detectors(name: str, summary: str, size: int, numbers: dict[str, tuple]) -> VerbParser:
        command = add(name, _run_detectors, summary, numbers)
        command.set_defaults(task=name, exported=(), weights="", objects=0, weights_folder=None)
        command.add_argument("--config-files", nargs="+", required=True, metavar="FILE")
        command.add_argument(
            "--sizes",
            nargs="+",
            type=_size,
            default=[(size, size)],
            metavar="SIZE",
            help=f"of images: 416, or height x width as 800x1216; default: {size}",
        )
        command.add_argument(
            "--threads", nargs="+", type=at_least(1), metavar="N", help="default: PyTorch's"
        )
        command.add_argument(
            "--variants",
            nargs="+",
            default=(),
            metavar='"KEY VALUE"',
            help="measure every config with each of these, too",
        )
        command.add_argument(
            "--against",
            default="",
            metavar="VERSION",
            help="compare with the code of a commit, or of a checkout, which is measured first",
        )
        command.add_argument(
            "--stage", default="total", help="whose percentiles and ratio are shown; default: total"
        )
        command.add_opts()
        return command

    rounds = {"--rounds": (10, "in which each candidate is measured once; 0: none")}
    numbers = {
        "--batches": ((1,), "images at once"),
        "--objects": (200, "anchors of an image that random weights take for objects"),
        **rounds,
    }
    model = add_detectors("model", "latency, parameters and multiply-adds", 416, numbers)
    model.add_weights(default="", help="checkpoint of the configs; default: random weights")
    model.add_argument(
        "--weights-folder",
        type=Path,
        metavar="FOLDER",
        help="keep random weights and images, to export them",
    )
    model.add_argument(
        "--exported", nargs="+", default=(), metavar="FILE", help="written by asff export"
    )
    numbers = {"--images": ((4,), "per step"), "--boxes": ((14,), "per image"), **rounds}
    add_detectors("train", "training steps on random images", 320, numbers)

    numbers = {
        "--size": (608, "height and width in pixels, divisible by 32"),
        "--samples": (400, "samples to measure"),
        "--files": (60, "photographs to generate"),
        "--quality": (90, "of their JPEG compression"),
        "--workers": (0, "of a loader that is measured, too"),
    }
    data = add("data", _run_data, "training samples per second, and their parts", numbers)
    data.add_config_file(required=True)

    numbers = {
        "--images": (5000, "with detections"),
        "--detections": (100, "of an image"),
        "--classes": (80, "of the dataset"),
        "--rounds": (3, "in which each API evaluates once"),
    }
    add("evaluate", _run_evaluate, "COCO's evaluation by pycocotools and by hotcoco", numbers)

    numbers = {
        "--images": ((1000, 10000, 100000), "of generated COCO files"),
        "--boxes": (7, "of an image"),
    }
    start = add("start", _run_start, "the start of a training, by the size of the dataset", numbers)
    start.add_config_file(required=True)

    numbers = {"--images": (1_000_000, "of the dataset"), "--workers": (2, "of the loader")}
    add("memory", _run_memory, "the memory of data workers with a large dataset", numbers)

    plot = commands.add_parser("plot", help="draw curves of the JSON files of other commands")
    plot.set_defaults(benchmark=None)
    plot.add_argument("results", nargs="+", metavar="FILE.json")
    plot.add_output(required=True, metavar="FIGURE", help="image to write")


def run(args: argparse.Namespace) -> None:
    from ..benchmark.results import describe, draw_curves, to_markdown

    if args.benchmark is None:
        draw_curves([json.loads(Path(file).read_bytes()) for file in args.results], args.output)
        return
    if args.output:
        args.output.parent.mkdir(parents=True, exist_ok=True)
    result = describe(*args.benchmark(args))
    print(to_markdown(result, args.stage))
    if args.output:
        args.output.write_text(json.dumps(result, indent=1))


def _size(text: str) -> tuple[int, int]:
    """Read a height and width in pixels."""
    height, _, width = text.partition("x")
    return int(height), int(width or height)


def _run_detectors(args: argparse.Namespace) -> tuple[list[dict], str]:
    import torch

    from ..benchmark.detectors import measure_detectors

    axes = {"size": args.sizes}
    if args.task == "model":
        axes["batch"] = args.batches
    else:
        axes |= {"images": args.images, "boxes": args.boxes}
    return measure_detectors(
        args.task,
        args.config_files,
        args.opts,
        axes,
        threads=args.threads or [torch.get_num_threads()],
        rounds=args.rounds,
        variants=args.variants,
        exported=args.exported,
        weights=args.weights,
        objects=args.objects,
        weights_folder=args.weights_folder,
        against=args.against,
    )


def _run_data(args: argparse.Namespace) -> tuple[list[dict], str]:
    from ..benchmark.data import measure_data
    from ..config_files import load_config

    rows = measure_data(
        load_config(args.config_file, args.opts),
        size=args.size,
        num_samples=args.samples,
        num_files=args.files,
        quality=args.quality,
        num_workers=args.workers,
    )
    return rows, "cpu"


def _run_evaluate(args: argparse.Namespace) -> tuple[list[dict], str]:
    from ..benchmark.evaluate import measure_evaluate

    rows = measure_evaluate(args.images, args.detections, args.classes, args.rounds)
    return rows, "cpu"


def _run_start(args: argparse.Namespace) -> tuple[list[dict], str]:
    from ..benchmark.memory import measure_start

    return measure_start(args.config_file, args.opts, args.images, args.boxes), "cpu"


def _run_memory(args: argparse.Namespace) -> tuple[list[dict], str]:
    from ..benchmark.memory import measure_memory

    return measure_memory(args.images, args.workers), "cpu"
