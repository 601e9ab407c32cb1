"""The pyramid: its levels with every fusion, and bottom-ups that it cannot use."""

from __future__ import annotations

import pytest
import torch
from detectron2.modeling import build_model

from tests.helpers import TINY_DARKNET, detector_cfg

RESNET = (
    *("MODEL.BACKBONE.NAME", "build_resnet_backbone"),
    *("MODEL.RESNETS.OUT_FEATURES", ["res2", "res3", "res4", "res5"]),
)


@pytest.mark.parametrize("name, factor", [("none", 1), ("sum", 1), ("asff", 1), ("concat", 3)])
def test_levels(name, factor):
    """Strides, channels and names of the levels, which are those of the output."""
    model = build_model(detector_cfg(*TINY_DARKNET, "MODEL.YOLOV3.FUSION.NAME", name))
    channels = [factor * c for c in model.backbone.neck.out_channels]
    shapes = model.backbone.output_shape()
    assert {key: shape.stride for key, shape in shapes.items()} == {"p5": 32, "p4": 16, "p3": 8}
    assert [shape.channels for shape in shapes.values()] == channels
    levels = model.backbone(torch.randn(2, 3, 64, 96))
    for c, (key, shape) in zip(channels, shapes.items()):
        assert levels[key].shape == (2, c, 64 // shape.stride, 96 // shape.stride)


def test_without_fusion_levels_are_the_necks():
    model = build_model(detector_cfg(*TINY_DARKNET, "MODEL.YOLOV3.FUSION.NAME", "none"))
    backbone, images = model.backbone.eval(), torch.randn(1, 3, 64, 64)
    levels = []
    backbone.neck.register_forward_hook(lambda module, args, output: levels.extend(output))
    fused = backbone(images).values()
    assert all(torch.equal(x, y) for x, y in zip(levels, fused))


@pytest.mark.parametrize(
    "key, value, message",
    [
        (
            "MODEL.BACKBONE.NAME",
            "build_resnext_backbone",
            "'build_resnext_backbone'.*build_resnet_backbone.*build_darknet_backbone",
        ),
        ("MODEL.YOLOV3.IN_FEATURES", ["res3", "res4", "res6"], "is 'res6'.*res3, res4, res5"),
        ("MODEL.YOLOV3.IN_FEATURES", ["res2", "res3", "res4"], r"strides \[4, 8, 16\]"),
        ("MODEL.YOLOV3.IN_FEATURES", ["res5", "res4", "res3"], r"strides \[32, 16, 8\]"),
        ("MODEL.YOLOV3.IN_FEATURES", ["res4", "res5"], r"strides \[16, 32\]"),
        ("MODEL.YOLOV3.FUSION.NAME", "bifpn", "is 'bifpn'.*none, sum, concat, asff"),
    ],
    ids=str,
)
def test_refuses(key, value, message):
    with pytest.raises(ValueError, match=f"{key}.*{message}"):
        build_model(detector_cfg(*RESNET, key, value))
