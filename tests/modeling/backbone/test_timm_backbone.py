"""Bottom-ups of timm: the same features under Detectron2's names, and names that it lacks."""

from __future__ import annotations

import json
import sys

import pytest
import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, build_model
from torch import Tensor, nn

from asff.modeling import TimmBackbone
from tests.helpers import detector_cfg, make_instances

timm = pytest.importorskip("timm", reason="timm is not installed (pip install .[timm])")

NAMES = [
    *("test_resnet", "mobilenetv3_small_050", "test_efficientnet"),
    "test_convnext",  # begins with patches
    "test_mambaout",  # channels last
]


def own_weights(backbone: TimmBackbone, network: nn.Module) -> dict[str, Tensor]:
    """Return the weights of timm's whole network by the keys of the bottom-up.

    timm renames modules where it takes out features: ``stages.0`` becomes ``stages_0``.
    """
    weights = {key.replace(".", "_"): x for key, x in network.state_dict().items()}
    return {key: weights[key.replace(".", "_")] for key in backbone.network.state_dict()}


@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_features_are_timms(name):
    backbone = TimmBackbone(name=name, out_features=["res2", "res3", "res4", "res5"]).eval()
    network = timm.create_model(name).eval()
    backbone.network.load_state_dict(own_weights(backbone, network))
    images = torch.rand(2, 3, 64, 96)
    wanted = {}
    for feature in network.forward_intermediates(images, intermediates_only=True):
        wanted[64 // feature.shape[2]] = feature
    features = backbone(images)
    assert list(features) == list(backbone.output_shape()) == ["res2", "res3", "res4", "res5"]
    assert backbone.size_divisibility == 32
    for (key, feature), stride in zip(features.items(), [4, 8, 16, 32]):
        shape = backbone.output_shape()[key]
        assert shape.stride == stride
        assert feature.shape == (2, shape.channels, 64 // stride, 96 // stride)
        torch.testing.assert_close(feature, wanted[stride])


def gradients(backbone: nn.Module, features: dict[str, Tensor]) -> dict[str, bool]:
    """Return whether each parameter that is trained has a gradient."""
    sum(x.square().sum() for x in features.values()).backward()
    parameters = backbone.named_parameters()
    return {key: x.grad is not None for key, x in parameters if x.requires_grad}


@pytest.mark.parametrize(
    "name, out_features, idle",
    [
        ("test_convnext", ["res3"], []),
        ("test_efficientnet", ["res3"], ["blocks.3", "blocks.4"]),  # timm leaves it whole
        # The layers from all branches to the finest, which alone makes res2.
        (
            "hrnet_w18_small",
            ["res3", "res4", "res5"],
            ["stage4.0.fuse_layers.0", "incre_modules.0"],
        ),
    ],
)
def test_trains_what_features_depend_on(name, out_features, idle):
    """A trained parameter without gradient hangs training on several GPUs."""
    backbone = TimmBackbone(name=name, out_features=out_features)
    assert all(gradients(backbone, backbone(torch.rand(2, 3, 64, 64))).values())
    for key, parameter in backbone.network.named_parameters():
        assert parameter.requires_grad is not key.startswith(tuple(idle)), key


@torch.no_grad()
def test_the_last_feature_of_a_stride_counts():
    """A vision transformer has many at stride 16; the last is the output of its last block."""
    backbone = TimmBackbone(name="test_vit", out_features=["res4"]).eval()
    images = torch.rand(1, 3, 160, 160)
    network = backbone.network.model
    (last,) = network.forward_intermediates(images, indices=1, intermediates_only=True)
    torch.testing.assert_close(backbone(images)["res4"], last)
    assert last.shape[2:] == (10, 10)
    assert backbone.size_divisibility == 16


def test_trains_in_yolov3():
    cfg = detector_cfg(
        *("MODEL.BACKBONE.NAME", "build_timm_backbone"),
        *("MODEL.TIMM.NAME", "test_resnet"),
        *("MODEL.YOLOV3.NECK.WIDTH", 0.125),
        *("MODEL.YOLOV3.NUM_CLASSES", 5),
    )
    torch.manual_seed(0)
    model = build_model(cfg).train()
    first = model.backbone.bottom_up.network.conv1[0].weight
    before = first.detach().clone()
    gt = make_instances([[8, 8, 40, 48]], [3], image_size=(64, 64))
    losses = model([{"image": torch.rand(3, 64, 64) * 255, "instances": gt}])
    sum(losses.values()).backward()
    assert all(x.grad is not None for x in model.parameters())
    torch.optim.SGD(model.parameters(), lr=0.1).step()
    assert not torch.equal(first, before)
    (output,) = model.eval()([{"image": torch.zeros(3, 64, 96)}])
    assert output["instances"].image_size == (64, 96)


def test_serves_fpn():
    cfg = detector_cfg(
        *("MODEL.META_ARCHITECTURE", "RetinaNet"),
        *("MODEL.BACKBONE.NAME", "build_asff_fpn_backbone"),
        *("MODEL.ASFF_FPN.BOTTOM_UP", "build_timm_backbone"),
        *("MODEL.TIMM.NAME", "test_convnext"),
        *("MODEL.FPN.IN_FEATURES", ["res3", "res4", "res5"]),
        *("MODEL.FPN.OUT_CHANNELS", 16),
    )
    backbone = BACKBONE_REGISTRY.get(cfg.MODEL.BACKBONE.NAME)(cfg, ShapeSpec(channels=3))
    features = backbone(torch.rand(1, 3, 64, 128))
    sizes = {key: tuple(x.shape[1:]) for key, x in features.items()}
    fused = {"p3": (16, 8, 16), "p4": (16, 4, 8), "p5": (16, 2, 4)}
    assert sizes == {**fused, "p6": (16, 1, 2), "p7": (16, 1, 1)}
    assert all(gradients(backbone, features).values())


def build(*options: object) -> TimmBackbone:
    cfg = detector_cfg("MODEL.BACKBONE.NAME", "build_timm_backbone", *options)
    return BACKBONE_REGISTRY.get("build_timm_backbone")(cfg, ShapeSpec(channels=3))


def test_pretrained_weights(tmp_path, caplog):
    """They are loaded unless the config has other weights; pixel statistics must fit them."""
    network = timm.create_model("test_resnet", num_classes=7)
    pixels = {"mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25]}
    metadata = {"architecture": "test_resnet", "num_classes": 7, "pretrained_cfg": pixels}
    (tmp_path / "config.json").write_text(json.dumps(metadata))
    torch.save(network.state_dict(), tmp_path / "pytorch_model.bin")

    def has_weights(*options: object) -> bool:
        backbone = build("MODEL.TIMM.NAME", f"local-dir:{tmp_path}", *options)
        own, weights = backbone.network.state_dict(), own_weights(backbone, network)
        return all(torch.equal(x, weights[key]) for key, x in own.items())

    pretrained = ["MODEL.TIMM.PRETRAINED", True]
    assert not has_weights()
    assert not has_weights(*pretrained, "MODEL.WEIGHTS", "model_final.pth")
    assert not caplog.text
    assert has_weights(*pretrained)
    assert "INPUT.FORMAT RGB, MODEL.PIXEL_MEAN [127.5, 127.5, 127.5]" in caplog.text
    assert "MODEL.PIXEL_STD [63.75, 63.75, 63.75]" in caplog.text
    caplog.clear()
    pixels = ["MODEL.PIXEL_MEAN", [127.5] * 3, "MODEL.PIXEL_STD", [63.75] * 3]
    assert has_weights(*pretrained, *pixels, "INPUT.FORMAT", "RGB")
    assert not caplog.text
    build("MODEL.TIMM.NAME", "test_coatnet")
    assert "'test_coatnet' is made for images of 160 x 160 pixels" in caplog.text


@pytest.mark.parametrize(
    "options, message",
    [
        ({"name": "resnet81"}, r"MODEL.TIMM.NAME is 'resnet81', .* not know. It has .*resnet18"),
        ({"name": "test_resnet.nonsense"}, r"timm cannot make 'test_resnet.nonsense' .*nonsense"),
        ({"name": "local-dir:/nowhere"}, r"cannot make 'local-dir:/nowhere' .*config.json"),
        (
            {"name": "test_resnet", "out_features": ["res3", "res6"]},
            r"OUT_FEATURES is \['res3', 'res6'\]; .* are res1, res2, res3, res4, res5\.$",
        ),
        (
            {"name": "test_vit"},
            r"OUT_FEATURES is \['res3', .*'test_vit', at strides \[16\], are res4",
        ),
        ({"name": "pit_b_224"}, r"at strides \[7, 14, 28\], are none of these"),
        (
            {"name": "inception_v3"},
            r"'inception_v3', which is no backbone .* res3 \(35, 35\) of an",
        ),
    ],
    ids=lambda value: value["name"] if isinstance(value, dict) else "",
)
def test_refuses(options, message):
    with pytest.raises(ValueError, match=message):
        TimmBackbone(**options)


def test_refuses_without_timm(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)  # Python's own way to block a module
    with pytest.raises(ValueError, match=r"needs timm.* Install it by `pip install \.\[timm\]`"):
        build()
