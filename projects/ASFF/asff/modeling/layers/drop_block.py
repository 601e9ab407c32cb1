"""DropBlock (arXiv 1810.12890), which ASFF* trains with (paper 4.2)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class DropBlock(nn.Module):
    """Set square blocks of a feature to zero in training; evaluation leaves it as it is.

    Args:
        keep_prob: share of values to keep, on average; 1 switches it off.

    Attributes:
        block_size: side of the blocks in locations; 0 switches it off.
    """

    def __init__(self, keep_prob: float):
        super().__init__()
        self.keep_prob = keep_prob
        self.block_size = 0

    def forward(self, x: Tensor) -> Tensor:
        """Drop blocks of x (N, C, H, W), each channel by itself, and scale up the other values."""
        if not self.training or self.block_size == 0 or self.keep_prob == 1:
            return x
        height, width = x.shape[-2:]
        size = min(self.block_size, height, width)
        centers = (height - size + 1) * (width - size + 1)
        rate = (1 - self.keep_prob) / size**2 * height * width / centers
        seeds = (torch.rand(x.shape, device=x.device) < rate).float()
        before, after = (size - 1) // 2, size // 2
        padded = F.pad(seeds, (before, after, before, after))
        kept = 1 - F.max_pool2d(padded, size, stride=1)
        # The share can be 0 where blocks cover a small feature whole.
        scale = kept.numel() / kept.sum().clamp(min=1)
        return x * (kept * scale).to(x.dtype)


def block_sizes(
    schedule: Sequence[Sequence[float]], share: float, num_levels: int
) -> Sequence[int]:
    """Return the block size of each level, coarsest first, after a share of the training.

    Args:
        schedule: phases in ascending order: the share of the training at which the phase begins,
            then a size per level. Before the first phase all sizes are 0.
    """
    begun = [sizes for start, *sizes in schedule if start <= share]
    return [int(size) for size in begun[-1]] if begun else [0] * num_levels
