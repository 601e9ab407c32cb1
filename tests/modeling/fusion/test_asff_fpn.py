"""ASFF-FPN: FPN's weights and features, the neutral start, and detectors with it."""

from __future__ import annotations

import pickle

import pytest
import torch
import torch.nn.functional as F
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.modeling import build_backbone, build_model
from detectron2.modeling.backbone.fpn import FPN
from torch import Tensor, nn

from asff.checkpoint import Checkpointer
from asff.modeling import ASFFFPN
from tests.modeling.narrow_fpn import CHANNELS, FEATURES, RCNN, RETINANET, fpn_cfg

SELF = 0.95  # the default of INIT_SELF_WEIGHT


def fpn_and_asff(builder: str, *options: object) -> tuple[FPN, ASFFFPN]:
    """Build a stock FPN, and ASFF-FPN with its weights, in evaluation mode.

    Checks that only the fusion is missing from these weights.
    """
    torch.manual_seed(0)
    cfg = fpn_cfg(builder.format(""), *options)
    stock = build_backbone(cfg)
    cfg.MODEL.BACKBONE.NAME = builder.format("_asff")
    backbone = build_backbone(cfg)
    result = backbone.load_state_dict(stock.state_dict(), strict=False)
    assert not result.unexpected_keys
    assert all(key.startswith("asff.") for key in result.missing_keys)
    return stock.eval(), backbone.eval()


def images(height: int = 64, width: int = 96) -> Tensor:
    return torch.randn(2, 3, height, width, generator=torch.Generator().manual_seed(1))


def slow_down(x: Tensor) -> Tensor:
    """Compute means of 3x3 locations around every second one; zeros beyond the border."""
    padded = F.pad(x, (1, 1, 1, 1))
    height, width = (x.shape[2] + 1) // 2, (x.shape[3] + 1) // 2
    out = torch.zeros(*x.shape[:2], height, width)
    for i in range(height):
        for j in range(width):
            out[:, :, i, j] = padded[:, :, 2 * i : 2 * i + 3, 2 * j : 2 * j + 3].mean(dim=(2, 3))
    return out


def up(x: Tensor, factor: int) -> Tensor:
    return x.repeat_interleave(factor, dim=2).repeat_interleave(factor, dim=3)


@pytest.mark.parametrize("builder", FEATURES)
def test_without_fusion_it_is_fpn(builder):
    stock, backbone = fpn_and_asff(builder, "MODEL.ASFF_FPN.FUSION", "none")
    with torch.no_grad():
        expected, found = stock(images()), backbone(images())
    assert list(found) == list(expected)
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert backbone.output_shape() == stock.output_shape()


@pytest.mark.parametrize("fusion, self_weight", [("asff", SELF), ("concat", SELF), ("asff", 0.5)])
def test_start_is_a_known_mean_of_the_levels(fusion, self_weight):
    """The other levels, resized without learned weights, share the rest of the self weight."""
    options = ("MODEL.ASFF_FPN.FUSION", fusion, "MODEL.ASFF_FPN.INIT_SELF_WEIGHT", self_weight)
    other = (1 - self_weight) / 2
    stock, backbone = fpn_and_asff(RETINANET, *options)
    with torch.no_grad():
        x, y = stock(images()), backbone(images())
    p3, p4, p5 = x["p3"], x["p4"], x["p5"]
    pooled = F.max_pool2d(p3, 3, stride=2, padding=1)
    expected = {
        "p3": self_weight * p3 + other * (up(p4, 2) + up(p5, 4)),
        "p4": self_weight * p4 + other * (slow_down(p3) + up(p5, 2)),
        "p5": self_weight * p5 + other * (slow_down(pooled) + slow_down(p4)),
        "p6": x["p6"],
        "p7": x["p7"],
    }
    for name, wanted in expected.items():
        torch.testing.assert_close(y[name], wanted, rtol=1e-4, atol=1e-4)


