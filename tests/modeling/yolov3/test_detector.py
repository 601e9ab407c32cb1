"""The detector as a whole: dense output, inference against a slow loop, bottom-ups, bad input."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from detectron2.modeling import build_model
from detectron2.structures import Instances
from torch import nn

from asff.modeling import YOLOv3
from asff.modeling.neck.yolov3_neck import SpatialPyramidPooling
from tests.helpers import MOBILENET, TINY_DARKNET, detector_cfg, make_instances

RESNET = (
    *("MODEL.BACKBONE.NAME", "build_resnet_backbone"),
    *("MODEL.RESNETS.OUT_FEATURES", ["res3", "res4", "res5"]),
)
NARROW = ("MODEL.YOLOV3.NECK.WIDTH", 0.125, "MODEL.YOLOV3.NUM_CLASSES", 3)


def tiny_model(*options: object) -> YOLOv3:
    """A narrow detector in evaluation mode, the same at every call."""
    torch.manual_seed(0)
    return build_model(detector_cfg(*TINY_DARKNET, *options)).eval()


def spread_predictions(model: YOLOv3) -> YOLOv3:
    """Make a fresh model's predictions differ: some rows sure, some not, of all classes."""
    norms = [layer for layer in model.modules() if isinstance(layer, nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = 1.0  # else features grow from layer to layer
    with torch.no_grad():
        model.train().forward_dense(torch.randn(4, 3, 96, 96))
    model.eval()
    for level in model.head.levels:
        nn.init.normal_(level.predict.weight, std=0.1)
        nn.init.normal_(level.predict.bias)
    return model


def drawn_dense(rng: np.random.Generator, num_rows: int, num_classes: int) -> torch.Tensor:
    """(R, 5 + K) as the network might give them, many boxes near each other."""
    hosts = rng.integers(0, 6, num_rows)
    dense = np.zeros((num_rows, 5 + num_classes), np.float32)
    dense[:, :2] = rng.uniform(50, 300, (6, 2))[hosts] + rng.normal(0, 8, (num_rows, 2))
    dense[:, 2:4] = rng.uniform(30, 90, (6, 2))[hosts] * np.exp(rng.normal(0, 0.2, (num_rows, 2)))
    dense[:, 4:] = rng.uniform(0, 1, (num_rows, 1 + num_classes)) ** 2
    return torch.from_numpy(dense)


def slow_iou(a: list[float], b: list[float]) -> float:
    """Of boxes x1, y1, x2, y2."""
    wide = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    high = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (a, b)]
    return wide * high / (sum(areas) - wide * high)


def slow_inference(
    dense: torch.Tensor,
    *,
    score_thresh: float,
    topk_candidates: int,
    nms_thresh: float,
    max_detections: int,
    multi_label: bool,
) -> list[tuple[float, int, list[float]]]:
    """(score, class, box x1, y1, x2, y2) of one image, best first."""
    candidates = []
    for cx, cy, w, h, objectness, *probabilities in dense.double().tolist():
        box = [cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2]
        best = max(range(len(probabilities)), key=probabilities.__getitem__)
        for category, probability in enumerate(probabilities):
            score = objectness * probability
            if score > score_thresh and (multi_label or category == best):
                candidates.append((score, category, box))
    candidates.sort(key=lambda candidate: -candidate[0])
    kept = []
    for score, category, box in candidates[:topk_candidates]:
        rivals = [other for _, name, other in kept if name == category]
        if all(slow_iou(box, other) <= nms_thresh for other in rivals):
            kept.append((score, category, box))
    return kept[:max_detections]


def check_detections(found: Instances, expected: list[tuple[float, int, list[float]]]) -> None:
    """Equal but for rounding."""
    assert len(found) == len(expected)
    scores, classes, boxes = zip(*expected)
    np.testing.assert_allclose(found.scores.detach().numpy(), scores, rtol=1e-4)
    assert found.pred_classes.tolist() == list(classes)
    found_boxes = found.pred_boxes.tensor.detach().numpy()
    np.testing.assert_allclose(found_boxes, boxes, rtol=1e-4, atol=1e-3)


DEFAULTS = {
    "score_thresh": 0.01,
    "topk_candidates": 1000,
    "nms_thresh": 0.6,
    "max_detections": 100,
    "multi_label": False,
}


@pytest.mark.parametrize(
    "changed",
    [
        {},
        {"multi_label": True},
        {"score_thresh": 0.3},
        {"topk_candidates": 40, "multi_label": True},
        {"nms_thresh": 0.3},
        {"nms_thresh": 0.9, "max_detections": 7},
    ],
    ids=str,
)
def test_inference_equals_the_slow_loop(changed):
    options = {**DEFAULTS, **changed}
    model = tiny_model(
        *("MODEL.YOLOV3.SCORE_THRESH_TEST", options["score_thresh"]),
        *("MODEL.YOLOV3.TOPK_CANDIDATES_TEST", options["topk_candidates"]),
        *("MODEL.YOLOV3.NMS_THRESH_TEST", options["nms_thresh"]),
        *("TEST.DETECTIONS_PER_IMAGE", options["max_detections"]),
        *("MODEL.YOLOV3.MULTI_LABEL_TEST", options["multi_label"]),
    )
    dense = drawn_dense(np.random.default_rng(0), 300, 5)
    expected = slow_inference(dense, **options)
    assert expected != slow_inference(dense, **DEFAULTS) or not changed
    check_detections(model.inference_single_image(dense, torch.arange(300), (416, 416)), expected)


def test_defaults_of_inference():
    model = tiny_model()
    assert model.score_thresh == 0.01
    assert model.nms_thresh == 0.6
    assert model.max_detections_per_image == 100
    assert not model.multi_label


@pytest.mark.parametrize("size", [(64, 96), (50, 70)], ids=str)
def test_boxes_are_mapped_to_the_original_size(size):
    """Of an image of 120 x 400 pixels that was squashed before; 50 x 70 pixels are padded too."""
    model = spread_predictions(tiny_model("MODEL.PIXEL_STD", [57.4, 57.1, 58.4]))
    (height, width), (original_height, original_width) = size, (120, 400)
    image = 255 * torch.rand(3, *size, generator=torch.Generator().manual_seed(0))
    inputs = {"image": image, "height": original_height, "width": original_width}
    with torch.no_grad():
        (output,) = model([inputs])
        normalized = (image - model.pixel_mean) / model.pixel_std
        padded = torch.zeros(1, 3, 64, 96)
        padded[0, :, :height, :width] = normalized
        dense = model.forward_dense(padded)[0]
    expected = []
    for score, category, box in slow_inference(dense, **DEFAULTS):
        xs = [min(max(x * 400 / width, 0), 400) for x in box[::2]]
        ys = [min(max(y * 120 / height, 0), 120) for y in box[1::2]]
        if xs[1] > xs[0] and ys[1] > ys[0]:
            expected.append((score, category, [xs[0], ys[0], xs[1], ys[1]]))
    assert len(expected) > 20
    assert output["instances"].image_size == (120, 400)
    check_detections(output["instances"], expected)


def test_no_detections():
    model = tiny_model()
    for level in model.head.levels:
        nn.init.zeros_(level.predict.weight)  # leaves objectness 1/1000
    with torch.no_grad():
        outputs = model([{"image": torch.zeros(3, 64, 64), "height": 30, "width": 20}] * 2)
    assert len(outputs) == 2
    for output in outputs:
        instances = output["instances"]
        assert len(instances) == 0
        assert instances.image_size == (30, 20)
        assert instances.pred_boxes.tensor.shape == (0, 4)
        assert instances.scores.shape == instances.pred_classes.shape == (0,)


@pytest.mark.parametrize("anchor_free", [True, False])
def test_rows_of_the_dense_output(anchor_free):
    """Every row of a network that predicts constants, slot by slot, is where the order says."""
    model = tiny_model("MODEL.YOLOV3.ANCHOR_FREE", anchor_free)
    anchors = {
        32: [(116, 90), (156, 198), (373, 326)],
        16: [(30, 61), (62, 45), (42, 119)],
        8: [(10, 13), (16, 30), (33, 23)],
    }
    slots = 3 + anchor_free
    expected = []
    for level, stride in enumerate((32, 16, 8)):
        head = model.head.levels[level]
        for layer in (head.shape, head.predict):
            nn.init.zeros_(layer.weight)
            nn.init.normal_(layer.bias)
        # Slot by slot: width, height; and x, y, w, h, objectness, classes.
        shape = head.shape.bias.tolist()
        logits = head.predict.bias.view(slots, 10).tolist()
        for slot in range(slots):
            w, h = [*anchors[stride], (4 * stride, 4 * stride)][slot]
            w *= math.exp(shape[2 * slot] + logits[slot][2])
            h *= math.exp(shape[2 * slot + 1] + logits[slot][3])
            p = [1 / (1 + math.exp(-logit)) for logit in logits[slot]]
            for y in range(64 // stride):
                for x in range(96 // stride):
                    expected.append([(x + p[0]) * stride, (y + p[1]) * stride, w, h, *p[4:]])
    with torch.no_grad():
        dense = model.forward_dense(torch.randn(2, 3, 64, 96))
    assert dense.shape == (2, slots * (2 * 3 + 4 * 6 + 8 * 12), 10)
    for image in dense:
        np.testing.assert_allclose(image.numpy(), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("size", [(64, 65), (33, 64), (16, 16)])
def test_sizes_must_be_divisible_by_32(size):
    with pytest.raises(ValueError, match=f"{size[0]}x{size[1]} pixels.*divisible by 32"):
        tiny_model().forward_dense(torch.zeros(1, 3, *size))


def test_result_does_not_depend_on_the_batch():
    model = spread_predictions(tiny_model())
    images = torch.randn(5, 3, 96, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        together = model.forward_dense(images)
        alone = torch.cat([model.forward_dense(image[None]) for image in images])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-4)
    assert (together[0] - together[1]).abs().max() > 1  # the images matter


def train_one_step(model: nn.Module) -> tuple[float, float]:
    """The loss of a batch of noise before and after a step down its gradient that is so small that
    the loss should fall by 1/100."""
    generator = torch.Generator().manual_seed(0)
    batch = [
        {
            "image": 255 * torch.rand(3, 96, 96, generator=generator),
            "instances": make_instances(boxes, [1] * len(boxes), image_size=(96, 96)),
        }
        for boxes in ([[20, 20, 31, 34], [2, 2, 94, 90]], [[4, 8, 66, 53]])
    ]
    model.train()
    before = sum(model(batch).values())
    before.backward()
    trained = [p for p in model.parameters() if p.requires_grad]
    steepness = sum(p.grad.square().sum() for p in trained)
    with torch.no_grad():
        for p in trained:
            p -= 0.01 * before / steepness * p.grad
        after = sum(model(batch).values())
    return before.item(), after.item()


@pytest.mark.parametrize(
    "options",
    [
        TINY_DARKNET,
        ("MODEL.BACKBONE.NAME", "build_darknet_backbone", *NARROW),
        (*MOBILENET, *NARROW),
        (*RESNET, *NARROW),
    ],
    ids=["tiny DarkNet", "DarkNet-53", "MobileNetV2", "ResNet-50"],
)
def test_bottom_ups_train_and_detect(options):
    torch.manual_seed(0)
    model = build_model(detector_cfg(*options))
    shapes = model.backbone.output_shape()
    assert {name: shape.stride for name, shape in shapes.items()} == {"p5": 32, "p4": 16, "p3": 8}
    before, after = train_one_step(model)
    assert after < before
    model.eval()
    with torch.no_grad():
        (output,) = model([{"image": torch.zeros(3, 64, 64), "height": 64, "width": 64}])
    assert len(output["instances"]) <= 100


@pytest.mark.parametrize("guided_anchoring", [True, False])
@pytest.mark.parametrize("anchor_free", [True, False])
@pytest.mark.parametrize("fusion", ["none", "asff"])
def test_every_switch_trains(fusion, anchor_free, guided_anchoring):
    model = tiny_model(
        *("MODEL.YOLOV3.FUSION.NAME", fusion),
        *("MODEL.YOLOV3.ANCHOR_FREE", anchor_free),
        *("MODEL.YOLOV3.GUIDED_ANCHORING", guided_anchoring),
        *("MODEL.YOLOV3.FEATURE_ADAPTION", guided_anchoring),
        *("MODEL.YOLOV3.IOU_LOSS", anchor_free),
    )
    before, after = train_one_step(model)
    assert after < before
    slots = 3 + anchor_free
    for level in model.head.levels:
        assert level.predict.out_channels == slots * 10
        assert (level.shape is not None) is guided_anchoring


def test_unknown_backbone_lists_the_known_ones():
    cfg = detector_cfg("MODEL.BACKBONE.NAME", "build_resnext_backbone")
    with pytest.raises(ValueError) as error:
        build_model(cfg)
    message = str(error.value)
    assert "MODEL.BACKBONE.NAME is 'build_resnext_backbone'" in message
    for name in ("build_darknet_backbone", "build_mobilenetv2_backbone", "build_resnet_backbone"):
        assert name in message


@pytest.mark.parametrize(
    "in_features, strides",
    [
        (["res2", "res3", "res4"], r"\[4, 8, 16\]"),
        (["res5", "res4", "res3"], r"\[32, 16, 8\]"),
        (["res4", "res5"], r"\[16, 32\]"),
    ],
)
def test_wrong_strides(in_features, strides):
    cfg = detector_cfg(
        *RESNET,
        *("MODEL.RESNETS.OUT_FEATURES", ["res2", "res3", "res4", "res5"]),
        *("MODEL.YOLOV3.IN_FEATURES", in_features),
    )
    with pytest.raises(ValueError, match=f"MODEL.YOLOV3.IN_FEATURES.*strides {strides}"):
        build_model(cfg)


def test_unknown_feature_lists_the_known_ones():
    cfg = detector_cfg(*RESNET, "MODEL.YOLOV3.IN_FEATURES", ["res3", "res4", "res6"])
    with pytest.raises(ValueError, match="IN_FEATURES is 'res6'.*res3, res4, res5"):
        build_model(cfg)


def test_unknown_activation_lists_the_known_ones():
    with pytest.raises(ValueError, match="ACTIVATION is 'gelu'.*leaky_relu"):
        tiny_model("MODEL.YOLOV3.ACTIVATION", "gelu")


def test_feature_adaption_needs_guided_anchoring():
    with pytest.raises(ValueError, match="FEATURE_ADAPTION is True.*GUIDED_ANCHORING is False"):
        tiny_model("MODEL.YOLOV3.GUIDED_ANCHORING", False)


def test_feature_adaption_does_not_train_the_shapes():
    """Its offsets follow from the detached shape logits (before exp)."""
    model = tiny_model()
    predictions = model.head(list(model.backbone(torch.randn(2, 3, 64, 64)).values()))
    predictions.cls_logits.square().sum().backward()
    for level in model.head.levels:
        assert level.shape.weight.grad is None
        assert level.adaption.offset.weight.grad.any()
        assert level.conv.weight.grad.any()


@pytest.mark.parametrize(
    "width, neck_channels, head_channels",
    [(1.0, [512, 256, 128], [1024, 512, 256]), (0.25, [128, 64, 32], [256, 128, 64])],
)
def test_width_multiplier(width, neck_channels, head_channels):
    """Channels at strides 32, 16, 8: those that the specification has for MobileNetV2 x width."""
    cfg = detector_cfg(*MOBILENET, "MODEL.YOLOV3.NECK.WIDTH", width)
    model = build_model(cfg)
    assert [s.channels for s in model.backbone.output_shape().values()] == neck_channels
    assert [level.predict.in_channels for level in model.head.levels] == head_channels


def test_spatial_pyramid_pooling():
    """Identity and three separate max poolings of 5, 9, 13, in this order."""
    x = torch.randn(2, 3, 19, 10)
    pools = [nn.MaxPool2d(size, stride=1, padding=size // 2)(x) for size in (5, 9, 13)]
    assert torch.equal(SpatialPyramidPooling()(x), torch.cat([x, *pools], dim=1))


def test_spatial_pyramid_pooling_is_switchable():
    for spp in (True, False):
        modules = tiny_model("MODEL.YOLOV3.NECK.SPP", spp).modules()
        assert any(isinstance(module, SpatialPyramidPooling) for module in modules) is spp
