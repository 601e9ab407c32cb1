"""The convolution block that every part of the network is made of, and its initialisation."""

from __future__ import annotations

import math
from functools import partial

from detectron2.layers import Conv2d, get_norm
from torch import nn

from ...config import choose

_LEAKY_SLOPE = 0.1
# MODEL.YOLOV3.ACTIVATION
_ACTIVATIONS = {
    "leaky_relu": partial(nn.LeakyReLU, _LEAKY_SLOPE, inplace=True),
    "relu6": partial(nn.ReLU6, inplace=True),
    "relu": partial(nn.ReLU, inplace=True),
}


def make_norm(norm: str, channels: int) -> nn.Module | None:
    """Build a norm by Detectron2's :func:`get_norm`; an unknown name is a ValueError.

    "GN" has 32 groups, as Detectron2's; fewer where a group would have less than 4 channels: a
    single location of a single channel has no variance.
    """
    if norm == "GN":
        return nn.GroupNorm(math.gcd(32, channels, max(channels // 4, 1)), channels)
    try:
        return get_norm(norm, channels)
    except KeyError as error:
        raise ValueError(
            f"The config has a NORM '{norm}', which Detectron2 does not know. "
            "Choose one of: BN, SyncBN, FrozenBN, GN, or '' for none."
        ) from error


def conv_norm_act(
    in_channels: int,
    out_channels: int,
    kernel_size: int,
    *,
    stride: int = 1,
    norm: str,
    activation: str,
) -> Conv2d:
    """Build a convolution that pads to keep the size (up to its stride), norm and activation.

    Args:
        norm: see :func:`make_norm`; ``""`` means none, and a bias instead.
        activation: "leaky_relu", "relu6" or "relu"; ``""`` means none.
    """
    activate = choose(_ACTIVATIONS, activation, "MODEL.YOLOV3.ACTIVATION") if activation else None
    return Conv2d(
        in_channels,
        out_channels,
        kernel_size,
        stride=stride,
        padding=kernel_size // 2,
        bias=norm == "",
        norm=make_norm(norm, out_channels),
        activation=activate and activate(),
    )


def msra_init(module: nn.Module, activation: str) -> None:
    """Draw all convolutions of ``module`` from the MSRA normal distribution (paper 3.4, fan-in)."""
    slope = _LEAKY_SLOPE if activation == "leaky_relu" else 0.0
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, a=slope, nonlinearity="leaky_relu")
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


def scale_channels(channels: int, width: float) -> int:
    """Multiply ``channels`` by ``width``, rounded to a multiple of 8 (at least 8)."""
    return max(8, int(channels * width + 4) // 8 * 8)