def test_p6_of_faster_rcnn_is_pooled_from_p5_before_the_fusion():
    stock, backbone = fpn_and_asff(RCNN)
    with torch.no_grad():
        x, y = stock(images()), backbone(images())
    assert backbone.fused_levels == ["p2", "p3", "p4", "p5"]
    assert torch.equal(y["p6"], x["p6"])
    assert not torch.equal(y["p5"], x["p5"])


@pytest.mark.parametrize("norm", ["", "BN", "GN"])
@pytest.mark.parametrize("fusion", ["asff", "concat", "sum"])
def test_gradient_reaches_the_whole_fusion_after_one_step(norm, fusion):
    options = ("MODEL.ASFF_FPN.FUSION", fusion, "MODEL.ASFF_FPN.NORM", norm)
    _, backbone = fpn_and_asff(RETINANET, *options)
    backbone.train()
    optimizer = torch.optim.SGD(backbone.parameters(), lr=1e-4)
    target = torch.randn(2, CHANNELS, 1, 1, generator=torch.Generator().manual_seed(2))
    for step in range(2):
        optimizer.zero_grad()
        levels = backbone(images())
        sum((levels[name] * target).mean() for name in backbone.fused_levels).backward()
        without = [k for k, p in backbone.asff.named_parameters() if not p.grad.abs().sum() > 0]
        if step == 0 and fusion == "asff":
            assert not any("logits" in name for name in without)  # every gate
            assert without and all("compress" in name for name in without)
        optimizer.step()
    # A bias ahead of a norm has no effect; there is none.
    assert without == []


