"""Deformable convolution (arXiv 1703.06211) that is fast on CPUs, too.

Shape letters: N images, C input channels, H and W of the feature, G offset groups.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor

from ...config import choose


class DeformConv2d(torchvision.ops.DeformConv2d):
    """torchvision's layer with 3x3 kernels that keeps the size, and faster ways to compute it.

    Args:
        in_channels, out_channels: of the feature before and after.
        method: "torchvision", its operator, which is slow on CPUs, above all its backward;
            "gather", which samples into a matrix and multiplies that by the weight; "samplings",
            which samples by ``grid_sample``, for formats of exported models without the operator;
            "auto": "gather" on CPUs, else "torchvision".
    """

    def __init__(self, in_channels: int, out_channels: int, *, method: str = "auto"):
        super().__init__(in_channels, out_channels, 3, padding=1)
        methods = ("auto", "torchvision", "gather", "samplings")
        self.method = choose(dict(zip(methods, methods)), method, "MODEL.YOLOV3.DEFORM_CONV")
        # Input channels last, as "gather" takes them: no copy at each call.
        self.weight.data = self.weight.data.contiguous(memory_format=torch.channels_last)

    def forward(self, x: Tensor, offsets: Tensor) -> Tensor:
        """Convolve x (N, C, H, W), sampled where offsets say.

        Samples are computed in float32 (float64 of float64); their products with the weight follow
        autocast, except in torchvision's operator.

        Args:
            offsets: (N, 18 G, H, W), as torchvision's: y, x in locations for each of 9 kernel
                positions, for each group of channels.
        """
        # At a NaN torchvision reads outside of its memory: the process would just die.
        offsets = offsets.nan_to_num()
        method = self.method
        if method == "auto":
            method = "gather" if x.device.type == "cpu" else "torchvision"
        weight, bias, dtype = self.weight, self.bias, torch.promote_types(x.dtype, torch.float32)
        x, offsets = x.to(dtype), offsets.to(dtype)
        if method == "torchvision":
            weight, bias = weight.to(dtype), bias.to(dtype)
            out = torchvision.ops.deform_conv2d(x, offsets, weight, bias, padding=1)
            return out.to(self.weight.dtype)
        if method == "gather":
            weight = weight.permute(0, 2, 3, 1).flatten(1)
            samples = _gather(x, offsets).to(weight.dtype)
            return F.linear(samples, weight, bias).permute(0, 3, 1, 2)
        samples = _sample(x, offsets).to(weight.dtype)
        return F.conv2d(samples, weight.flatten(1)[:, :, None, None], bias)


def _gather(x: Tensor, offsets: Tensor) -> Tensor:
    """Sample x (N, C, H, W) bilinearly, by weighted sums of rows of a table: (N, H, W, 9 C)."""
    num_images, channels, height, width = x.shape
    rows, columns = _positions(offsets)  # (N, H, W, 9, G)
    groups = rows.shape[-1]
    rows, row_weights = _neighbours(rows, height)
    columns, column_weights = _neighbours(columns, width)
    image = torch.arange(num_images, device=x.device).view(-1, 1, 1, 1, 1, 1, 1)
    group = torch.arange(groups, device=x.device).view(-1, 1, 1)
    index = (image * height + rows[..., None]) * width + columns[..., None, :]
    return F.embedding_bag(
        (index * groups + group).view(-1, 4),
        x.permute(0, 2, 3, 1).reshape(-1, channels // groups),
        per_sample_weights=(row_weights[..., None] * column_weights[..., None, :]).view(-1, 4),
        mode="sum",
    ).view(num_images, height, width, 9 * channels)


def _sample(x: Tensor, offsets: Tensor) -> Tensor:
    """Sample x (N, C, H, W) bilinearly, by ``grid_sample``: (N, 9 C, H, W)."""
    num_images, channels, height, width = x.shape
    rows, columns = _positions(offsets)  # (N, H, W, 9, G)
    groups = rows.shape[-1]
    grid = torch.stack([(2 * columns + 1) / width - 1, (2 * rows + 1) / height - 1], dim=-1)
    grid = grid.permute(0, 4, 3, 1, 2, 5).reshape(num_images * groups, 9 * height, width, 2)
    x = x.reshape(num_images * groups, channels // groups, height, width)
    samples = F.grid_sample(x, grid, align_corners=False)
    return samples.reshape(num_images, 9 * channels, height, width)


def _positions(offsets: Tensor) -> tuple[Tensor, Tensor]:
    """Return y and x of the sampled positions in locations, both (N, H, W, 9, G).

    Those beyond the border by more than a location are clamped; samples are 0 there, too.
    """
    num_images, _, height, width = offsets.shape
    y, x = offsets.reshape(num_images, -1, 9, 2, height, width).permute(3, 0, 4, 5, 2, 1)
    steps = torch.arange(-1, 2, device=offsets.device)
    rows = torch.arange(height, device=offsets.device).view(-1, 1, 1, 1)
    columns = torch.arange(width, device=offsets.device).view(-1, 1, 1)
    y = y + (rows + steps.repeat_interleave(3).view(-1, 1))
    x = x + (columns + steps.repeat(3).view(-1, 1))
    return y.clamp(-2, height + 1), x.clamp(-2, width + 1)


def _neighbours(positions: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Return the two locations around each position and their bilinear weights, both (..., 2).

    Locations outside of ``size`` are replaced by the nearest inside, with weight 0.
    """
    low = positions.detach().floor()
    share = positions - low
    locations = torch.stack([low, low + 1], dim=-1)
    inside = locations.clamp(0, size - 1)
    weights = torch.stack([1 - share, share], dim=-1) * (locations == inside)
    return inside.long(), weights
