"""Convolution blocks: their layers, norms, initialisation and widths."""

from __future__ import annotations

import math

import pytest
import torch

from asff.modeling.layers import conv_norm_act, make_norm, msra_init, scale_channels


def test_keeps_the_size_up_to_the_stride():
    for size, stride in ((1, 1), (3, 1), (3, 2), (5, 1)):
        conv = conv_norm_act(4, 6, size, stride=stride, norm="BN", activation="relu")
        out = conv(torch.randn(2, 4, 9, 12))
        assert out.shape == (2, 6, -(-9 // stride), -(-12 // stride))
        assert (out >= 0).all()
        assert conv.bias is None
    assert conv_norm_act(4, 6, 1, norm="", activation="").bias is not None


@pytest.mark.parametrize("channels, groups", [(256, 32), (64, 16), (16, 4), (6, 1), (2, 1)])
def test_groups_have_four_channels_or_more(channels, groups):
    norm = make_norm("GN", channels)
    assert norm.num_groups == groups


@pytest.mark.parametrize("activation, slope", [("leaky_relu", 0.1), ("relu6", 0.0), ("relu", 0.0)])
def test_msra_init(activation, slope):
    """Variance 2 / ((1 + slope^2) fan-in), biases 0."""
    torch.manual_seed(0)
    conv = conv_norm_act(64, 128, 3, norm="", activation=activation)
    msra_init(conv, activation)
    expected = math.sqrt(2 / (1 + slope**2) / (64 * 9))
    assert conv.weight.std().item() == pytest.approx(expected, rel=0.01)
    assert not conv.bias.any()


@pytest.mark.parametrize(
    "channels, width, expected", [(32, 1.0, 32), (32, 0.25, 8), (100, 1.0, 104), (32, 0.1, 8)]
)
def test_widths_are_multiples_of_8(channels, width, expected):
    assert scale_channels(channels, width) == expected


def test_unknown_names_list_the_known_ones():
    with pytest.raises(ValueError, match="ACTIVATION is 'gelu'.*leaky_relu"):
        conv_norm_act(4, 4, 1, norm="BN", activation="gelu")
    with pytest.raises(ValueError, match="NORM 'LN2'.*BN, SyncBN"):
        conv_norm_act(4, 4, 1, norm="LN2", activation="relu")
