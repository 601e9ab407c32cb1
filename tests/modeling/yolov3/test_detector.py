"""The detector as a whole: inference against a slow loop, and training with every switch."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from detectron2.layers import batched_nms
from detectron2.modeling import build_model
from detectron2.structures import Boxes, ImageList, Instances
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from asff.modeling import DensePredictions, YOLOv3
from asff.modeling.yolov3.box_regression import to_corners
from tests.helpers import MOBILENET, TINY_DARKNET, detector_cfg, make_instances
from tests.modeling.drawn import draw_predictions
from tests.modeling.oracle import Layout

NARROW = ("MODEL.YOLOV3.NECK.WIDTH", 0.125, "MODEL.YOLOV3.NUM_CLASSES", 3)
RESNET = ("MODEL.BACKBONE.NAME", "build_resnet_backbone", "MODEL.RESNETS.OUT_FEATURES")


def tiny_model(*options: object) -> YOLOv3:
    """Build a narrow detector in evaluation mode, the same at every call."""
    torch.manual_seed(0)
    return build_model(detector_cfg(*TINY_DARKNET, *options)).eval()


def spread_predictions(model: YOLOv3) -> YOLOv3:
    """Make a fresh model's predictions differ in objectness and class."""
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


def slow_iou(a: list[float], b: list[float]) -> float:
    """Compute the IoU of boxes x1, y1, x2, y2."""
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
) -> list[tuple[float, int, list[float], int]]:
    """Detect in one image: (score, class, box x1, y1, x2, y2, anchor index), best first."""
    candidates = []
    for index, (cx, cy, w, h, objectness, *probabilities) in enumerate(dense.double().tolist()):
        box = [cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2]
        best = max(range(len(probabilities)), key=probabilities.__getitem__)
        for category, probability in enumerate(probabilities):
            score = objectness * probability
            if score > score_thresh and (multi_label or category == best):
                candidates.append((score, category, box, index))
    candidates.sort(key=lambda candidate: -candidate[0])
    kept = []
    for candidate in candidates[:topk_candidates]:
        others = [box for _, category, box, _ in kept if category == candidate[1]]
        if all(slow_iou(candidate[2], box) <= nms_thresh for box in others):
            kept.append(candidate)
    return kept[:max_detections]


def check_detections(
    found: Instances, expected: list[tuple[float, int, list[float], int]], levels: list[int]
) -> None:
    """Check that detections are those of the slow loop; ``levels`` are those of all anchors."""
    scores, classes, boxes, anchors = zip(*expected)
    np.testing.assert_allclose(found.scores.numpy(), scores, rtol=1e-4)
    assert found.pred_classes.tolist() == list(classes)
    assert found.pred_levels.dtype == torch.int64
    assert found.pred_levels.tolist() == [levels[index] for index in anchors]
    np.testing.assert_allclose(found.pred_boxes.tensor.numpy(), boxes, rtol=1e-4, atol=1e-3)


DEFAULTS = {
    "score_thresh": 0.01,
    "topk_candidates": 1000,
    "nms_thresh": 0.6,
    "max_detections": 100,
    "multi_label": False,
}


CHANGES = [
    {},
    {"multi_label": True},
    {"score_thresh": 0.75},
    {"topk_candidates": 40, "multi_label": True},
    {"topk_candidates": 40},
    {"nms_thresh": 0.3},
    {"nms_thresh": 0.9, "max_detections": 7},
]


def model_with(options: dict) -> YOLOv3:
    return tiny_model(
        *("MODEL.YOLOV3.SCORE_THRESH_TEST", options["score_thresh"]),
        *("MODEL.YOLOV3.TOPK_CANDIDATES_TEST", options["topk_candidates"]),
        *("MODEL.YOLOV3.NMS_THRESH_TEST", options["nms_thresh"]),
        *("TEST.DETECTIONS_PER_IMAGE", options["max_detections"]),
        *("MODEL.YOLOV3.MULTI_LABEL_TEST", options["multi_label"]),
    )


