"""The head: the order of its anchors, its channels, and what trains the predicted shapes."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from detectron2.modeling import build_model
from torch import nn

from tests.helpers import MOBILENET, TINY_DARKNET, detector_cfg
from tests.modeling.oracle import PRESETS, Layout


@pytest.mark.parametrize("anchor_free", [True, False])
def test_order_of_the_anchors(anchor_free):
    """Where the head predicts constants per anchor of a location, all boxes are known."""
    torch.manual_seed(0)
    cfg = detector_cfg(*TINY_DARKNET, "MODEL.YOLOV3.ANCHOR_FREE", anchor_free)
    model = build_model(cfg).eval()
    num_anchors, layout = 3 + anchor_free, Layout(64, 96, anchor_free=anchor_free)
    expected = np.zeros((len(layout.anchors), 10))
    for level, stride in zip(model.head.levels, (32, 16, 8)):
        for layer in (level.shape, level.predict):
            nn.init.zeros_(layer.weight)
            nn.init.normal_(layer.bias)
        # By anchor of the location: width, height; and x, y, w, h, objectness, classes.
        shapes = level.shape.bias.view(num_anchors, 2).tolist()
        logits = level.predict.bias.view(num_anchors, 10).tolist()
        sizes = [*PRESETS[(8, 16, 32).index(stride)], (4 * stride, 4 * stride)]
        for (anchor_stride, a, y, x), index in layout.index.items():
            if anchor_stride == stride:
                w, h = (
                    size * math.exp(shape + logit)
                    for size, shape, logit in zip(sizes[a], shapes[a], logits[a][2:4])
                )
                p = [1 / (1 + math.exp(-logit)) for logit in logits[a]]
                expected[index] = [(x + p[0]) * stride, (y + p[1]) * stride, w, h, *p[4:]]
    with torch.no_grad():
        dense = model.forward_dense(torch.randn(2, 3, 64, 96))
    assert dense.shape == (2, num_anchors * (2 * 3 + 4 * 6 + 8 * 12), 10)
    for image in dense:
        np.testing.assert_allclose(image.numpy(), expected, rtol=1e-5, atol=1e-5)


def test_feature_adaption_does_not_train_the_shapes():
    """Its offsets follow from the detached shape logits (before exp)."""
    torch.manual_seed(0)
    model = build_model(detector_cfg(*TINY_DARKNET)).eval()
    predictions = model.head(list(model.backbone(torch.randn(2, 3, 64, 64)).values()))
    predictions.cls_logits.square().sum().backward()
    for level in model.head.levels:
        assert level.shape.weight.grad is None
        assert level.adaption.offset.weight.grad.any()
        assert level.conv.weight.grad.any()


@pytest.mark.parametrize(
    "width, neck_channels, head_channels",
    [(1.0, [512, 256, 128], [1024, 512, 256]), (0.25, [128, 64, 32], [256, 128, 64])],
)
def test_width_multiplier(width, neck_channels, head_channels):
    """Channels at strides 32, 16, 8: those that the specification has for MobileNetV2 x width."""
    model = build_model(detector_cfg(*MOBILENET, "MODEL.YOLOV3.NECK.WIDTH", width))
    assert [s.channels for s in model.backbone.output_shape().values()] == neck_channels
    assert [level.predict.in_channels for level in model.head.levels] == head_channels


@pytest.mark.parametrize(
    "options, message",
    [
        (("GUIDED_ANCHORING", False), "FEATURE_ADAPTION is True.*GUIDED_ANCHORING is False"),
        (("RFB", True, "FEATURE_ADAPTION", False), "RFB is True but.*FEATURE_ADAPTION is False"),
    ],
)
def test_parts_need_each_other(options, message):
    options = [f"MODEL.YOLOV3.{x}" if isinstance(x, str) else x for x in options]
    with pytest.raises(ValueError, match=message):
        build_model(detector_cfg(*TINY_DARKNET, *options))


@pytest.mark.parametrize(
    "dtype, tolerance", [(torch.float64, 1e-5), (torch.float16, 0.002), (torch.bfloat16, 0.02)]
)
@torch.no_grad()
def test_cast_detectors_run(dtype, tolerance):
    """With weights of any dtype and, where it is lower than float32, under autocast to it."""
    torch.manual_seed(0)
    model = build_model(detector_cfg(*TINY_DARKNET, "MODEL.YOLOV3.RFB", True)).eval()
    features = [torch.randn(1, x.channels, 3, 4) for x in model.backbone.output_shape().values()]
    wanted = model.head(features).box_logits
    error = tolerance * wanted.norm()
    if dtype != torch.float64:
        with torch.autocast("cpu", dtype):
            assert (model.head(features).box_logits - wanted).norm() < error
    cast = model.head.to(dtype)([x.to(dtype) for x in features])
    assert (cast.box_logits - wanted).norm() < error
