"""Time of a training step (forward, backward and update) on random images."""

from __future__ import annotations

import statistics
from typing import NamedTuple

import torch
from detectron2.config import CfgNode
from detectron2.structures import Boxes, Instances
from tqdm import trange

from ..analysis.cost import measure_seconds
from ..data.datasets import class_count
from ..engine import Trainer
from .model import build_random_model

WARM_UP, BOXES = 3, 14


class TrainTimes(NamedTuple):
    """Seconds of each step, and what they depend on; see :func:`measure_train`."""

    num_images: int
    size: int
    device: str
    seconds: list[float]


def measure_train(cfg: CfgNode, num_images: int, size: int, repeats: int) -> TrainTimes:
    """Measure the seconds of training steps.

    Args:
        num_images: images per step.
        size: height and width of the images in pixels, divisible by 32.
        repeats: steps to measure, after a few that do not count.
    """
    model = build_random_model(cfg).train()
    optimizer = Trainer.build_optimizer(cfg, model)
    batch = _random_batch(num_images, size, class_count(cfg)[1])

    def step() -> None:
        loss = sum(model(batch).values())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    seconds = [measure_seconds(step) for _ in trange(WARM_UP + repeats, unit="step")]
    return TrainTimes(num_images, size, str(model.device), seconds[WARM_UP:])


def format_train(times: TrainTimes) -> str:
    """Format the result of :func:`measure_train` as a sentence."""
    return (
        f"{times.num_images} images of {times.size} pixels, {times.device}, "
        f"{torch.get_num_threads()} threads: one step takes {min(times.seconds):.3f} s at best, "
        f"{statistics.median(times.seconds):.3f} s in the median of {len(times.seconds)}."
    )


def _random_batch(num_images: int, size: int, num_classes: int) -> list[dict]:
    """Draw images of noise with boxes of a tenth to half of their side."""
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
