"""Adaptively spatial feature fusion (paper 3.2): every level gets a weighted sum of all levels.

Shape letters: N images, L levels, C channels, H and W of the level that is being fused.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...config import choose
from ..layers.conv import conv_norm_act, msra_init


class Resize(nn.Module):
    """Bring the feature x^n to the channels and the size of level l: x^{n->l} (paper 3.2).

    Up: a 1x1 convolution where the channels differ, then nearest interpolation. Down: a 3x3
    stride-2 convolution, after as many 3x3 stride-2 max poolings as further halvings need.

    Args:
        in_channels, out_channels: channels of level n and of level l.
        in_stride, out_stride: their strides in input pixels; one divides the other by a power of 2.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        in_stride: int,
        out_stride: int,
        *,
        norm: str,
        activation: str,
    ):
        super().__init__()
        style = {"norm": norm, "activation": activation}
        halvings = (out_stride // in_stride).bit_length() - 1  # -1 where the level is finer
        self.poolings = max(halvings - 1, 0)
        self.conv = None
        if halvings > 0:
            self.conv = conv_norm_act(in_channels, out_channels, 3, stride=2, **style)
        elif in_channels != out_channels:
            self.conv = conv_norm_act(in_channels, out_channels, 1, **style)

    def forward(self, x: Tensor, size: tuple[int, int]) -> Tensor:
        """Resize (N, C_n, H_n, W_n) to (N, C, H, W), where ``size`` is (H, W)."""
        for _ in range(self.poolings):
            x = F.max_pool2d(x, 3, stride=2, padding=1)
        if self.conv is not None:
            x = self.conv(x)
        if x.shape[-2:] != size:
            x = F.interpolate(x, size=size, mode="nearest")
        return x


class AdaptiveFusion(nn.Module):
    """y^l = alpha^l x^{1->l} + beta^l x^{2->l} + gamma^l x^{3->l} for one level l (Equation 1).

    Args:
        channels: C, channels of every resized feature.
        num_levels: L.
        weight_channels: channels to which each resized feature is compressed before the control
            parameters lambda are computed from all of them (16 in the authors' code, 8 in ASFF*).
    """

    def __init__(
        self, channels: int, num_levels: int, *, weight_channels: int, norm: str, activation: str
    ):
        super().__init__()
        self.compress = nn.ModuleList(
            conv_norm_act(channels, weight_channels, 1, norm=norm, activation=activation)
            for _ in range(num_levels)
        )
        self.logits = nn.Conv2d(num_levels * weight_channels, num_levels, 1)
        self.out_channels = channels

    @torch.no_grad()
    def start_with(self, level: int, self_weight: float) -> None:
        """Begin with one weight for a level at every place; the other levels share the rest.

        Args:
            self_weight: of the level, in (0, 1).
        """
        # Zeros, so that the weights do not depend on the features. The first step changes them;
        # from the second on, gradient reaches what is before them.
        nn.init.zeros_(self.logits.weight)
        nn.init.zeros_(self.logits.bias)
        others = self.logits.out_channels - 1
        self.logits.bias[level] = math.log(self_weight * others / (1 - self_weight))

    def spatial_weights(self, resized: Sequence[Tensor]) -> Tensor:
        """Spatial importance weights alpha, beta, gamma (Equation 2).

        Args:
            resized: L features (N, C, H, W).

        Returns:
            (N, L, H, W) in float32, each in [0, 1]; they sum to 1 over the levels.
        """
        compressed = [conv(x) for conv, x in zip(self.compress, resized)]
        return self.logits(torch.cat(compressed, dim=1)).float().softmax(dim=1)

    def forward(self, resized: Sequence[Tensor]) -> Tensor:
        """Fuse L features (N, C, H, W) into one."""
        weights = self.spatial_weights(resized)
        # Levels may differ in type: under autocast some norms give float32.
        return sum(weights[:, level, None].to(x.dtype) * x for level, x in enumerate(resized))


class SumFusion(nn.Module):
    """The resized features, added up (paper Table 3, "sum")."""

    def __init__(self, channels: int, num_levels: int):
        super().__init__()
        self.out_channels = channels

    def forward(self, resized: Sequence[Tensor]) -> Tensor:
        """Fuse L features (N, C, H, W) into one."""
        return sum(resized)


class ConcatFusion(nn.Module):
    """The resized features, one behind the other (paper Table 3, "concat")."""

    def __init__(self, channels: int, num_levels: int):
        super().__init__()
        self.out_channels = num_levels * channels

    def forward(self, resized: Sequence[Tensor]) -> Tensor:
        """Fuse L features (N, C, H, W) into one, (N, L C, H, W)."""
        return torch.cat(list(resized), dim=1)


class PyramidFusion(nn.Module):
    """At every level, resize all levels to it and fuse them by an operation.

    Args:
        operation: called as ``operation(channels, num_levels)`` for each level.
        in_channels, strides: of the levels, in the order of the features.
        norm, activation: of the convolutions that resize.
    """

    def __init__(
        self,
        operation: Callable[[int, int], nn.Module],
        *,
        in_channels: Sequence[int],
        strides: Sequence[int],
        norm: str = "BN",
        activation: str = "leaky_relu",
    ):
        super().__init__()
        style = {"norm": norm, "activation": activation}
        levels = list(zip(in_channels, strides))
        self.resize = nn.ModuleList(
            nn.ModuleList(Resize(c_in, c_out, s_in, s_out, **style) for c_in, s_in in levels)
            for c_out, s_out in levels
        )
        self.fuse = nn.ModuleList(operation(channels, len(levels)) for channels in in_channels)
        self.out_channels = [fuse.out_channels for fuse in self.fuse]
        msra_init(self, activation)

    def start_with(self, self_weight: float) -> None:
        """Let every level begin with one weight for itself; see :class:`AdaptiveFusion`."""
        for level, fuse in enumerate(self.fuse):
            fuse.start_with(level, self_weight)

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        """Map the levels x^l to the fused levels y^l of the same sizes."""
        fused = []
        for target, resizes, fuse in zip(features, self.resize, self.fuse):
            size = target.shape[-2:]
            fused.append(fuse([resize(x, size) for resize, x in zip(resizes, features)]))
        return fused


# MODEL.YOLOV3.FUSION.NAME and MODEL.ASFF_FPN.FUSION; the rows of the paper's Table 3.
FUSIONS = {"none": None, "sum": SumFusion, "concat": ConcatFusion, "asff": AdaptiveFusion}


def build_fusion(cfg, *, in_channels: Sequence[int], strides: Sequence[int]) -> nn.Module | None:
    """Build the fusion that ``cfg.MODEL.YOLOV3.FUSION`` names; None for "none".

    Raises:
        ValueError: the name is not known, or INIT_SELF_WEIGHT is no weight.
    """
    options = cfg.MODEL.YOLOV3.FUSION
    operation = choose(FUSIONS, options.NAME, "MODEL.YOLOV3.FUSION.NAME")
    style = {"norm": cfg.MODEL.YOLOV3.NORM, "activation": cfg.MODEL.YOLOV3.ACTIVATION}
    if operation is None:
        return None
    if operation is AdaptiveFusion:
        operation = partial(operation, weight_channels=options.WEIGHT_CHANNELS, **style)
    fusion = PyramidFusion(operation, in_channels=in_channels, strides=strides, **style)
    self_weight = options.INIT_SELF_WEIGHT
    if options.NAME == "asff" and self_weight:
        check_self_weight(self_weight, "MODEL.YOLOV3.FUSION.INIT_SELF_WEIGHT")
        fusion.start_with(self_weight)
    return fusion


def check_self_weight(self_weight: float, key: str) -> None:
    """Raise a ValueError unless a level's own weight leaves something to the others."""
    if not 0 < self_weight < 1:
        raise ValueError(
            f"{key} is {self_weight}: the weight that a level has for itself at the start must be "
            "between 0 and 1."
        )
