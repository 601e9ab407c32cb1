#!/usr/bin/env python
"""How fast training is on this machine, what its data takes of the memory, what detectors cost.

    python tools/benchmark.py step --config-file FILE --images 4 --size 320 [KEY VALUE ...]
    python tools/benchmark.py data --config-file FILE [--size 608] [--workers 2] [KEY VALUE ...]
    python tools/benchmark.py memory [--images 1000000] [--workers 2]
    python tools/benchmark.py cost --config-files A.yaml B.yaml [--height 608] [--width 608] \\
        [--opts KEY VALUE ...]

step: forward, backward and update, on random images. data: read, mix, augment and resize generated
photographs. memory: what data workers hold of a large dataset. cost: parameters, and multiply-adds
of an image. None of them needs a dataset.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

# First, for it says what is not installed.
from ..data.datasets import class_count
from ..engine import Trainer, user_errors
from ..engine.setup import load_config, resolve_device, resolve_sync_norm

# isort: split
import torch
from detectron2.config import CfgNode
from detectron2.structures import Boxes, Instances
from tqdm import trange

from .cost import report_cost
from .data import report_data
from .memory import report_memory

WARM_UP, BOXES = 3, 14


def random_batch(num_images: int, size: int, num_classes: int) -> list[dict]:
    """Images of noise with boxes from a tenth to half of their side."""
    batch = []
    for _ in range(num_images):
        sides = size * (0.1 + 0.4 * torch.rand(BOXES, 2))
        corners = torch.rand(BOXES, 2) * (size - sides)
        instances = Instances((size, size))
        instances.gt_boxes = Boxes(torch.cat([corners, corners + sides], dim=1))
        instances.gt_classes = torch.randint(num_classes, (BOXES,))
        image = torch.randint(256, (3, size, size), dtype=torch.uint8)
        batch.append({"image": image, "instances": instances})
    return batch


def time_steps(cfg: CfgNode, num_images: int, size: int, repeats: int) -> list[float]:
    """Seconds of each step, after some that do not count."""
    model = Trainer.build_model(cfg).train()
    optimizer = Trainer.build_optimizer(cfg, model)
    batch = random_batch(num_images, size, class_count(cfg)[1])
    seconds = []
    for step in trange(WARM_UP + repeats, unit="step"):
        synchronize(cfg)
        start = time.perf_counter()
        loss = sum(model(batch).values())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        synchronize(cfg)
        if step >= WARM_UP:
            seconds.append(time.perf_counter() - start)
    return seconds


def synchronize(cfg: CfgNode) -> None:
    """Wait for the device: it works on while Python goes ahead."""
    if torch.device(cfg.MODEL.DEVICE).type == "cuda":
        torch.cuda.synchronize()


def report_steps(args: argparse.Namespace) -> None:
    cfg = load_config(args.config_file, args.opts)
    resolve_device(cfg, num_gpus=1)
    resolve_sync_norm(cfg, world_size=1)
    seconds = time_steps(cfg, args.images, args.size, args.repeats)
    print(
        f"{args.config_file}, {args.images} images of {args.size} pixels, {cfg.MODEL.DEVICE}, "
        f"{torch.get_num_threads()} threads: one step takes {min(seconds):.3f} s at best, "
        f"{statistics.median(seconds):.3f} s in the median of {args.repeats}."
    )


def at_least(least: int) -> Callable[[str], int]:
    """Reads a whole number of the command line."""

    def read(text: str) -> int:
        if not text.isdecimal() or int(text) < least:
            raise argparse.ArgumentTypeError(f"{text} is not a whole number of at least {least}")
        return int(text)

    return read


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    step = commands.add_parser("step", help="time of a training step")
    step.set_defaults(report=report_steps)
    step.add_argument("--images", type=at_least(1), default=4)
    step.add_argument("--size", type=at_least(1), default=320, help="pixels, divisible by 32")
    step.add_argument("--repeats", type=at_least(1), default=10)

    data = commands.add_parser("data", help="training samples a second, and where the time goes")
    data.set_defaults(report=report_data)
    data.add_argument("--size", type=at_least(1), default=608, help="pixels, divisible by 32")
    data.add_argument("--samples", type=at_least(1), default=400)
    data.add_argument("--files", type=at_least(1), default=60, help="photographs to generate")
    data.add_argument("--quality", type=at_least(1), default=90, help="of their JPEG compression")
    data.add_argument(
        "--workers", type=at_least(0), default=0, help="also measure a loader with so many"
    )

    for command in (step, data):
        command.add_argument("--config-file", required=True, metavar="FILE")
        command.add_argument("opts", nargs="*", metavar="KEY VALUE", help="keys to override")

    memory = commands.add_parser("memory", help="memory of data workers with a large dataset")
    memory.set_defaults(report=report_memory)
    memory.add_argument("--images", type=at_least(1), default=1_000_000)
    memory.add_argument("--workers", type=at_least(1), default=2)

    cost = commands.add_parser("cost", help="parameters and multiply-adds")
    cost.set_defaults(report=report_cost)
    cost.add_argument("--config-files", nargs="+", required=True, metavar="FILE")
    cost.add_argument("--height", type=at_least(1), default=608, help="of the image, in pixels")
    cost.add_argument("--width", type=at_least(1), default=608)
    cost.add_argument("--opts", nargs="*", default=[], metavar="KEY VALUE", help="keys to override")
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    with user_errors():
        args.report(args)


if __name__ == "__main__":
    main()
