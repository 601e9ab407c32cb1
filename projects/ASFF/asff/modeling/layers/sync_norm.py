"""Batch norm with the statistics of all processes, on CPUs too.

Shape letters: P processes, N images of one, C channels.
"""

from __future__ import annotations

import torch
from detectron2.layers import NaiveSyncBatchNorm
from detectron2.utils import comm
from fvcore.nn.distributed import differentiable_all_gather
from torch import Tensor, nn


class SyncBatchNorm(nn.BatchNorm2d):
    """Batch norm over the batches of all processes, which have equally many images.

    Statistics are float32 and combined from those of the processes without cancellation, so that
    bfloat16 inputs are safe. As in one process, the running variance is unbiased.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Normalise (N, C, H, W); then dropout and activation, which norms of timm hold."""
        normalize = self.training and comm.get_world_size() > 1
        x = self._normalize(x.float()).to(x.dtype) if normalize else super().forward(x)
        for layer in self.children():
            x = layer(x)
        return x

    def _normalize(self, x: Tensor) -> Tensor:
        var, mean = torch.var_mean(x, dim=(0, 2, 3), correction=0)
        gathered = torch.stack(differentiable_all_gather(torch.stack([mean, var])))  # (P, 2, C)
        means, variances = gathered.unbind(dim=1)
        mean = means.mean(dim=0)
        var = (variances + (means - mean) ** 2).mean(dim=0)
        if self.track_running_stats:
            count = len(means) * x.numel() / len(mean)
            if self.num_batches_tracked is not None:
                self.num_batches_tracked += 1
            self.running_mean.lerp_(mean.detach(), self.momentum)
            self.running_var.lerp_(var.detach() * (count / (count - 1)), self.momentum)
        scale = self.weight * (var + self.eps).rsqrt()
        shift = self.bias - mean * scale
        return x * scale[:, None, None] + shift[:, None, None]


def synchronize_norms(module: nn.Module, norm: type[nn.BatchNorm2d] = NaiveSyncBatchNorm) -> None:
    """Turn norms of this type into :class:`SyncBatchNorm`; their parameters and buffers stay.

    By default Detectron2's "naiveSyncBN", whose variance cancels in bfloat16.
    """
    for layer in module.modules():
        if isinstance(layer, norm):
            layer.__class__ = SyncBatchNorm
