"""DarkNet: its features, and names that it lacks."""

from __future__ import annotations

import pytest
import torch

from asff.modeling import DarkNet


def test_features():
    """Channels double at every stage; those of DarkNet-53 are 32 to 1024."""
    backbone = DarkNet(depths=(1, 1, 1, 1, 1), width=0.25, out_features=["res1", "res3", "res5"])
    features = backbone(torch.randn(2, 3, 64, 96))
    found = {name: tuple(x.shape) for name, x in features.items()}
    assert found == {"res1": (2, 16, 32, 48), "res3": (2, 64, 8, 12), "res5": (2, 256, 2, 3)}
    for name, shape in backbone.output_shape().items():
        assert features[name].shape == (2, shape.channels, 64 // shape.stride, 96 // shape.stride)


def test_number_of_convolutions():
    """52 of DarkNet-53; the 53rd layer is the classifier's."""
    with torch.device("meta"):
        modules = DarkNet().modules()
    assert sum(isinstance(module, torch.nn.Conv2d) for module in modules) == 52


def test_unknown_feature():
    with pytest.raises(ValueError, match="MODEL.DARKNET.OUT_FEATURES is 'res6'.*res1.*res5"):
        DarkNet(out_features=["res3", "res6"])
