"""Recorded fusion weights, fused features and levels of detections."""

from __future__ import annotations

import pytest
import torch
from detectron2.config import CfgNode
from detectron2.modeling import RetinaNet, build_model
from torch import Tensor, nn

from asff.analysis import FusionRecorder, view_fusion
from asff.analysis.fusion_maps import LevelMaps, find_fusion
from asff.modeling import YOLOv3
from tests.analysis.gates import BRIGHT, DARK, STRIDES, GatedDetector, image_with_square
from tests.helpers import TINY_DARKNET, detector_cfg

pytestmark = pytest.mark.usefixtures("one_thread")

RETINANET = (
    *("MODEL.META_ARCHITECTURE", "RetinaNet", "MODEL.RETINANET.NUM_CONVS", 1),
    *("MODEL.BACKBONE.NAME", "build_retinanet_resnet_asff_fpn_backbone"),
    *("MODEL.BACKBONE.FREEZE_AT", 0, "MODEL.RESNETS.NORM", "BN"),
    *("MODEL.RESNETS.WIDTH_PER_GROUP", 4, "MODEL.RESNETS.RES2_OUT_CHANNELS", 16),
    *("MODEL.RESNETS.STEM_OUT_CHANNELS", 8, "MODEL.FPN.OUT_CHANNELS", 16),
    *("MODEL.RESNETS.OUT_FEATURES", ["res3", "res4", "res5"]),
    *("MODEL.FPN.IN_FEATURES", ["res3", "res4", "res5"], "MODEL.RETINANET.NUM_CLASSES", 3),
    *("MODEL.ANCHOR_GENERATOR.SIZES", [[16], [32], [64], [128], [256]]),
    *("MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS", [[1.0]]),
)


def yolov3_cfg(*options: object) -> CfgNode:
    return detector_cfg(*TINY_DARKNET, "MODEL.YOLOV3.FEATURE_ADAPTION", False, *options)


def make_yolov3(*options: object) -> YOLOv3:
    """Create a detector whose fusion weights differ between locations, like trained ones."""
    torch.manual_seed(0)
    model = build_model(yolov3_cfg("MODEL.YOLOV3.SCORE_THRESH_TEST", 0.0, *options)).eval()
    for fuse in model.backbone.fusion.fuse:
        nn.init.normal_(fuse.logits.weight, std=3.0)
    return model


def make_retinanet(*options: object) -> RetinaNet:
    torch.manual_seed(0)
    return build_model(detector_cfg(*RETINANET, *options)).eval()


def make_inputs(*sizes: tuple[int, int], **fields: int) -> list[dict]:
    generator = torch.Generator().manual_seed(1)
    return [
        {"image": torch.randint(256, (3, *size), dtype=torch.uint8, generator=generator), **fields}
        for size in sizes
    ]


@torch.no_grad()
def record(model: nn.Module, inputs: list[dict]) -> dict[str, LevelMaps]:
    with FusionRecorder(model) as recorder:
        model(inputs)
    return recorder.maps


@pytest.mark.parametrize("make", [make_yolov3, make_retinanet])
def test_recorded_maps_are_those_of_the_fusion(make):
    """The fused feature is the sum of the resized ones with the recorded weights (Equation 1)."""
    model, seen = make(), {}
    fusion, strides = find_fusion(model)
    for level, fuse in zip(strides, fusion.fuse):
        fuse.register_forward_hook(lambda _, x, y, level=level: seen.update({level: (x[0], y)}))
    maps = record(model, make_inputs((64, 96), (64, 96)))
    assert set(maps) == set(seen)
    for level, (resized, fused) in seen.items():
        parts = [maps[level].weights[:, [n]] * x for n, x in enumerate(resized)]
        torch.testing.assert_close(fused, sum(parts))
        norms = torch.stack([part.square().sum(dim=1).sqrt() for part in parts], dim=1)
        torch.testing.assert_close(maps[level].shares, norms / sum(norms.unbind(1))[:, None])
        activation = sum(fused[:, channel] for channel in range(fused.shape[1]))
        torch.testing.assert_close(maps[level].activation, activation, rtol=1e-4, atol=1e-4)


def test_shares_of_zero_features():
    """All resized features of a black image are 0."""
    model = GatedDetector()
    for resizes in model.backbone.fusion.resize:
        for resize in resizes:
            if resize.conv is not None:
                nn.init.zeros_(resize.conv.bias)
    (view,) = view_fusion(model, [image_with_square((0, 0, 0, 0))])
    assert all((maps.shares == 0).all() for maps in view.maps.values())