@pytest.mark.parametrize("norm", ["", "BN", "GN", "FrozenBN"])
def test_start_is_near_neutral_with_any_norm(norm):
    """Whatever the scale of FPN's features, they move by less than a tenth."""
    _, backbone = fpn_and_asff(RETINANET, "MODEL.ASFF_FPN.NORM", norm)
    torch.manual_seed(0)
    levels = [torch.randn(2, CHANNELS, 32 // 2**n, 48 // 2**n) for n in range(3)]
    for scale in (0.03, 1.0, 30.0):
        for mode in (True, False):
            fused = backbone.asff.train(mode)([scale * x for x in levels])
            for x, y in zip(levels, fused):
                assert (y - scale * x).norm() < 0.1 * scale * x.norm()


def test_works_where_the_config_lacks_its_keys():
    """As under Detectron2's own train_net.py with `import asff`."""
    cfg = fpn_cfg(RETINANET.format("_asff"), add_keys=False)
    backbone = build_backbone(cfg)
    assert backbone.fused_levels == ["p3", "p4", "p5"]
    assert set(backbone(images())) == {"p3", "p4", "p5", "p6", "p7"}


@pytest.mark.parametrize("norm", ["", "GN"])
@pytest.mark.parametrize(
    "levels", [["p5", "p3"], ["p3", "p7"], ["p2", "p3", "p4", "p5", "p6", "p7"]], ids=str
)
@pytest.mark.parametrize("size", [(64, 96), (32, 160), (96, 96)], ids=str)
def test_any_levels_at_any_size(levels, size, norm):
    """p6 and p7 have odd sizes: 5, 3, 2 or 1, where group norm needs several values in a group."""
    options = ("MODEL.ASFF_FPN.TOP_BLOCK", "p6p7", "MODEL.FPN.IN_FEATURES", FEATURES[RCNN])
    cfg = fpn_cfg("build_asff_fpn_backbone", *options, "MODEL.ASFF_FPN.LEVELS", levels)
    cfg.MODEL.ASFF_FPN.NORM = norm
    torch.manual_seed(0)
    backbone = build_backbone(cfg)
    unfused = []
    backbone.asff.register_forward_hook(lambda module, args, output: unfused.extend(args[0]))
    with torch.no_grad():
        fused = backbone(images(*size)[:1])
    assert list(fused) == ["p2", "p3", "p4", "p5", "p6", "p7"]
    assert backbone.fused_levels == sorted(levels)
    for level, x in zip(backbone.fused_levels, unfused):
        assert fused[level].shape == x.shape
        assert (fused[level] - x).norm() < 0.15 * x.norm()


def test_odd_sizes():
    """From 5x3 up to 9x5, by halving rounded up: location (i, j) takes (i // 2, j // 2)."""
    _, backbone = fpn_and_asff(RETINANET, "MODEL.ASFF_FPN.LEVELS", ["p3", "p4"])
    fine, coarse = torch.randn(1, CHANNELS, 9, 5), torch.randn(1, CHANNELS, 5, 3)
    with torch.no_grad():
        y3, y4 = backbone.asff([fine, coarse])
    up_coarse = up(coarse, 2)[:, :, :9, :5]
    torch.testing.assert_close(y3, SELF * fine + (1 - SELF) * up_coarse)
    torch.testing.assert_close(y4, SELF * coarse + (1 - SELF) * slow_down(fine))


class Levels(nn.Sequential):
    """A backbone that returns its levels in a list, as tracing needs."""

    def forward(self, x: Tensor) -> list[Tensor]:
        return list(self[0](x).values())


@pytest.mark.filterwarnings("ignore")
def test_traced_at_one_size_it_works_at_another():
    _, backbone = fpn_and_asff(RETINANET)
    model, other = Levels(backbone), images(128, 64)
    with torch.no_grad():
        traced = torch.jit.trace(model, images())
        exported = torch.export.export(model, (images(),)).module()
        assert all(map(torch.equal, traced(other), model(other)))
        assert all(map(torch.equal, exported(images()), model(images())))


@pytest.mark.parametrize(
    "bottom_up, in_features, top_block, names",
    [
        ("darknet", ["res3", "res4", "res5"], "p6p7", ["p3", "p4", "p5", "p6", "p7"]),
        ("mobilenetv2", ["res3", "res4", "res5"], "none", ["p3", "p4", "p5"]),
        # Where FPN ends at p4, Detectron2's own block would look for p5.
        ("resnet", ["res2", "res3", "res4"], "pool", ["p2", "p3", "p4", "p5"]),
    ],
)
def test_wraps_any_bottom_up(bottom_up, in_features, top_block, names):
    cfg = fpn_cfg(
        "build_asff_fpn_backbone",
        *("MODEL.ASFF_FPN.BOTTOM_UP", f"build_{bottom_up}_backbone"),
        *("MODEL.FPN.IN_FEATURES", in_features, "MODEL.ASFF_FPN.TOP_BLOCK", top_block),
        *("MODEL.DARKNET.WIDTH", 0.125),
    )
    backbone = build_backbone(cfg)
    levels = backbone(images())
    assert list(levels) == names
    for name, shape in backbone.output_shape().items():
        assert levels[name].shape == (2, CHANNELS, -(-64 // shape.stride), -(-96 // shape.stride))


@pytest.mark.parametrize(
    "key, value, message",
    [
        ("FPN.IN_FEATURES", ["res3", "res6"], "is 'res6'.*res2"),
        ("FPN.IN_FEATURES", [], "is empty.*res5"),
        ("FPN.IN_FEATURES", ["res3", "res5"], r"strides \[8, 32\].*neighbouring"),
        ("FPN.IN_FEATURES", ["res4", "res3"], r"strides \[16, 8\]"),
        ("ASFF_FPN.LEVELS", ["p4"], r"would fuse \['p4'\]: choose 2 to 6 of p3, p4"),
        ("ASFF_FPN.LEVELS", ["p2", "p3"], "is 'p2'.*p3, p4"),
        ("ASFF_FPN.FUSION", "add", "is 'add'.*none, sum, concat"),
        ("ASFF_FPN.INIT_SELF_WEIGHT", 1.0, "is 1.0"),
        ("ASFF_FPN.INIT_SELF_WEIGHT", 0.0, "is 0.0"),
        ("ASFF_FPN.BOTTOM_UP", "build_vgg", "is 'build_vgg'.*build_resnet"),
        ("ASFF_FPN.BOTTOM_UP", "build_asff_fpn_backbone", "is 'build_asff_fpn_backbone'"),
        ("ASFF_FPN.TOP_BLOCK", "p8", "is 'p8'.*p6p7, pool, none"),
    ],
    ids=str,
)
def test_refuses(key, value, message):
    cfg = fpn_cfg("build_asff_fpn_backbone", f"MODEL.{key}", value)
    with pytest.raises(ValueError, match=f"MODEL.{key}.*{message}"):
        build_backbone(cfg)


LEVELS = ["p2", "p3", "p4", "p5"]
ANCHORS = ("MODEL.ANCHOR_GENERATOR.SIZES", [[32], [64], [128], [256], [512]])
R_CNN = (
    *("MODEL.META_ARCHITECTURE", "GeneralizedRCNN", "MODEL.RPN.IN_FEATURES", [*LEVELS, "p6"]),
    *("MODEL.ROI_HEADS.NAME", "StandardROIHeads", "MODEL.ROI_HEADS.IN_FEATURES", LEVELS),
    *("MODEL.ROI_BOX_HEAD.NAME", "FastRCNNConvFCHead"),
    *("MODEL.ROI_BOX_HEAD.NUM_FC", 1, "MODEL.ROI_BOX_HEAD.FC_DIM", 8),
)
MASKS = ("MODEL.MASK_ON", True, "MODEL.ROI_MASK_HEAD.NAME", "MaskRCNNConvUpsampleHead")


@pytest.mark.parametrize("checkpointer", [Checkpointer, DetectionCheckpointer])
@pytest.mark.parametrize("kind", ["pth", "pkl"])
@pytest.mark.parametrize(
    "builder, options",
    [
        (RETINANET, ("MODEL.META_ARCHITECTURE", "RetinaNet")),
        (RCNN, R_CNN),
        (RCNN, (*R_CNN, *MASKS)),
    ],
    ids=["RetinaNet", "Faster R-CNN", "Mask R-CNN"],
)
def test_checkpoints_of_whole_detectors_load(tmp_path, checkpointer, kind, builder, options):
    """Only the fusion keeps its values; Detectron2's model zoo has ``.pkl`` files."""
    cfg = fpn_cfg(builder.format(""), *ANCHORS, *options)
    stock = build_model(cfg).state_dict()
    path = tmp_path / f"stock.{kind}"
    if kind == "pth":
        torch.save({"model": stock}, path)
    else:
        arrays = {key: value.numpy() for key, value in stock.items()}
        path.write_bytes(pickle.dumps({"model": arrays, "__author__": "Detectron2 Model Zoo"}))
    cfg.MODEL.BACKBONE.NAME = builder.format("_asff")
    model = build_model(cfg)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    checkpointer(model).load(str(path))
    for key, value in model.state_dict().items():
        expected = before if key.startswith("backbone.asff.") else stock
        assert torch.equal(value, expected[key]), key


@pytest.mark.filterwarnings("ignore:pkg_resources")
@pytest.mark.parametrize("name", ["fcos", "retinanet", "cascade_rcnn", "mask_rcnn_fpn"])
def test_swaps_into_lazy_configs(name):
    """Detectron2's Python configs get it by one line, too."""
    from detectron2.config import LazyConfig, instantiate
    from detectron2.model_zoo.model_zoo import get_config_file

    with torch.device("meta"):
        model = LazyConfig.load(get_config_file(f"common/models/{name}.py")).model
        stock = set(instantiate(model).state_dict())
        model.backbone._target_ = ASFFFPN
        keys = set(instantiate(model).state_dict())
    assert stock < keys
    assert all(key.startswith("backbone.asff.") for key in keys - stock)
