"""Folding of norms: the same outputs from fewer layers, and a model that is left as it was."""

from __future__ import annotations

import pytest
import torch
from detectron2.layers import Conv2d, FrozenBatchNorm2d, cat
from detectron2.layers.batch_norm import NaiveSyncBatchNorm
from detectron2.modeling import Backbone, RetinaNet, build_model
from torch import Tensor, nn

from asff.modeling import TimmBackbone, YOLOv3, fuse_norms
from asff.modeling.layers.fuse_norms import _NORMS
from tests.modeling.narrow_fpn import RCNN, RETINANET, fpn_cfg
from tests.test_configs import LEAVES, NARROW, load, name


def randomize_norms(model: nn.Module) -> nn.Module:
    """Draw statistics and parameters of all norms, as after a training."""
    torch.manual_seed(0)
    for norm in model.modules():
        if isinstance(norm, _NORMS) and norm.running_mean is not None:
            norm.running_mean.normal_(std=0.1)
            norm.running_var.uniform_(0.5, 2)
            norm.weight.data.uniform_(0.5, 1.5)
            norm.bias.data.normal_(std=0.1)
    return model.eval()


def count_norms(model: nn.Module) -> int:
    return sum(isinstance(module, _NORMS) for module in model.modules())


def outputs(model: nn.Module) -> Tensor:
    """Compute all that the convolutions of a detector or a backbone put out, as one vector."""
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(2, 3, 64, 96, dtype=torch.float64, generator=generator)
    features = model(images) if isinstance(model, Backbone) else model.backbone(images)
    tensors = list(features.values())
    if isinstance(model, YOLOv3):
        predictions = model.head(tensors)
        tensors += [predictions.box_logits, predictions.obj_logits, predictions.cls_logits]
    elif isinstance(model, RetinaNet):
        tensors += sum(model.head([features[key] for key in model.head_in_features]), [])
    return cat([x.flatten() for x in tensors])


@torch.no_grad()
def check_fused(model: nn.Module, *, remaining: int = 0) -> None:
    """Check that a copy has so many norms left and the same outputs; and the model as it was."""
    before, num_norms = outputs(randomize_norms(model.double())), count_norms(model)
    fused = fuse_norms(model.train())
    assert model.training and not fused.training
    assert count_norms(model) == num_norms and count_norms(fused) == remaining
    torch.testing.assert_close(outputs(fused), before, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(outputs(model.eval()), before, rtol=0, atol=0)


@pytest.mark.parametrize("path", [x for x in LEAVES if "yolov3" in x.name], ids=name)
def test_shipped_yolov3(path):
    check_fused(build_model(load(path, *NARROW)))


@pytest.mark.parametrize("norm", ["BN", "FrozenBN", "naiveSyncBN"])
@pytest.mark.parametrize(
    "builder, architecture", [(RETINANET, "RetinaNet"), (RCNN, "GeneralizedRCNN")]
)
def test_fpn(builder, architecture, norm):
    keys = ("RESNETS.NORM", "FPN.NORM", "ASFF_FPN.NORM", "ROI_BOX_HEAD.NORM")
    options = [x for key in keys for x in (f"MODEL.{key}", norm)]
    options += ["MODEL.META_ARCHITECTURE", architecture, "MODEL.ROI_HEADS.IN_FEATURES", ["p2"]]
    if architecture == "GeneralizedRCNN":
        options += ["MODEL.RPN.IN_FEATURES", ["p2", "p3", "p4", "p5", "p6"]]
        options += ["MODEL.ANCHOR_GENERATOR.SIZES", [[32], [64], [128], [256], [512]]]
    cfg = fpn_cfg(builder.format(""), *options)
    cfg.MODEL.BACKBONE.NAME = builder.format("_asff")
    check_fused(build_model(cfg))


@pytest.mark.parametrize(
    "network, remaining",
    [
        ("test_resnet", 0),  # BatchNormAct2d, with the activation
        ("test_efficientnet", 0),
        ("hrnet_w18_small", 0),  # of many branches
        ("densenet121", 62),  # norms before convolutions
        ("efficientvit_b0", 25),  # branches on values
    ],
)
def test_timm(network, remaining):
    pytest.importorskip("timm", reason="timm is not installed (pip install .[timm])")
    check_fused(TimmBackbone(name=network), remaining=remaining)


def test_what_cannot_be_folded_stays():
    """Norms of two convolutions, without statistics, of an input or convolution used elsewhere."""

    class Bottom(Backbone):
        def __init__(self):
            super().__init__()
            shared = nn.BatchNorm2d(3)
            self.one, self.two = (Conv2d(3, 3, 1, norm=shared) for _ in range(2))
            self.batch = Conv2d(3, 3, 1, norm=nn.BatchNorm2d(3, track_running_stats=False))
            self.conv, self.norm = nn.Conv2d(3, 3, 1), FrozenBatchNorm2d(3)
            self.twice, self.after = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)
            self.folds = nn.Sequential(nn.Conv2d(3, 3, 1), NaiveSyncBatchNorm(3), nn.ReLU())

        def forward(self, x: Tensor) -> dict[str, Tensor]:
            x = self.conv(self.batch(self.two(self.one(x))))
            x = self.after(self.twice(self.twice(x + self.norm(x))))
            return {"res3": self.folds(x)}

    check_fused(Bottom(), remaining=4)
