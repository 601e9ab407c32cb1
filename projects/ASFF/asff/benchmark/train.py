"""Time of a training step (forward, backward and update) on random images."""

from __future__ import annotations

import statistics

import torch
from detectron2.config import CfgNode
from detectron2.structures import Boxes, Instances
from tqdm import trange

from ..analysis.cost import measure_seconds
from ..data.datasets import class_count
from ..engine import Trainer
from .model import build_random_model

WARM_UP, BOXES = 3, 14


def measure_train(cfg: CfgNode, num_images: int, size: int, repeats: int) -> str:
    """Measure the time of training steps, and describe it in a sentence.

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

    seconds = [measure_seconds(step) for _ in trange(WARM_UP + repeats, unit="step")][WARM_UP:]
    return (
        f"{num_images} images of {size} pixels, {model.device}, {torch.get_num_threads()} threads: "
        f"one step takes {min(seconds):.3f} s at best, {statistics.median(seconds):.3f} s in the "
        f"median of {repeats}."
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
