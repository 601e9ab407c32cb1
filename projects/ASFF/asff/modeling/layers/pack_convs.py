"""Convolutions for inference on CPUs, with weights in oneDNN's own layout and fused activations."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .deform_conv import DeformConv2d
from .fuse_norms import has_plain_forward


class PackedConv2d(nn.Module):
    """A convolution without norm, and its activation, for inference in one dtype.

    torch reorders the weights of a plain convolution at every call; this does so only where the
    shape of the input differs from that of the last call.
    """

    def __init__(self, conv: nn.Conv2d, dtype: torch.dtype):
        super().__init__()
        self.options = (conv.padding, conv.stride, conv.dilation, conv.groups)
        self.weight = conv.weight.detach().to(dtype)
        self.shape = self.packed_weight = None
        self.bias = None if conv.bias is None else conv.bias.detach().to(dtype)
        self.activation = getattr(conv, "activation", None)
        self.fused_activation = ("none", [], "")
        if isinstance(self.activation, nn.LeakyReLU):
            self.fused_activation = ("leaky_relu", [self.activation.negative_slope], "")
            self.activation = None

    def forward(self, x: Tensor) -> Tensor:
        x = x.to(self.weight.dtype, memory_format=torch.channels_last)
        if x.shape != self.shape:  # the best layout depends on it
            self.packed_weight = torch.ops.mkldnn._reorder_convolution_weight(
                self.weight, *self.options, x.shape
            )
            self.shape = x.shape
        x = torch.ops.mkldnn._convolution_pointwise(
            x, self.packed_weight, self.bias, *self.options, *self.fused_activation
        )
        return x if self.activation is None else self.activation(x)


def pack_convolutions(model: nn.Module, dtype: torch.dtype) -> None:
    """Replace convolutions of a detector on the CPU, for inference in ``dtype``.

    Those with a norm or a hook stay, and those beside a deformable convolution, whose offsets need
    all bits.
    In a dtype that oneDNN does not have on this machine, all stay.

    Args:
        dtype: of their weights, inputs and outputs.
    """
    packs = torch.backends.mkldnn.is_available() and (
        dtype == torch.float32
        or (dtype == torch.bfloat16 and torch.ops.mkldnn._is_mkldnn_bf16_supported())
    )
    for parent in list(model.modules()) if packs else ():
        deformable = [x for x in parent.children() if isinstance(x, DeformConv2d)]
        for layer in deformable:
            layer.to(dtype)
        for name, conv in parent.named_children() if not deformable else ():
            plain = has_plain_forward(conv) and getattr(conv, "norm", None) is None
            plain = plain and not (conv._forward_hooks or conv._forward_pre_hooks)
            if plain and conv.padding_mode == "zeros" and isinstance(conv.padding, tuple):
                setattr(parent, name, PackedConv2d(conv, dtype))