def crowd(num_images: int) -> tuple[ImageList, DensePredictions]:
    """Draw the predictions for crowded images; of several, the last but one is empty."""
    rng = np.random.default_rng(0)
    layout = Layout(96, 96)
    boxes = make_instances([[8, 8, 40, 44], [12, 10, 44, 44], [2, 2, 94, 90]] * 9, [0] * 27)
    drawn = draw_predictions(rng, [boxes] * num_images, layout=layout, num_classes=5)
    logits = {k: x.detach() for k, x in vars(drawn).items() if isinstance(x, torch.Tensor)}
    predictions = replace(drawn, **logits)
    predictions.obj_logits.round_()  # some scores are equal
    predictions.cls_logits[:, ::7] = 2 * predictions.cls_logits[:, :1]
    if num_images > 1:
        predictions.obj_logits[-2] = -20
    return ImageList(torch.zeros(num_images, 3, 96, 96), [(96, 96)] * num_images), predictions


@torch.no_grad()
def reference_inference(model: YOLOv3, predictions: DensePredictions) -> list[Instances]:
    """Detect image by image, after decoding and scoring all anchors."""
    results = []
    for dense in predictions.decode():
        scores = dense[:, 4:5] * dense[:, 5:]  # (R, K)
        if not model.multi_label:
            best = scores.argmax(dim=1, keepdim=True)
            scores = torch.zeros_like(scores).scatter_(1, best, scores.gather(1, best))
        anchor_idx, classes = (scores > model.score_thresh).nonzero(as_tuple=True)
        scores, order = scores[anchor_idx, classes].sort(descending=True, stable=True)
        scores, order = scores[: model.topk_candidates], order[: model.topk_candidates]
        anchor_idx, classes = anchor_idx[order], classes[order]
        boxes = to_corners(dense[anchor_idx, :4])
        keep = batched_nms(boxes, scores, classes, model.nms_thresh)
        keep = keep[: model.max_detections_per_image]
        result = Instances((96, 96), pred_boxes=Boxes(boxes[keep]), scores=scores[keep])
        result.pred_classes = classes[keep]
        result.pred_levels = predictions.grid.levels[anchor_idx[keep]]
        results.append(result)
    return results


@pytest.mark.parametrize("changed", CHANGES, ids=str)
def test_inference_equals_the_slow_loop(changed):
    options = {**DEFAULTS, **changed}
    images, predictions = crowd(1)
    expected = slow_inference(predictions.decode()[0], **options)
    assert expected != slow_inference(predictions.decode()[0], **DEFAULTS) or not changed
    (found,) = model_with(options).forward_inference(images, [], predictions)
    check_detections(found, expected, predictions.grid.levels.tolist())


@pytest.mark.parametrize("num_images", [1, 4])
@pytest.mark.parametrize("changed", CHANGES, ids=str)
def test_a_batch_equals_its_images_one_by_one(changed, num_images):
    """Scores, classes, levels and order, equal scores included."""
    model = model_with({**DEFAULTS, **changed})
    images, predictions = crowd(num_images)
    expected = reference_inference(model, predictions)
    assert [len(x) > 5 for x in expected] == [i != num_images - 2 for i in range(num_images)]
    scores = expected[0].scores
    assert len(scores.unique()) < len(scores) or changed
    for found, other in zip(model.forward_inference(images, [], predictions), expected):
        torch.testing.assert_close(found.scores, other.scores, rtol=1e-6, atol=0.0)
        assert torch.equal(found.pred_classes, other.pred_classes)
        assert torch.equal(found.pred_levels, other.pred_levels)
        torch.testing.assert_close(found.pred_boxes.tensor, other.pred_boxes.tensor)


