"""Features of several levels, and how an adaptive fusion weighs them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from asff.modeling import AdaptiveFusion


def make_features(
    channels: Sequence[int], sizes: Sequence[tuple[int, int]], *, num_images: int = 1
) -> list[Tensor]:
    """Draw features of these channels and sizes, the same at every call."""
    torch.manual_seed(1)
    return [torch.randn(num_images, c, *size) for c, size in zip(channels, sizes)]


def spatial_weights(fuse: AdaptiveFusion, resized: Sequence[Tensor]) -> Tensor:
    """Fuse, and return the spatial weights (N, L, H, W) that a hook on the softmax sees."""
    found = []
    handle = fuse.softmax.register_forward_hook(lambda *call: found.append(call[-1]))
    fuse(resized)
    handle.remove()
    return found[0]
