"""DropBlock: squares, the share of values that it keeps, and the schedule of its sizes."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from asff.modeling import DropBlock, block_sizes
from tests.helpers import detector_cfg


def drop(x: torch.Tensor, keep_prob: float, size: int, seed: int = 0) -> torch.Tensor:
    layer = DropBlock(keep_prob).train()
    layer.block_size = size
    torch.manual_seed(seed)
    return layer(x)


def test_evaluation_and_no_size_change_nothing():
    x = torch.rand(2, 3, 9, 9)
    layer = DropBlock(0.5)
    assert layer.train()(x) is x
    layer.block_size = 3
    assert layer.eval()(x) is x
    assert drop(x, 1.0, 3) is x


@pytest.mark.parametrize("size", [1, 2, 3, 5, 7])
def test_blocks_are_squares(size):
    """Every dropped location is in a dropped square that is whole or cut by the border."""
    dropped = drop(torch.ones(4, 8, 24, 30), 0.9, size) == 0
    assert dropped.any() and not dropped.all()
    # Beyond the border, locations may count as dropped.
    around = F.pad(dropped.float(), [size - 1] * 4, value=1.0)
    squares = (
        F.unfold(around.view(-1, 1, *around.shape[-2:]), size)
        .prod(dim=1)
        .view(dropped.shape[0] * dropped.shape[1], 1, 24 + size - 1, 30 + size - 1)
    )
    covered = F.max_pool2d(squares, size, stride=1)[:, 0] > 0
    assert torch.equal(covered.view_as(dropped) & dropped, dropped)


def expected_share(keep_prob: float, size: int, height: int, width: int) -> float:
    """Compute the share of kept values at the authors' rate.

    The rate neglects that blocks overlap and are cut. A value is kept if none of the centres in the
    block around it was drawn: near the border fewer of these are in the feature.
    """
    rate = (1 - keep_prob) * height * width / size**2 / (height - size + 1) / (width - size + 1)
    shares = []
    for y in range(height):
        for x in range(width):
            rows = min(y + size // 2, height - 1) - max(y - size // 2, 0) + 1
            columns = min(x + size // 2, width - 1) - max(x - size // 2, 0) + 1
            shares.append((1 - rate) ** (rows * columns))
    return sum(shares) / len(shares)


@pytest.mark.parametrize(("keep_prob", "size"), [(0.9, 1), (0.9, 3), (0.9, 7), (0.8, 3)])
def test_share_that_is_kept(keep_prob, size):
    """The rate follows each feature's size; kept values are scaled up by the kept share."""
    layer = DropBlock(keep_prob).train()
    layer.block_size = size
    torch.manual_seed(0)
    for height, width in ((38, 38), (20, 26), (10, 10)):
        x = layer(torch.ones(64, 64, height, width))
        expected = expected_share(keep_prob, size, height, width)
        assert (x > 0).float().mean().item() == pytest.approx(expected, abs=0.01)
        assert x.mean().item() == pytest.approx(1, abs=1e-4)
        assert len(x.unique()) == 2


def test_small_features():
    """A block larger than the feature is cut to it; where all is dropped, values stay finite."""
    assert drop(torch.ones(4, 4, 4, 5), 0.9, 7).shape == (4, 4, 4, 5)
    for seed in range(20):
        assert drop(torch.ones(1, 1, 3, 3), 0.1, 3, seed).isfinite().all()


SCHEDULE = [[5 / 300, 1, 3, 5], [80 / 300, 3, 5, 7], [150 / 300, 7, 7, 7]]


def test_schedule_of_the_authors():
    phases = [(0, [0, 0, 0]), (4.9, [0, 0, 0]), (5, [1, 3, 5]), (79, [1, 3, 5]), (80, [3, 5, 7])]
    for epoch, sizes in [*phases, (150, [7, 7, 7]), (299, [7, 7, 7])]:
        assert block_sizes(SCHEDULE, epoch / 300, 3) == sizes
    assert detector_cfg().MODEL.YOLOV3.DROP_BLOCK.SCHEDULE == SCHEDULE
