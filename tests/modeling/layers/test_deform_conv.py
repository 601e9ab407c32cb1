"""Deformable convolution: every method computes what torchvision's operator does."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor
from torch.export import Dim

from asff.modeling.layers import DeformConv2d

METHODS = ["auto", "torchvision", "gather", "samplings"]


def make_inputs(groups: int, size: tuple[int, int], dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Make features of two images, and offsets of which many leave them, some by far."""
    torch.manual_seed(0)
    x = torch.randn(2, 8, *size, dtype=dtype)
    offsets = 3 * torch.randn(2, 18 * groups, *size, dtype=dtype)
    offsets[1] *= 10
    offsets[0, :6] = 1e30
    return x, offsets


def outputs_and_gradients(conv: torch.nn.Module, *inputs: Tensor) -> list[Tensor]:
    """Return the outputs, and the gradients of inputs and parameters of the sum of squares."""
    leaves = [x.detach().requires_grad_() for x in inputs]
    out = conv(*leaves)
    return [out, *torch.autograd.grad(out.square().sum(), [*leaves, *conv.parameters()])]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("groups, size", [(1, (5, 5)), (2, (4, 7)), (4, (7, 4)), (8, (1, 1))])
def test_equals_torchvision(method, groups, size):
    torch.manual_seed(0)
    conv = DeformConv2d(8, 6, method=method).double()
    reference = torchvision.ops.DeformConv2d(8, 6, 3, padding=1).double()
    reference.load_state_dict(conv.state_dict())
    inputs = make_inputs(groups, size, torch.float64)
    wanted = outputs_and_gradients(reference, *inputs)
    for x, y in zip(outputs_and_gradients(conv, *inputs), wanted):
        torch.testing.assert_close(x, y)


@pytest.mark.parametrize("method", METHODS)
def test_whole_offsets_move_the_convolution(method):
    """One location up, two to the left; zeros come in from the border."""
    torch.manual_seed(0)
    conv = DeformConv2d(8, 6, method=method)
    x = torch.randn(1, 8, 6, 9)
    offsets = torch.tensor([-1.0, -2.0]).view(1, 2, 1, 1).repeat(1, 9, 6, 9)
    moved = F.pad(x, (3, 1, 2, 1))[..., :8, :11]
    torch.testing.assert_close(conv(x, offsets), F.conv2d(moved, conv.weight, conv.bias))


@pytest.mark.parametrize("method", METHODS)
def test_nan_and_infinity(method):
    """NaN offsets count as 0: a diverged training ends with a message, not with a crash."""
    x, offsets = make_inputs(2, (4, 5), torch.float32)
    conv = DeformConv2d(8, 6, method=method)
    offsets[0, :3] = float("nan")
    out = conv(x, offsets)
    offsets[0, :3] = 0
    torch.testing.assert_close(out, conv(x, offsets), rtol=0, atol=0)
    offsets[0, 3] = float("inf")
    assert conv(x, offsets).isfinite().all()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("dtype, tolerance", [(torch.bfloat16, 0.01), (torch.float16, 0.002)])
def test_low_precision(method, dtype, tolerance):
    """Under autocast and with cast weights: as exact as a plain convolution is."""
    x, offsets = make_inputs(2, (9, 8), torch.float32)
    conv = DeformConv2d(8, 6, method=method)
    wanted = conv(x, offsets)
    with torch.autocast("cpu", dtype):
        assert (conv(x.to(dtype), offsets) - wanted).norm() < tolerance * wanted.norm()
    cast = deepcopy(conv).to(dtype)
    out = cast(x.to(dtype), offsets)
    assert out.dtype == dtype
    assert (out - wanted).norm() < tolerance * wanted.norm()


def test_samplings_export_with_any_size():
    conv = DeformConv2d(8, 6, method="samplings").eval()
    inputs = make_inputs(2, (9, 8), torch.float32)
    axes = {0: Dim.AUTO, 2: Dim.AUTO, 3: Dim.AUTO}
    program = torch.export.export(conv, inputs, dynamic_shapes=(axes, axes))
    inputs = [torch.cat([x, x]) for x in make_inputs(2, (4, 7), torch.float32)]
    torch.testing.assert_close(program.module()(*inputs), conv(*inputs))


def test_unknown_methods_list_the_known_ones():
    with pytest.raises(ValueError, match="DEFORM_CONV is 'fast'.*auto, torchvision, gather"):
        DeformConv2d(8, 6, method="fast")
