"""Operations that fuse the features of all levels, resized to one level (paper 3.2, Table 3).

Shape letters: N images, L levels, C channels, H and W of the level that is being fused.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..layers import conv_norm_act


class FusionOperation(nn.Module):
    """Map L resized features (N, C, H, W) to the fused feature y^l of one level l.

    Args:
        channels: C, channels of every resized feature.
        num_levels: L.

    Attributes:
        out_channels: of the fused feature.
    """

    def __init__(self, channels: int, num_levels: int):
        super().__init__()
        self.out_channels = channels

    def init_spatial_weights(self, level: int, self_weight: float) -> None:
        """Begin as a weighted sum: ``self_weight`` of level l, equal shares of the rest of others.

        Operations without weights stay as they are.

        Args:
            level: index of level l.
            self_weight: in (0, 1).
        """


class AdaptiveFusion(FusionOperation):
    """y^l = alpha^l x^{1->l} + beta^l x^{2->l} + gamma^l x^{3->l} (Equation 1).

    The submodule ``softmax`` returns the spatial importance weights alpha, beta, gamma (Equation
    2), (N, L, H, W) in float32; a forward hook on it sees them.

    Args:
        weight_channels: channels to which each resized feature is compressed before the control
            parameters lambda are computed from all of them (16 in the authors' code, 8 in ASFF*).
        norm, activation: of the layers that compress.
    """

    def __init__(
        self, channels: int, num_levels: int, *, weight_channels: int, norm: str, activation: str
    ):
        super().__init__(channels, num_levels)
        self.compress = nn.ModuleList(
            conv_norm_act(channels, weight_channels, 1, norm=norm, activation=activation)
            for _ in range(num_levels)
        )
        self.logits = nn.Conv2d(num_levels * weight_channels, num_levels, 1)
        self.softmax = nn.Softmax(dim=1)

    @torch.no_grad()
    def init_spatial_weights(self, level: int, self_weight: float) -> None:
        # Zeros, so that the weights do not depend on the features. The first step changes them;
        # from the second on, gradient reaches what is before them.
        nn.init.zeros_(self.logits.weight)
        nn.init.zeros_(self.logits.bias)
        others = self.logits.out_channels - 1
        self.logits.bias[level] = math.log(self_weight * others / (1 - self_weight))

    def forward(self, resized: Sequence[Tensor]) -> Tensor:
        compressed = [conv(x) for conv, x in zip(self.compress, resized)]
        weights = self.softmax(self.logits(torch.cat(compressed, dim=1)).float())
        # Levels may differ in dtype: under autocast some norms give float32.
        return sum(weights[:, level, None].to(x.dtype) * x for level, x in enumerate(resized))


class SumFusion(FusionOperation):
    """The sum of the resized features (paper Table 3, "sum")."""

    def forward(self, resized: Sequence[Tensor]) -> Tensor:
        return sum(resized)


class ConcatFusion(FusionOperation):
    """The resized features, concatenated to (N, L C, H, W) (paper Table 3, "concat")."""

    def __init__(self, channels: int, num_levels: int):
        super().__init__(channels, num_levels)
        self.out_channels = num_levels * channels

    def forward(self, resized: Sequence[Tensor]) -> Tensor:
        return torch.cat(list(resized), dim=1)


class ReducedConcatFusion(FusionOperation):
    """Concatenation, then a 1x1 convolution back to C channels."""

    def __init__(self, channels: int, num_levels: int):
        super().__init__(channels, num_levels)
        self.reduce = nn.Conv2d(num_levels * channels, channels, 1)

    @torch.no_grad()
    def init_spatial_weights(self, level: int, self_weight: float) -> None:
        num_levels = self.reduce.in_channels // self.out_channels
        weights = torch.full((num_levels,), (1 - self_weight) / (num_levels - 1))
        weights[level] = self_weight
        kernel = torch.kron(weights, torch.eye(self.out_channels))
        self.reduce.weight.copy_(kernel[:, :, None, None])

    def forward(self, resized: Sequence[Tensor]) -> Tensor:
        return self.reduce(torch.cat(list(resized), dim=1))
