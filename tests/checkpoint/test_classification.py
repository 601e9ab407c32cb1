"""Classification weights of torchvision and timm compute the same features in our bottom-ups."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torchvision.models import mobilenet_v2

from asff.checkpoint.classification import convert_timm, convert_torchvision
from asff.modeling import DarkNet, MobileNetV2

PREFIX = "backbone.bottom_up."


def shuffle(network: nn.Module) -> nn.Module:
    """Give every tensor, also the statistics, values of its own."""
    generator = torch.Generator().manual_seed(0)
    for key, value in network.state_dict().items():
        if key.endswith("num_batches_tracked"):
            value.fill_(int(torch.randint(1, 1000, (), generator=generator)))
        elif value.dim() == 4:
            fan_in = value[0].numel()
            value.copy_(torch.randn(value.shape, generator=generator) * (2 / fan_in) ** 0.5)
        else:
            value.copy_(torch.rand(value.shape, generator=generator) * 0.5 + 0.5)
    return network.eval()


def load(bottom_up: nn.Module, weights: dict[str, Tensor]) -> nn.Module:
    """Load weights strictly, all of which must be below ``backbone.bottom_up.``."""
    assert all(key.startswith(PREFIX) for key in weights)
    bottom_up.load_state_dict({key.removeprefix(PREFIX): x for key, x in weights.items()})
    return bottom_up.eval()


def make_image() -> Tensor:
    return torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def torchvision_network() -> nn.Module:
    return shuffle(mobilenet_v2(weights=None))


@pytest.fixture(scope="module")
def timm_network() -> nn.Module:
    timm = pytest.importorskip("timm", reason="timm is not installed")
    return shuffle(timm.create_model("darknet53", pretrained=False))


def test_torchvision_features(torchvision_network, caplog):
    caplog.set_level("INFO", "asff")
    weights = convert_torchvision(torchvision_network.state_dict())
    assert len(weights) == len(torchvision_network.state_dict()) - 2
    assert "Left out 2 tensors of the classifier: classifier.1.weight, classifier.1.bias." in (
        caplog.text
    )
    bottom_up = load(MobileNetV2(), weights)
    with torch.no_grad():
        features = bottom_up(make_image())
        x, theirs = make_image(), {}
        for layer in torchvision_network.features:
            x = layer(x)
            theirs[x.shape[-1]] = x  # the last of a stride stays
    for name, side in (("res3", 8), ("res4", 4), ("res5", 2)):
        assert features[name].std() > 1e-3
        assert torch.equal(features[name], theirs[side]), name


def test_timm_features(timm_network, caplog):
    caplog.set_level("INFO", "asff")
    weights = convert_timm(timm_network.state_dict())
    assert len(weights) == 52 * 6
    assert "Left out 2 tensors of the classifier: head.fc.weight, head.fc.bias." in caplog.text
    bottom_up = load(DarkNet(), weights)
    for layer in bottom_up.modules():
        if isinstance(layer, nn.LeakyReLU):
            layer.negative_slope = 0.01  # as timm's
    with torch.no_grad():
        features = bottom_up(make_image())
        x, theirs = timm_network.stem(make_image()), []
        for stage in timm_network.stages:
            x = stage(x)
            theirs.append(x)
    for name, other in zip(("res3", "res4", "res5"), theirs[2:]):
        torch.testing.assert_close(features[name], other, rtol=1e-5, atol=0.0)


def test_counters_may_lack(torchvision_network):
    """Files of old PyTorch versions have none."""
    state = torchvision_network.state_dict()
    without = {key: x for key, x in state.items() if not key.endswith("num_batches_tracked")}
    assert len(state) - len(without) == 52
    weights = convert_torchvision(without)
    assert weights[PREFIX + "features.0.1.num_batches_tracked"] == 0
    load(MobileNetV2(), weights)


def test_refuses_other_weights(torchvision_network):
    def refuses(convert: Callable, weights: dict[str, Tensor], message: str) -> None:
        with pytest.raises(ValueError, match=message):
            convert(weights)

    state = torchvision_network.state_dict()
    more = {**state, "features.19.0.weight": torch.zeros(1)}
    refuses(convert_torchvision, more, r"MobileNetV2 .*1 unexpected \(features\.19\.0\.weight\)\.$")
    less = {key: x for key, x in state.items() if not key.startswith("features.0.1.running")}
    refuses(convert_torchvision, less, r"2 missing \(features\.0\.1\.running_mean, ")
    refuses(convert_torchvision, {}, r"and the 0 given: 260 missing \(features\.0\.0")
    wide = {**state, "features.0.0.weight": torch.zeros(64, 3, 3, 3)}
    shapes = r"\(64, 3, 3, 3\) instead of \(32, 3, 3, 3\)"
    refuses(convert_torchvision, wide, rf"1 of another shape \(features\.0\.0\.weight {shapes}")
    features = {key: x for key, x in state.items() if "features" in key}
    refuses(convert_timm, features, r"DarkNet .* the 312 given: 260 missing .*, 312 unexpected")
