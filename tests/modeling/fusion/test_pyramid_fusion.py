"""Fusion of the levels: against a slow loop over locations and channels (Equations 1 and 2)."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from functools import partial

import numpy as np
import pytest
import torch
from detectron2.modeling import build_model
from torch import nn

from asff.modeling import AdaptiveFusion, PyramidFusion, SumFusion
from asff.modeling.fusion.operations import ConcatFusion
from tests.helpers import TINY_DARKNET, detector_cfg
from tests.modeling.fusion.resized import make_features, spatial_weights

STYLE = {"norm": "BN", "activation": "leaky_relu"}


OPERATIONS = {
    "asff": partial(AdaptiveFusion, weight_channels=3, **STYLE),
    "sum": SumFusion,
    "concat": ConcatFusion,
}


def make_fusion(operation: str, channels: Sequence[int]) -> PyramidFusion:
    """Build a fusion in evaluation mode whose parameters and statistics are all random."""
    torch.manual_seed(0)
    options = {"in_channels": channels, "strides": (32, 16, 8, 4)[: len(channels)], **STYLE}
    fusion = PyramidFusion(OPERATIONS[operation], **options)
    for layer in fusion.modules():
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.uniform_(layer.weight, 0.5, 1.5)
            nn.init.uniform_(layer.running_var, 0.5, 1.5)
            nn.init.normal_(layer.running_mean, std=0.3)
            nn.init.normal_(layer.bias, std=0.3)
        elif isinstance(layer, nn.Conv2d) and layer.bias is not None:
            nn.init.normal_(layer.bias)
    return fusion.eval()


def slow_conv(x: np.ndarray, layer: nn.Module, stride: int = 1) -> np.ndarray:
    """Compute convolution of x (C, H, W), batch norm (eps 1e-5) and LeakyReLU 0.1."""
    kernel = layer.weight.detach().double().numpy()
    out_channels, _, size, _ = kernel.shape
    margin = size // 2
    padded = np.pad(x, ((0, 0), (margin, margin), (margin, margin)))
    height, width = (x.shape[1] - 1) // stride + 1, (x.shape[2] - 1) // stride + 1
    out = np.zeros((out_channels, height, width))
    for y in range(height):
        for z in range(width):
            window = padded[:, y * stride : y * stride + size, z * stride : z * stride + size]
            for channel in range(out_channels):
                out[channel, y, z] = (window * kernel[channel]).sum()
    norm = {name: value.double().numpy() for name, value in layer.norm.state_dict().items()}
    for channel in range(out_channels):
        deviation = np.sqrt(norm["running_var"][channel] + 1e-5)
        out[channel] = (out[channel] - norm["running_mean"][channel]) / deviation
        out[channel] = out[channel] * norm["weight"][channel] + norm["bias"][channel]
    return np.where(out > 0, out, 0.1 * out)


def slow_max_pool(x: np.ndarray) -> np.ndarray:
    """Pool with size 3, stride 2, padding 1."""
    out = np.zeros((len(x), (x.shape[1] + 1) // 2, (x.shape[2] + 1) // 2))
    for channel, y, z in np.ndindex(out.shape):
        rows = slice(max(2 * y - 1, 0), 2 * y + 2)
        columns = slice(max(2 * z - 1, 0), 2 * z + 2)
        out[channel, y, z] = x[channel, rows, columns].max()
    return out


def slow_resize(
    x: np.ndarray, level: int, target: int, resize: nn.Module, channels: int, size: tuple[int, int]
) -> np.ndarray:
    """Compute x^{n->l}; levels 0, 1, 2, 3 have strides 32, 16, 8, 4."""
    if level == target:
        return x
    if level < target:  # coarser: up
        if len(x) != channels:
            assert resize.conv.kernel_size == (1, 1)
            x = slow_conv(x, resize.conv)
        out = np.zeros((channels, *size))
        for y in range(size[0]):
            for z in range(size[1]):
                out[:, y, z] = x[:, y * x.shape[1] // size[0], z * x.shape[2] // size[1]]
        return out
    for _ in range(level - target - 1):
        x = slow_max_pool(x)
    assert resize.conv.kernel_size == (3, 3)
    return slow_conv(x, resize.conv, stride=2)


def slow_fuse(fuse: AdaptiveFusion, resized: Sequence[np.ndarray]) -> np.ndarray:
    """Compute Equations 1 and 2 at one level."""
    compressed = np.concatenate([slow_conv(x, c) for x, c in zip(resized, fuse.compress)])
    kernel = fuse.logits.weight.detach().double().numpy()[:, :, 0, 0]
    bias = fuse.logits.bias.detach().double().numpy()
    out = np.zeros(resized[0].shape)
    for y, z in np.ndindex(out.shape[1:]):
        # lambda_alpha, lambda_beta, lambda_gamma at this location.
        controls = [kernel[n] @ compressed[:, y, z] + bias[n] for n in range(len(bias))]
        total = sum(np.exp(control) for control in controls)
        for control, x in zip(controls, resized):
            out[:, y, z] += np.exp(control) / total * x[:, y, z]
    return out


@pytest.mark.parametrize(
    "channels, sizes",
    [
        ((6, 4, 4), [(2, 4), (4, 8), (8, 16)]),
        ((2, 3, 5), [(7, 7), (13, 13), (25, 25)]),
        ((2, 3, 5, 3), [(1, 3), (2, 5), (3, 9), (5, 17)]),
    ],
    ids=str,
)
@pytest.mark.parametrize("operation", OPERATIONS)
def test_equals_the_slow_loop(operation, channels, sizes):
    """All operations take the same resized features (Table 3 compares them on equal inputs)."""
    fusion = make_fusion(operation, channels)
    features = make_features(channels, sizes, num_images=2)
    with torch.no_grad():
        fused = fusion(features)
    for image, target in itertools.product(range(2), range(len(sizes))):
        resized = [
            slow_resize(
                x[image].double().numpy(),
                level,
                target,
                fusion.resize[target][level],
                channels[target],
                sizes[target],
            )
            for level, x in enumerate(features)
        ]
        if operation == "asff":
            expected = slow_fuse(fusion.fuse[target], resized)
        else:
            expected = sum(resized) if operation == "sum" else np.concatenate(resized)
        found = fused[target][image].numpy()
        assert len(found) == fusion.out_channels[target]
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def test_by_config():
    """The head takes what the fusion gives; weight channels and self weight follow their keys."""
    torch.manual_seed(0)
    cfg = detector_cfg(*TINY_DARKNET, "MODEL.YOLOV3.FUSION.WEIGHT_CHANNELS", 24)
    model = build_model(cfg)
    for fuse in model.backbone.fusion.fuse:
        assert fuse.logits.weight.shape == (3, 3 * 24, 1, 1)
        assert fuse.logits.weight.std() > 0.1  # MSRA with 72 inputs: 0.17
    cfg.MODEL.YOLOV3.FUSION.NAME = "concat"
    model = build_model(cfg)
    neck = model.backbone.neck.out_channels
    assert [level.conv.in_channels for level in model.head.levels] == [3 * c for c in neck]


@pytest.mark.parametrize("self_weight", [1 / 3, 0.8])
def test_self_weight(self_weight):
    cfg = detector_cfg(*TINY_DARKNET, "MODEL.YOLOV3.FUSION.INIT_SELF_WEIGHT", self_weight)
    for level, fuse in enumerate(build_model(cfg).backbone.fusion.fuse):
        channels = fuse.compress[0].in_channels
        weights = spatial_weights(fuse, make_features([channels] * 3, [(4, 5)] * 3))
        expected = torch.full_like(weights, (1 - self_weight) / 2)
        expected[:, level] = self_weight
        torch.testing.assert_close(weights, expected)


@pytest.mark.parametrize("self_weight", [1.0, -0.1])
def test_self_weight_must_be_between_0_and_1(self_weight):
    cfg = detector_cfg(*TINY_DARKNET, "MODEL.YOLOV3.FUSION.INIT_SELF_WEIGHT", self_weight)
    with pytest.raises(ValueError, match=f"MODEL.YOLOV3.FUSION.INIT_SELF_WEIGHT is {self_weight}"):
        build_model(cfg)
