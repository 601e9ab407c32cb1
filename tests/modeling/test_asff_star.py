"""What ASFF* adds: receptive field blocks and DropBlock."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from detectron2.modeling import build_model
from torch import nn

from asff.modeling.layers.drop_block import DropBlock, block_sizes
from asff.modeling.layers.rfb import ReceptiveFieldBlock
from tests.helpers import TINY_DARKNET, detector_cfg

STAR = ("MODEL.YOLOV3.RFB", True, "MODEL.YOLOV3.DROP_BLOCK.KEEP_PROB", 0.9)


def drop(x: torch.Tensor, keep: float, size: int, seed: int = 0) -> torch.Tensor:
    layer = DropBlock(keep).train()
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
    """Every dropped cell lies in a dropped square that is whole but where the border cuts it."""
    dropped = drop(torch.ones(4, 8, 24, 30), 0.9, size) == 0
    assert dropped.any() and not dropped.all()
    # Beyond the border cells may count as dropped.
    around = F.pad(dropped.float(), [size - 1] * 4, value=1.0)
    squares = (
        F.unfold(around.view(-1, 1, *around.shape[-2:]), size)
        .prod(dim=1)
        .view(dropped.shape[0] * dropped.shape[1], 1, 24 + size - 1, 30 + size - 1)
    )
    covered = F.max_pool2d(squares, size, stride=1)[:, 0] > 0
    assert torch.equal(covered.view_as(dropped) & dropped, dropped)


def expected_share(keep: float, size: int, height: int, width: int) -> float:
    """What stays, by the authors' rate, which counts as if blocks neither overlapped nor were cut.

    A cell stays if none of the centres in the block around it was drawn: of cells near the border
    fewer are in the feature.
    """
    rate = (1 - keep) * height * width / size**2 / (height - size + 1) / (width - size + 1)
    shares = []
    for y in range(height):
        for x in range(width):
            rows = min(y + size // 2, height - 1) - max(y - size // 2, 0) + 1
            columns = min(x + size // 2, width - 1) - max(x - size // 2, 0) + 1
            shares.append((1 - rate) ** (rows * columns))
    return sum(shares) / len(shares)


@pytest.mark.parametrize(("keep", "size"), [(0.9, 1), (0.9, 3), (0.9, 5), (0.8, 3)])
def test_share_that_is_kept(keep, size):
    x = drop(torch.ones(40, 25, 20, 26), keep, size)
    # 520,000 cells, of which those of a block go together.
    expected = expected_share(keep, size, 20, 26)
    assert (x > 0).float().mean().item() == pytest.approx(expected, abs=0.005)
    assert abs(expected - keep) < 0.04


def test_values_are_scaled_by_the_share_that_is_kept():
    x = drop(torch.ones(2, 4, 16, 16), 0.9, 3)
    assert x.mean().item() == pytest.approx(1, abs=1e-5)
    assert len(x.unique()) == 2


def test_rate_follows_the_feature_and_not_the_first_one():
    """One layer sees features of all sizes."""
    layer = DropBlock(0.9).train()
    layer.block_size = 7
    torch.manual_seed(0)
    for side in (38, 19, 10, 26):
        kept = (layer(torch.ones(64, 64, side, side)) > 0).float().mean().item()
        assert kept == pytest.approx(expected_share(0.9, 7, side, side), abs=0.01), side


def test_block_larger_than_the_feature():
    """It is cut to it."""
    torch.manual_seed(0)
    assert drop(torch.ones(4, 4, 4, 5), 0.9, 7).shape == (4, 4, 4, 5)


def test_all_dropped_stays_finite():
    for seed in range(20):
        assert drop(torch.ones(1, 1, 3, 3), 0.1, 3, seed).isfinite().all()


def test_same_seed_drops_the_same():
    x = torch.ones(1, 4, 12, 12)
    assert torch.equal(drop(x, 0.9, 3, seed=5), drop(x, 0.9, 3, seed=5))
    assert not torch.equal(drop(x, 0.9, 3, seed=5), drop(x, 0.9, 3, seed=6))


SCHEDULE = [[5 / 300, 1, 3, 5], [80 / 300, 3, 5, 7], [150 / 300, 7, 7, 7]]


@pytest.mark.parametrize(
    ("epoch", "sizes"),
    [
        (0, [0, 0, 0]),
        (4.9, [0, 0, 0]),
        (5, [1, 3, 5]),
        (79, [1, 3, 5]),
        (80, [3, 5, 7]),
        (150, [7, 7, 7]),
        (299, [7, 7, 7]),
    ],
)
def test_schedule_of_the_authors(epoch, sizes):
    assert block_sizes(SCHEDULE, epoch / 300, 3) == sizes
    assert detector_cfg().MODEL.YOLOV3.DROP_BLOCK.SCHEDULE == SCHEDULE


def test_blocks_drop_where_the_authors_do():
    """After the fourth convolution of the coarsest level, after the second of the others."""
    neck = build_model(detector_cfg(*TINY_DARKNET, *STAR)).backbone.neck
    places = []
    for convs in neck.conv_sets:
        names = [name for name, _ in convs.named_children()]
        places.append(names[names.index("drop_block") - 1])
    assert places == ["conv4", "conv2", "conv2"]
    plain = build_model(detector_cfg(*TINY_DARKNET))
    assert not any(isinstance(x, DropBlock) for x in plain.modules())


def test_receptive_fields():
    """One pixel reaches 1x1, 3x3, 3x3 then 3x3 at dilation 2, 5x5 then 3x3 at dilation 3."""
    block = ReceptiveFieldBlock(8)
    for layer in block.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.ones_(layer.weight)
            nn.init.zeros_(layer.bias)
    x = torch.zeros(1, 8, 25, 25)
    x[:, :, 12, 12] = 1
    out = block(x)[0]
    assert out.shape == (8, 25, 25)
    for branch, (reach, cells) in enumerate([(0, 1), (1, 9), (3, 49), (5, 121)]):
        touched = out[2 * branch].nonzero()
        assert (touched - 12).abs().max().item() == reach
        assert len(touched) == cells


def test_receptive_field_block_needs_feature_adaption():
    cfg = detector_cfg(*TINY_DARKNET, *STAR, "MODEL.YOLOV3.FEATURE_ADAPTION", False)
    with pytest.raises(ValueError, match=r"MODEL\.YOLOV3\.RFB is True but"):
        build_model(cfg)


def test_scale_is_kept_at_the_start():
    """No activation follows: each branch keeps the variance of its input."""
    torch.manual_seed(0)
    block = ReceptiveFieldBlock(256)
    block.init_weights()
    out = block(torch.randn(1, 256, 24, 24))[:, :, 6:-6, 6:-6]
    for branch in out.split(64, dim=1):
        assert 0.7 < branch.std().item() < 1.4
