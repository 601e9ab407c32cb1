"""The loop that the losses are timed against computes the same."""

from __future__ import annotations

import pytest
import torch

from asff.benchmark.losses import ANCHORS, STRIDES, compute_in_loop
from asff.modeling import (
    DensePredictions,
    GroundTruth,
    YOLOv3AnchorGenerator,
    YOLOv3Losses,
    YOLOv3Matcher,
)
from tests.helpers import make_instances


@pytest.mark.parametrize("seed", range(3))
def test_loop_agrees_with_matcher_and_losses(seed):
    generator = torch.Generator().manual_seed(seed)
    anchors = YOLOv3AnchorGenerator(ANCHORS, STRIDES, anchor_free=True)
    grid = anchors([(96 // stride, 96 // stride) for stride in STRIDES])
    shapes = ((4,), (), (5,), (2,))
    logits = [torch.randn(2, len(grid.sizes), *x, generator=generator) for x in shapes]
    predictions = DensePredictions(*logits, grid)
    corners = 40 * torch.rand(2, 9, 2, generator=generator)
    boxes = torch.cat([corners, corners + 5 + 45 * torch.rand(2, 9, 2, generator=generator)], -1)
    gt = GroundTruth.from_instances([make_instances(x.tolist(), [0, 1, 2] * 3) for x in boxes])
    wanted = YOLOv3Losses(5)(predictions, YOLOv3Matcher(anchors)(predictions, gt), gt, 96.0**2)
    losses = compute_in_loop(predictions, gt, 96.0**2)
    assert {k: v.item() for k, v in losses.items()} == pytest.approx(
        {k: v.item() for k, v in wanted.items()}, rel=1e-4
    )