class Waits(TorchDispatchMode):
    """Counts the operations before NMS whose result, or its size, the host has to wait for."""

    def __init__(self):
        super().__init__()
        self.count, self.numel, self.before_nms = 0, 0, True

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.before_nms &= "nms" not in str(func)
        tags = {torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape} & set(func.tags)
        is_index = func is torch.ops.aten.index.Tensor
        masks = is_index and any(x is not None and x.dtype == torch.bool for x in args[1])
        self.count += self.before_nms and bool(masks if is_index else tags)
        result = func(*args, **(kwargs or {}))
        sizes = [x.numel() for x in tree_leaves(result) if isinstance(x, torch.Tensor)]
        self.numel = max([self.numel, *sizes])
        return result


@pytest.mark.parametrize("topk_candidates", [3, 1000])
@pytest.mark.parametrize("multi_label", [False, True])
def test_inference_waits_for_the_device_once(multi_label, topk_candidates):
    """And computes nothing that has a value for every anchor and class."""
    changed = {"multi_label": multi_label, "topk_candidates": topk_candidates, "score_thresh": 0.6}
    model = model_with({**DEFAULTS, **changed})
    images, predictions = crowd(4)
    with Waits() as waits:
        found = model.forward_inference(images, [], predictions)
    assert sum(map(len, found)) > 5 and not waits.before_nms
    assert waits.count == 1 + multi_label
    assert waits.numel < predictions.cls_logits.numel() / 2


@pytest.mark.parametrize("size", [(64, 96), (50, 70)], ids=str)
def test_boxes_are_mapped_to_the_original_size(size):
    """An image of 120 x 400 pixels was resized to the size; 50 x 70 pixels are padded too."""
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
    for score, category, box, index in slow_inference(dense, **DEFAULTS):
        xs = [min(max(x * 400 / width, 0), 400) for x in box[::2]]
        ys = [min(max(y * 120 / height, 0), 120) for y in box[1::2]]
        if xs[1] > xs[0] and ys[1] > ys[0]:
            expected.append((score, category, [xs[0], ys[0], xs[1], ys[1]], index))
    assert len(expected) > 20
    assert output["instances"].image_size == (120, 400)
    # 4 anchors at 2 x 3 locations of p5, 4 x 6 of p4 and 8 x 12 of p3.
    assert model.head_in_features == ["p5", "p4", "p3"]
    levels = [0] * 4 * 6 + [1] * 4 * 24 + [2] * 4 * 96
    check_detections(output["instances"], expected, levels)
    assert len(output["instances"].pred_levels.unique()) == 3


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
        for field in (instances.scores, instances.pred_classes, instances.pred_levels):
            assert field.shape == (0,)


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
    """Return the loss of a batch before and after a step that should lower it by 1/100."""
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


SWITCHES = ("FUSION.NAME", "ANCHOR_FREE", "GUIDED_ANCHORING", "FEATURE_ADAPTION", "IOU_LOSS", "RFB")


@pytest.mark.parametrize(
    "options",
    [
        ("MODEL.BACKBONE.NAME", "build_darknet_backbone", *NARROW),
        (*MOBILENET, *NARROW),
        (*RESNET, ["res3", "res4", "res5"], *NARROW),
        *(
            (*TINY_DARKNET, *(x for pair in zip(SWITCHES, values) for x in pair))
            for values in [
                ("asff", True, True, True, True, True),
                ("asff", True, False, False, True, False),
                ("none", False, True, True, False, False),
                ("none", False, False, False, False, False),
            ]
        ),
    ],
    ids=["DarkNet-53", "MobileNetV2", "ResNet-50", "all", "no shapes", "no anchor-free", "plain"],
)
def test_trains_and_detects(options):
    torch.manual_seed(0)
    options = [f"MODEL.YOLOV3.{x}" if x in SWITCHES else x for x in options]
    model = build_model(detector_cfg(*options))
    before, after = train_one_step(model)
    assert after < before
    with torch.no_grad():
        (output,) = model.eval()([{"image": torch.zeros(3, 64, 64)}])
    assert len(output["instances"]) <= 100
