"""MobileNetV2: its features are torchvision's, and names that it lacks."""

from __future__ import annotations

import pytest
import torch
from torchvision.models import mobilenet_v2

from asff.modeling import MobileNetV2


@torch.no_grad()
def test_features_are_torchvisions():
    """The last layers before each stride doubles, with 32, 96 and 1280 channels."""
    backbone, network = MobileNetV2().eval(), mobilenet_v2(weights=None).eval()
    backbone.features.load_state_dict(network.features.state_dict())
    x = images = torch.randn(1, 3, 64, 96)
    last = {}
    for layer in network.features:
        x = layer(x)
        last[64 // x.shape[2]] = x
    features = backbone(images)
    assert list(features) == ["res3", "res4", "res5"]
    for (name, shape), channels in zip(backbone.output_shape().items(), (32, 96, 1280)):
        assert shape.channels == channels
        assert torch.equal(features[name], last[shape.stride])


def test_unknown_feature():
    with pytest.raises(ValueError, match="MODEL.MOBILENETV2.OUT_FEATURES is 'res2'.*res3"):
        MobileNetV2(out_features=["res2"])