def test_weights_of_known_gates():
    """The box covers two locations of the coarsest level, and the same positions of the others."""
    box = (64, 0, 128, 32)
    (view,) = view_fusion(GatedDetector(), [image_with_square(box)])
    for own, (level, stride) in enumerate(STRIDES.items()):
        expected = torch.full((128 // stride, 192 // stride), DARK)
        expected[: 32 // stride, 64 // stride : 128 // stride] = BRIGHT
        torch.testing.assert_close(view.maps[level].weights[own], expected)
        for other in {0, 1, 2} - {own}:
            torch.testing.assert_close(view.maps[level].weights[other], (1 - expected) / 2)


def boxes_of(model: nn.Module, inputs: list[dict]) -> list[Tensor]:
    with torch.no_grad():
        found = [x["instances"] for x in model(inputs)]
    return [torch.cat([x.pred_boxes.tensor, x.scores[:, None]], dim=1) for x in found]


@pytest.mark.parametrize("make", [make_yolov3, make_retinanet])
def test_recording_does_not_change_detections(make):
    model, inputs = make(), make_inputs((64, 96), (64, 96))
    if isinstance(model, RetinaNet):
        model.test_score_thresh = 0.0
    before = boxes_of(model, inputs)
    views = view_fusion(model, inputs)
    assert len(before[0]) > 0
    for found, view in zip(before, views):
        assert torch.equal(found[:, :4], view.instances.pred_boxes.tensor)
        assert torch.equal(found[:, 4], view.instances.scores)
    assert not any(module._forward_hooks for module in model.modules())


def test_recording_does_not_change_training():
    """Running statistics are updated once, and gradients are the same."""
    states = []
    for is_recorded in (False, True):
        model = make_yolov3().train()
        images = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(2))
        if is_recorded:
            with FusionRecorder(model) as recorder:
                model.forward_dense(images).sum().backward()
            assert not recorder.maps["p3"].weights.requires_grad
        else:
            model.forward_dense(images).sum().backward()
        grads = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
        states.append({**model.state_dict(), **{f"grad {name}": x for name, x in grads.items()}})
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(x, states[1][name]) for name, x in states[0].items())


def test_maps_are_those_of_the_image_without_padding():
    """The image has 70 x 100 pixels, padded to 96 x 128 in a batch with a larger image."""
    views = view_fusion(make_retinanet(), make_inputs((70, 100), (96, 128)))
    small = {level: tuple(maps.activation.shape) for level, maps in views[0].maps.items()}
    assert small == {"p3": (9, 13), "p4": (5, 7), "p5": (3, 4)}
    assert views[0].maps["p3"].weights.shape == (3, 9, 13)
    assert views[1].maps["p3"].weights.shape == (3, 12, 16)
    assert views[0].input_size == (70, 100)


def test_levels_of_yolov3():
    """Each level predicts a class of its own, which reveals the level of a detection."""
    model = make_yolov3()
    with torch.no_grad():
        for level, head in enumerate(model.head.levels):
            # Logits of 4 sides, objectness and 5 classes for each anchor.
            head.predict.weight.view(head.num_anchors, 10, -1)[:, 4:] = 0
            bias = head.predict.bias.view(head.num_anchors, 10)
            bias[:, 4] = 0
            bias[:, 5:] = -10
            bias[:, 5 + level] = 10
    model.topk_candidates = model.max_detections_per_image = 10_000
    for view in view_fusion(model, make_inputs((64, 96), (64, 96), height=100, width=50)):
        classes = view.instances.pred_classes.tolist()
        assert view.levels == [["p5", "p4", "p3"][category] for category in classes]
        assert set(classes) == {0, 1, 2}
        assert view.instances.image_size == (100, 50)


def test_levels_of_retinanet():
    """Boxes equal their anchors, whose size reveals the level."""
    model = make_retinanet(
        "MODEL.RETINANET.SCORE_THRESH_TEST", 0.0, "TEST.DETECTIONS_PER_IMAGE", 9999
    )
    for weights in (model.head.bbox_pred.weight, model.head.bbox_pred.bias):
        nn.init.zeros_(weights)
    levels = {16: "p3", 32: "p4", 64: "p5", 128: "p6", 256: "p7"}
    seen = set()
    for view in view_fusion(model, make_inputs((256, 320), (224, 320), height=512, width=640)):
        scale = 512 / view.input_size[0]
        boxes = view.instances.pred_boxes.tensor
        inside = (boxes[:, :2] > 0).all(dim=1) & (boxes[:, 3] < 512) & (boxes[:, 2] < 640)
        sides = ((boxes[:, 3] - boxes[:, 1]) / scale).round().int()
        for level, side, is_whole in zip(view.levels, sides.tolist(), inside):
            if is_whole:
                assert level == levels[side]
                seen.add(level)
    assert {"p3", "p4", "p5", "p6"} <= seen


def test_levels_without_detections_and_of_other_detectors():
    model = make_yolov3()
    model.score_thresh = 1.0
    (view,) = view_fusion(model, make_inputs((64, 64)))
    assert len(view.instances) == 0 and view.levels == []
    (view,) = view_fusion(GatedDetector(), [image_with_square((0, 0, 8, 8))])
    assert view.levels is None


@pytest.mark.parametrize(
    "cfg",
    [
        yolov3_cfg("MODEL.YOLOV3.FUSION.NAME", "none"),
        yolov3_cfg("MODEL.YOLOV3.FUSION.NAME", "concat"),
        detector_cfg(*RETINANET, "MODEL.ASFF_FPN.FUSION", "sum"),
        detector_cfg(*RETINANET, "MODEL.BACKBONE.NAME", "build_retinanet_resnet_fpn_backbone"),
    ],
    ids=["none", "concat", "FPN sum", "FPN"],
)
def test_models_without_asff_are_refused(cfg):
    with pytest.raises(ValueError, match="does not fuse its levels by ASFF, so it has no weights"):
        FusionRecorder(build_model(cfg))
