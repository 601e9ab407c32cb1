"""The neck of YOLOv3: a top-down path that concatenates, with spatial pyramid pooling."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from detectron2.layers import ShapeSpec
from torch import Tensor, nn

from ..layers import DropBlock, conv_norm_act, msra_init, scale_channels, upsample_nearest


class SpatialPyramidPooling(nn.Module):
    """Concatenate (N, C, H, W) with its max poolings of sizes 5, 9 and 13: (N, 4 C, H, W).

    From the authors' code; the paper does not mention it.
    """

    def forward(self, x: Tensor) -> Tensor:
        # Stride-1 max poolings compose: 5 after 5 is 9, 5 after 9 is 13, at a third of the work.
        pooled = [x]
        for _ in range(3):
            pooled.append(F.max_pool2d(pooled[-1], 5, stride=1, padding=2))
        return torch.cat(pooled, dim=1)


def _conv_set(
    in_channels: int, channels: int, *, spp: bool, coarsest: bool, keep_prob: float, **style: str
) -> nn.Sequential:
    """Build five convolutions, 1x1 and 3x3 in turn; with ``spp``, pooling after the third."""
    layers = nn.Sequential()
    layers.conv1 = conv_norm_act(in_channels, channels, 1, **style)
    layers.conv2 = conv_norm_act(channels, 2 * channels, 3, **style)
    # DropBlock comes where the authors' code has it.
    if keep_prob < 1 and not coarsest:
        layers.drop_block = DropBlock(keep_prob)
    layers.conv3 = conv_norm_act(2 * channels, channels, 1, **style)
    if spp and coarsest:
        layers.spp = SpatialPyramidPooling()
        layers.spp_conv = conv_norm_act(4 * channels, channels, 1, **style)
    layers.conv4 = conv_norm_act(channels, 2 * channels, 3, **style)
    if keep_prob < 1 and coarsest:
        layers.drop_block = DropBlock(keep_prob)
    layers.conv5 = conv_norm_act(2 * channels, channels, 1, **style)
    return layers


class YOLOv3Neck(nn.Module):
    """Turn bottom-up features into the levels x^l of the pyramid, coarsest first.

    Args:
        in_shapes: channels and strides of the bottom-up features, coarsest first.
        width: multiplier of the channels, which are 512, 256, 128 from the coarsest level on.
        spp: spatial pyramid pooling at the coarsest level.
        widen_finest: one more 3x3 convolution, to twice the channels, at the finest level, as the
            authors' DarkNet-53 has it where fusion follows.
        keep_prob: share of values that DropBlock keeps; 1 leaves it out.
    """

    def __init__(
        self,
        *,
        in_shapes: Sequence[ShapeSpec],
        width: float = 1.0,
        spp: bool = True,
        widen_finest: bool = False,
        keep_prob: float = 1.0,
        norm: str = "BN",
        activation: str = "leaky_relu",
    ):
        super().__init__()
        style = {"norm": norm, "activation": activation}
        self.conv_sets = nn.ModuleList()
        self.laterals = nn.ModuleList()
        self.out_channels = []
        for level, shape in enumerate(in_shapes):
            channels = scale_channels(512 / 2**level, width)
            in_channels = shape.channels
            if level > 0:
                self.laterals.append(conv_norm_act(self.out_channels[-1], channels, 1, **style))
                in_channels += channels
            options = {"spp": spp, "coarsest": level == 0, "keep_prob": keep_prob, **style}
            self.conv_sets.append(_conv_set(in_channels, channels, **options))
            self.out_channels.append(channels)
        self.widen = None
        if widen_finest:
            channels = self.out_channels[-1]
            self.widen = conv_norm_act(channels, 2 * channels, 3, **style)
            self.out_channels[-1] = 2 * channels
        msra_init(self, activation)

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        """Map bottom-up features to pyramid levels of the same sizes, both coarsest first."""
        levels = [self.conv_sets[0](features[0])]
        for feature, lateral, convs in zip(features[1:], self.laterals, self.conv_sets[1:]):
            top_down = upsample_nearest(lateral(levels[-1]), feature.shape[-2:])
            levels.append(convs(torch.cat([top_down, feature], dim=1)))
        if self.widen is not None:
            levels[-1] = self.widen(levels[-1])
        return levels
