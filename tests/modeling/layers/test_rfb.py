"""The receptive field block: the reach of its branches, and its scale at the start."""

from __future__ import annotations

import torch
from torch import nn

from asff.modeling.layers import ReceptiveFieldBlock


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
    for branch, (reach, area) in enumerate([(0, 1), (1, 9), (3, 49), (5, 121)]):
        touched = out[2 * branch].nonzero()
        assert (touched - 12).abs().max().item() == reach
        assert len(touched) == area


def test_scale_is_kept_at_the_start():
    """No activation follows: each branch keeps the variance of its input."""
    torch.manual_seed(0)
    block = ReceptiveFieldBlock(256)
    block.init_weights()
    out = block(torch.randn(1, 256, 24, 24))[:, :, 6:-6, 6:-6]
    for branch in out.split(64, dim=1):
        assert 0.7 < branch.std().item() < 1.4
