"""Targets and losses of a full batch: vectorised over images and boxes, against the slow loop."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import pytest
import torch

from asff.modeling.yolov3 import DensePredictions, GroundTruth, YOLOv3Losses, YOLOv3Matcher
from tests.modeling.drawn import draw_truths, make_anchors
from tests.modeling.oracle import Layout, slow_losses

NUM_IMAGES, NUM_BOXES, SIZE, NUM_CLASSES = 16, 50, 416, 80


def seconds(step: Callable[[], object], repeats: int) -> float:
    """The shortest of several runs."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        step()
        times.append(time.perf_counter() - start)
    return min(times)


@pytest.mark.slow
def test_targets_and_losses_are_vectorised(report: Callable[[str], None]):
    """Forward and backward, 16 images of 50 boxes at 416 pixels, all levels, 80 classes: at least
    20 times as fast as a loop over truths, in the same process.
    """
    rng = np.random.default_rng(0)
    layout = Layout(SIZE, SIZE)
    instances = [
        draw_truths(rng, NUM_BOXES, layout=layout, num_classes=NUM_CLASSES)
        for _ in range(NUM_IMAGES)
    ]
    generator = torch.Generator().manual_seed(0)
    shape = (NUM_IMAGES, len(layout.rows))
    logits = [
        torch.randn(*shape, *size, generator=generator, requires_grad=True)
        for size in ((4,), (), (NUM_CLASSES,), (2,))
    ]
    anchors = make_anchors(layout)
    matcher, losses = YOLOv3Matcher(anchors), YOLOv3Losses(NUM_CLASSES)
    predictions = DensePredictions(*logits, grid=anchors(layout.sizes))
    values = {}

    def ours() -> None:
        for x in logits:
            x.grad = None
        truths = GroundTruth.from_instances(instances)
        matches = matcher(predictions, truths)
        terms = losses(predictions, matches, truths, float(SIZE * SIZE))
        values.update(terms)
        sum(terms.values()).backward()

    def loop() -> None:
        terms = slow_losses(layout, *logits, instances)
        assert {name: loss.item() for name, loss in terms.items()} == pytest.approx(
            {name: loss.item() for name, loss in values.items()}, rel=1e-4
        )
        sum(terms.values()).backward()

    threads = torch.get_num_threads()
    fast = seconds(ours, 10)
    # On a busy machine threads wait for each other; the loop is of single numbers anyway.
    torch.set_num_threads(1)
    single, slow = seconds(ours, 10), seconds(loop, 1)
    ratio = slow / min(fast, single)
    report(
        f"targets + losses of {NUM_IMAGES} images of {NUM_BOXES} boxes at {SIZE}, "
        f"{NUM_CLASSES} classes: {fast:.3f} s on {threads} threads, {single:.3f} s on one; "
        f"{ratio:.0f} times as fast as the slow loop ({slow:.1f} s)"
    )
    assert ratio > 20
