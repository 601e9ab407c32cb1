"""Packed convolutions: the same outputs as before, and what stays a plain convolution."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch
from detectron2.layers import Conv2d
from detectron2.modeling import build_model
from torch import Tensor, nn

from asff.modeling import fuse_norms, pack_convolutions
from asff.modeling.layers import conv_norm_act
from asff.modeling.layers.pack_convs import PackedConv2d
from tests.helpers import MOBILENET, TINY_DARKNET, detector_cfg


def predict(model: nn.Module, images: Tensor, dtype: torch.dtype) -> Tensor:
    with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
        return model.head(list(model.backbone(images).values())).box_logits


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("options", [TINY_DARKNET, MOBILENET], ids=["darknet", "mobilenetv2"])
@torch.inference_mode()
def test_detectors_predict_as_before(options, dtype):
    """In bfloat16 the error is that of autocast, without which the packed detector runs too."""
    if dtype == torch.bfloat16 and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        pytest.skip("oneDNN has no bfloat16 here")
    torch.manual_seed(0)
    model = fuse_norms(build_model(detector_cfg(*options, "MODEL.YOLOV3.NECK.WIDTH", 0.125)))
    packed = deepcopy(model)
    pack_convolutions(packed, dtype)
    left = [name for name, x in packed.named_modules() if isinstance(x, nn.Conv2d)]
    assert all(name.endswith("adaption.offset") for name in left)
    images = torch.randn(2, 3, 64, 96)
    exact, plain, out = (
        predict(network, images, dtype)
        for network, dtype in ((model, torch.float32), (model, dtype), (packed, dtype))
    )
    packed.head(list(packed.backbone(images).values()))
    assert (out - exact).norm() < 1.5 * (plain - exact).norm() + 1e-5 * exact.norm()


@pytest.mark.parametrize("activation", ["", "leaky_relu", "relu", "relu6"])
@pytest.mark.parametrize("stride, bias", [(1, False), (2, True)])
@torch.inference_mode()
def test_activations(activation, stride, bias):
    torch.manual_seed(0)
    conv = conv_norm_act(5, 7, 3, stride=stride, norm="" if bias else "BN", activation=activation)
    conv.norm = None
    nn.init.constant_(conv.weight, 1.0)  # so that ReLU6 limits some
    packed = PackedConv2d(conv, torch.float32)
    for size in ((6, 9), (6, 9), (40, 33)):
        x = torch.randn(2, 5, *size)
        torch.testing.assert_close(packed(x), conv(x))


def test_what_stays():
    layers = [
        Conv2d(4, 4, 1, norm=nn.BatchNorm2d(4)),
        nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect"),
        nn.Conv2d(4, 4, 3, padding="same"),
        nn.Conv2d(4, 4, 1),
        nn.Conv2d(4, 4, 1),
    ]
    layers[-2].register_forward_hook(lambda *_: None)
    layers[-1].register_forward_pre_hook(lambda *_: None)
    model = nn.Sequential(*layers)
    pack_convolutions(model, torch.float32)
    assert list(model) == layers
    model = nn.Sequential(nn.Conv2d(4, 4, 1))
    pack_convolutions(model, torch.float64)
    assert type(model[0]) is nn.Conv2d
