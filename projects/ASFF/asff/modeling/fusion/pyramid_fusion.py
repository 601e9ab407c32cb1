"""Fusion of a pyramid: an operation fuses all levels, resized, at each of them (paper 3.2).

Shape letters: N images, C channels, H and W of a level.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import torch
import torch.nn.functional as F
from detectron2.config import CfgNode
from torch import Tensor, nn

from ...config import choose
from ..layers import conv_norm_act, msra_init, upsample_nearest
from .operations import AdaptiveFusion, ConcatFusion, FusionOperation, SumFusion


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
            x = upsample_nearest(x, size)
        return x


class PyramidFusion(nn.Module):
    """At every level, resize all levels to it and fuse them by an operation.

    Args:
        operation: called as ``operation(channels, num_levels)`` for each level.
        in_channels, strides: of the levels, in the order of the features.
        norm, activation: of the convolutions that resize.
    """

    def __init__(
        self,
        operation: Callable[[int, int], FusionOperation],
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

    def init_spatial_weights(self, self_weight: float) -> None:
        """Let every level begin with this self weight; see :class:`FusionOperation`."""
        for level, fuse in enumerate(self.fuse):
            fuse.init_spatial_weights(level, self_weight)

    @torch.no_grad()
    def init_near_neutral(self, self_weight: float) -> None:
        """Let every level begin as ``self_weight`` of itself and the rest of the others' mean.

        Downsampling begins as a 3x3 max pooling for every halving but the last, then the mean of
        3x3 locations with zero padding. For levels of equal channels and resizing without norm and
        activation.
        """
        for resizes in self.resize:
            for resize in resizes:
                if resize.conv is not None:
                    nn.init.dirac_(resize.conv.weight)
                    resize.conv.weight.copy_(resize.conv.weight.mean(dim=(2, 3), keepdim=True))
        self.init_spatial_weights(self_weight)

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        """Map the levels x^l to the fused levels y^l of the same sizes."""
        fused = []
        for target, resizes, fuse in zip(features, self.resize, self.fuse):
            size = target.shape[-2:]
            fused.append(fuse([resize(x, size) for resize, x in zip(resizes, features)]))
        return fused


# MODEL.YOLOV3.FUSION.NAME (paper Table 3).
FUSIONS = {"none": None, "sum": SumFusion, "concat": ConcatFusion, "asff": AdaptiveFusion}


def choose_operation(
    fusions: Mapping[str, type[FusionOperation] | None], name: str, key: str, **options: object
) -> Callable[[int, int], FusionOperation] | None:
    """Return the operation of a table as :class:`PyramidFusion` takes it; None for "none".

    Args:
        key: config key that the name is from.
        options: further arguments of :class:`AdaptiveFusion`.
    """
    operation = choose(fusions, name, key)
    if operation is not None and issubclass(operation, AdaptiveFusion):
        return partial(operation, **options)
    return operation


def build_fusion(
    cfg: CfgNode, *, in_channels: Sequence[int], strides: Sequence[int]
) -> nn.Module | None:
    """Build the fusion that ``cfg.MODEL.YOLOV3.FUSION`` names; None for "none"."""
    options, key = cfg.MODEL.YOLOV3.FUSION, "MODEL.YOLOV3.FUSION"
    style = {"norm": cfg.MODEL.YOLOV3.NORM, "activation": cfg.MODEL.YOLOV3.ACTIVATION}
    operation = choose_operation(
        FUSIONS, options.NAME, f"{key}.NAME", weight_channels=options.WEIGHT_CHANNELS, **style
    )
    if operation is None:
        return None
    fusion = PyramidFusion(operation, in_channels=in_channels, strides=strides, **style)
    if options.INIT_SELF_WEIGHT:
        check_self_weight(options.INIT_SELF_WEIGHT, f"{key}.INIT_SELF_WEIGHT")
        fusion.init_spatial_weights(options.INIT_SELF_WEIGHT)
    return fusion


def check_self_weight(self_weight: float, key: str) -> None:
    """Raise a ValueError unless a self weight is between 0 and 1."""
    if not 0 < self_weight < 1:
        raise ValueError(
            f"{key} is {self_weight}: the weight of a level for itself at the start must be "
            "between 0 and 1."
        )
