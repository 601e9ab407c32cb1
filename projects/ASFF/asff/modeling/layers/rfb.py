"""The receptive field block of ASFF* (paper 4.2; RFB, arXiv 1711.07767), as the authors wire it."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class ReceptiveFieldBlock(nn.Module):
    """Four branches of growing receptive fields, concatenated: (N, C, H, W) to the same shape.

    Convolutions with bias, without normalisation or activation; no residual (authors' code).

    Args:
        channels: C, divisible by 4.
    """

    # Kernel size and dilation of each convolution, by branch.
    BRANCHES = [
        [(1, 1)],
        [(1, 1), (3, 1)],
        [(1, 1), (3, 1), (3, 2)],
        [(1, 1), (5, 1), (3, 3)],
    ]

    def __init__(self, channels: int):
        super().__init__()
        self.branches = nn.ModuleList()
        for branch in self.BRANCHES:
            layers, in_channels = [], channels
            for size, dilation in branch:
                padding = dilation * (size // 2)
                layers.append(
                    nn.Conv2d(in_channels, channels // 4, size, padding=padding, dilation=dilation)
                )
                in_channels = channels // 4
            self.branches.append(nn.Sequential(*layers))

    def init_weights(self) -> None:
        """Initialise as for layers that no activation follows."""
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, nonlinearity="linear")
                nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([branch(x) for branch in self.branches], dim=1)
