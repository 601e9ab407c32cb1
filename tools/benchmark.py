#!/usr/bin/env python
"""How long a training step takes on this machine: forward, backward and update, on random images.

python tools/benchmark.py step --config-file FILE --images 4 --size 320
"""

from __future__ import annotations

import argparse
import statistics
import time

# First, for it says what is not installed.
from asff.data.checks import class_count
from asff.engine import Trainer, user_errors
from asff.engine.setup import load_config, resolve_device, resolve_sync_norm

# isort: split
import torch
from detectron2.config import CfgNode
from detectron2.structures import Boxes, Instances
from tqdm import trange

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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["step"])
    parser.add_argument("--config-file", required=True, metavar="FILE")
    parser.add_argument("--images", type=int, default=4)
    parser.add_argument("--size", type=int, default=320, help="pixels, divisible by 32")
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("opts", nargs="*", metavar="KEY VALUE", help="config keys to override")
    args = parser.parse_args()
    with user_errors():
        cfg = load_config(args.config_file, args.opts)
        resolve_device(cfg, num_gpus=1)
        resolve_sync_norm(cfg, world_size=1)
        seconds = time_steps(cfg, args.images, args.size, args.repeats)
    print(
        f"{args.config_file}, {args.images} images of {args.size} pixels, {cfg.MODEL.DEVICE}, "
        f"{torch.get_num_threads()} threads: one step takes {min(seconds):.3f} s at best, "
        f"{statistics.median(seconds):.3f} s in the median of {args.repeats}."
    )


if __name__ == "__main__":
    main()
