"""Activation checkpointing changes memory alone."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch
from detectron2.modeling import build_model
from detectron2.utils.events import EventStorage
from torch import Tensor, nn

from asff.engine.activation_checkpointing import checkpoint_activations
from asff.modeling import DropBlock
from tests.helpers import TINY_DARKNET, detector_cfg, make_instances

pytestmark = pytest.mark.usefixtures("one_thread")

STAR = ("MODEL.YOLOV3.RFB", True, "MODEL.YOLOV3.DROP_BLOCK.KEEP_PROB", 0.7)
RESNET = ("MODEL.BACKBONE.NAME", "build_resnet_backbone", "MODEL.RESNETS.NORM", "BN")
DETECTORS = {
    "ASFF*": (*TINY_DARKNET, *STAR),
    "ResNet": (*TINY_DARKNET, *RESNET, "MODEL.RESNETS.OUT_FEATURES", ["res3", "res4", "res5"]),
    "timm": (*TINY_DARKNET, "MODEL.BACKBONE.NAME", "build_timm_backbone"),
    "RetinaNet": (
        *("MODEL.META_ARCHITECTURE", "RetinaNet", *RESNET, "MODEL.FPN.OUT_CHANNELS", 16),
        *("MODEL.BACKBONE.NAME", "build_retinanet_resnet_asff_fpn_backbone"),
        *("MODEL.RESNETS.OUT_FEATURES", ["res3", "res4", "res5"]),
        *("MODEL.FPN.IN_FEATURES", ["res3", "res4", "res5"]),
    ),
}


def train(model: nn.Module) -> tuple[dict[str, Tensor], int]:
    """Compute the gradients of a batch; return them with all buffers, and the kept bytes."""
    gt = make_instances([[4, 4, 40, 40], [30, 20, 60, 50]], [0, 3], image_size=(64, 64))
    image = torch.randint(256, (3, 64, 64), generator=torch.Generator().manual_seed(0))
    kept = {}

    def pack(x: Tensor) -> Tensor:
        kept[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
        return x

    torch.manual_seed(1)
    with EventStorage(), torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        losses = model([{"image": image, "instances": gt}] * 2)
    size = sum(kept.values())
    sum(losses.values()).backward()
    found = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    return {**found, **losses, **dict(model.named_buffers())}, size


@pytest.mark.parametrize("name", DETECTORS)
def test_same_gradients_and_statistics_in_less_memory(name):
    torch.manual_seed(0)
    options = ("MODEL.BACKBONE.FREEZE_AT", 0)
    plain = build_model(detector_cfg(*DETECTORS[name], *options)).train()
    for module in plain.modules():
        if isinstance(module, DropBlock):
            module.block_size = 1
    model = deepcopy(plain)
    checkpoint_activations(model)
    assert model.state_dict().keys() == plain.state_dict().keys()
    (expected, all_bytes), (found, kept_bytes) = train(plain), train(model)
    assert found.keys() == expected.keys() and len(expected) > 100
    for key, value in expected.items():
        atol = 1e-5 * value.abs().max().item()  # gradients of shared features add up in any order
        torch.testing.assert_close(found[key], value, rtol=1e-4, atol=atol)
    assert kept_bytes < 0.7 * all_bytes


def test_copies_and_evaluation_stay_the_same():
    model = build_model(detector_cfg(*DETECTORS["ASFF*"])).eval()
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        expected = model.forward_dense(images)
        checkpoint_activations(model)
        copy = deepcopy(model)
        assert torch.equal(model.forward_dense(images), expected)
        nn.init.zeros_(model.backbone.bottom_up.res1[0].weight)
        assert torch.equal(copy.forward_dense(images), expected)
