"""Nearest upsampling in the dtype of the feature."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def upsample_nearest(x: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize (N, C, H, W) to ``size`` (height, width) by repeating the nearest values."""
    # CUDA's autocast would make it float32, and with it all that follows.
    with torch.autocast(x.device.type, enabled=False):
        return F.interpolate(x, size=size, mode="nearest")
