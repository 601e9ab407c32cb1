"""Classification weights of torchvision and timm compute the same features in our bottom-ups."""

from __future__ import annotations

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
    """A strict load of what is below ``backbone.bottom_up.``, which must be all."""
    assert all(key.startswith(PREFIX) for key in weights)
    bottom_up.load_state_dict({key.removeprefix(PREFIX): x for key, x in weights.items()})
    return bottom_up.eval()


def make_image() -> Tensor:
    return torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def torchvision_network() -> nn.Module:
    return shuffle(mobilenet_v2(weights=None))


def timm_shapes() -> dict[str, tuple[int, ...]]:
    """Keys and shapes of timm's darknet53, by its naming."""
    convs = [("stem.conv1", 3, 32, 3)]
    for stage, (depth, channels) in enumerate([(1, 64), (2, 128), (8, 256), (8, 512), (4, 1024)]):
        convs.append((f"stages.{stage}.conv_down", channels // 2, channels, 3))
        for block in range(depth):
            place = f"stages.{stage}.blocks.{block}"
            convs.append((f"{place}.conv1", channels, channels // 2, 1))
            convs.append((f"{place}.conv2", channels // 2, channels, 3))
    shapes = {"head.fc.weight": (1000, 1024), "head.fc.bias": (1000,)}
    for name, inputs, outputs, size in convs:
        shapes[f"{name}.conv.weight"] = (outputs, inputs, size, size)
        for tensor in ("weight", "bias", "running_mean", "running_var"):
            shapes[f"{name}.bn.{tensor}"] = (outputs,)
        shapes[f"{name}.bn.num_batches_tracked"] = ()
    return shapes


@pytest.fixture(scope="module")
def timm_state() -> dict[str, Tensor]:
    """Every tensor has a value of its own, and takes no memory for its shape."""
    shapes = timm_shapes()
    return {key: torch.tensor(float(i)).expand(shapes[key]) for i, key in enumerate(shapes)}


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


def test_timm_names(timm_state, caplog):
    """By hand: the first convolution, a downsampling one, and both of a residual block."""
    caplog.set_level("INFO", "asff")
    weights = convert_timm(timm_state)
    assert len(weights) == 52 * 6
    assert "Left out 2 tensors of the classifier: head.fc.weight, head.fc.bias." in caplog.text
    for theirs, ours in {
        "stem.conv1.conv.weight": "stem.weight",
        "stem.conv1.bn.running_var": "stem.norm.running_var",
        "stages.0.conv_down.conv.weight": "res1.0.weight",
        "stages.2.conv_down.bn.weight": "res3.0.norm.weight",
        "stages.2.blocks.0.conv1.conv.weight": "res3.1.conv1.weight",
        "stages.2.blocks.7.conv2.bn.bias": "res3.8.conv2.norm.bias",
        "stages.4.blocks.3.conv2.bn.num_batches_tracked": "res5.4.conv2.norm.num_batches_tracked",
    }.items():
        assert torch.equal(weights[PREFIX + ours], timm_state[theirs]), theirs
    load(DarkNet(), weights)


def test_timm_features():
    timm = pytest.importorskip("timm", reason="timm is not installed")
    network = shuffle(timm.create_model("darknet53", pretrained=False))
    assert {key: tuple(x.shape) for key, x in network.state_dict().items()} == timm_shapes()
    bottom_up = load(DarkNet(), convert_timm(network.state_dict()))
    slopes = set()
    for layer in bottom_up.modules():
        if isinstance(layer, nn.LeakyReLU):
            layer.negative_slope = 0.01
    for layer in network.modules():
        if isinstance(layer, nn.LeakyReLU):
            slopes.add(layer.negative_slope)
    assert slopes == {0.01}  # which the docstring tells
    with torch.no_grad():
        features = bottom_up(make_image())
        x, theirs = network.stem(make_image()), []
        for stage in network.stages:
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


def test_refuses_other_weights(torchvision_network, timm_state):
    state = torchvision_network.state_dict()
    more = {**state, "features.19.0.weight": torch.zeros(1)}
    with pytest.raises(
        ValueError, match=r"MobileNetV2 .*1 unexpected \(features\.19\.0\.weight\)\.$"
    ):
        convert_torchvision(more)
    less = {key: x for key, x in state.items() if not key.startswith("features.0.1.running")}
    with pytest.raises(
        ValueError, match=r"2 missing \(features\.0\.1\.running_mean, features\.0\.1\.r"
    ):
        convert_torchvision(less)
    with pytest.raises(
        ValueError, match=r"DarkNet .* and the 312 given: 260 missing .*, 312 unexpected"
    ):
        convert_timm({key: x for key, x in state.items() if "features" in key})
    with pytest.raises(ValueError, match=r"and the 0 given: 260 missing \(features\.0\.0"):
        convert_torchvision({})
    wide = {**timm_state, "stem.conv1.conv.weight": torch.zeros(64, 3, 3, 3)}
    with pytest.raises(
        ValueError,
        match=r"1 of another shape \(stem\.conv1\.conv\.weight \(64, 3, 3, 3\) instead "
        r"of \(32, 3, 3, 3\)\)",
    ):
        convert_timm(wide)
