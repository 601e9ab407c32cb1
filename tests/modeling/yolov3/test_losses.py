"""Loss terms: against the slow loop of oracle.py, one example by hand, what must never happen."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from detectron2.modeling import build_model
from detectron2.structures import Instances
from torch import Tensor

from asff.modeling import DensePredictions, GroundTruth, YOLOv3Losses, YOLOv3Matcher
from tests.helpers import MOBILENET, TINY_DARKNET, detector_cfg, make_instances
from tests.modeling.drawn import constant_predictions, draw_gt, draw_predictions, make_generator
from tests.modeling.oracle import Layout, slow_losses


def compute_losses(
    layout: Layout,
    predictions: DensePredictions,
    instances: list[Instances],
    **options: object,
) -> dict[str, Tensor]:
    """Match and compute the losses by the package."""
    gt = GroundTruth.from_instances(instances)
    matches = YOLOv3Matcher(make_generator(layout))(predictions, gt)
    losses = YOLOv3Losses(predictions.cls_logits.shape[-1], **options)
    return losses(predictions, matches, gt, float(layout.height * layout.width))


def leaves(predictions: DensePredictions) -> list[Tensor]:
    logits = predictions.box_logits, predictions.obj_logits, predictions.cls_logits
    return [x for x in (*logits, predictions.shape_logits) if x is not None]


def compare_with_loop(
    layout: Layout,
    predictions: DensePredictions,
    instances: list[Instances],
    smoothing: float | None,
    max_smoothing: float = 0.1,
    **options: bool,
) -> None:
    """Check that all terms, and the gradients of their weighted sum, equal the slow loop's."""
    ours = compute_losses(
        layout,
        predictions,
        instances,
        label_smoothing=smoothing is not None,
        max_smoothing=max_smoothing,
        **options,
    )
    logits = leaves(predictions)
    shape = logits[3] if len(logits) == 4 else None
    loop = slow_losses(layout, *logits[:3], shape, instances, smoothing=smoothing, **options)
    assert ours.keys() == loop.keys()
    for name, value in loop.items():
        assert ours[name].item() == pytest.approx(value.item(), rel=1e-5), name
        assert value > 0, name
    found, expected = (
        torch.autograd.grad(sum(i * x for i, x in enumerate(terms.values(), 1)), logits)
        for terms in ({name: ours[name] for name in loop}, loop)
    )
    for mine, theirs in zip(found, expected):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5)


OPTIONS = [
    # guided_anchoring, anchor_free, iou_loss, label smoothing, weight_all_losses
    *itertools.product([True], [True], [True, False], [False, True], [False, True]),
    (True, False, True, False, False),
    (False, True, True, True, True),
    (False, False, False, False, False),  # the original YOLOv3 head
]


@pytest.mark.parametrize(
    "guided_anchoring, anchor_free, iou_loss, label_smoothing, weight_all_losses", OPTIONS
)
def test_drawn_examples(
    guided_anchoring, anchor_free, iou_loss, label_smoothing, weight_all_losses
):
    """All terms and their gradients equal the slow loop's, with many collisions."""
    rng = np.random.default_rng(1)
    layout, num_classes = Layout(128, 192, anchor_free=anchor_free), 12
    instances = [
        draw_gt(rng, count, layout=layout, num_classes=num_classes) for count in (25, 0, 3)
    ]
    predictions = draw_predictions(
        rng, instances, layout=layout, num_classes=num_classes, guided_anchoring=guided_anchoring
    )
    compare_with_loop(
        layout,
        predictions,
        instances,
        1 / num_classes if label_smoothing else None,
        iou_loss=iou_loss,
        weight_all_losses=weight_all_losses,
    )


@pytest.mark.parametrize(
    "num_classes, smoothing, max_smoothing",
    # 1 / K, but by default at most 0.1: with one class 1 / K would make every target 0.
    [(1, 0.1, 0.1), (1, None, 0.1), (3, 0.1, 0.1), (80, 1 / 80, 0.1), (3, 1 / 3, 1.0)],
)
def test_few_and_many_classes(num_classes, smoothing, max_smoothing):
    rng = np.random.default_rng(2)
    layout = Layout(96, 96)
    instances = [draw_gt(rng, 8, layout=layout, num_classes=num_classes)]
    predictions = draw_predictions(rng, instances, layout=layout, num_classes=num_classes)
    compare_with_loop(layout, predictions, instances, smoothing, max_smoothing=max_smoothing)


def test_one_box_by_hand():
    """A box of 20 x 30 around (26, 34) in 64 x 64 pixels; all logits are 0; weight 1/2.

    Shape IoUs: 16 x 30 480/600 = 0.8, the best; the anchor-free 32 x 32 of stride 8 600/1024. So
    anchor 1 of the location (3, 4) of stride 8 is positive. Its decoded box is 16 x 30 around
    (28, 36): the overlap is 16 x 28 = 448, the union 600 + 480 - 448 = 632. No other box overlaps
    by 0.7.
    """
    layout = Layout(64, 64)
    instances = [make_instances([[16, 19, 36, 49]], [1], [0.5])]
    predictions = constant_predictions(layout)
    losses = compute_losses(layout, predictions, instances)
    ln2 = math.log(2)
    scale = 2 - 600 / 4096
    expected = {
        # 4 anchors at 2 x 2, 4 x 4 and 8 x 8 locations: 336, one of which weighs 1/2.
        "loss_obj": 335.5 * ln2,
        "loss_cls": 2 * ln2,
        # x and y: ln 2 each, whatever the target; w: ln(20/16); h: ln(30/30).
        "loss_box": scale * (2 * ln2 + math.log(20 / 16)),
        "loss_iou": scale * (1 - (448 / 632) ** 2),
        "loss_shape": (1 - 0.8**2) + (1 - (600 / 1024) ** 2),
    }
    assert {name: loss.item() for name, loss in losses.items()} == pytest.approx(expected)
    halved = {name: expected[name] / (1 if name == "loss_obj" else 2) for name in expected}
    losses = compute_losses(layout, predictions, instances, weight_all_losses=True)
    assert {name: loss.item() for name, loss in losses.items()} == pytest.approx(halved)


@pytest.mark.parametrize("boxes", [[[16, 19, 36, 49]], []], ids=["one box", "no box"])
@pytest.mark.parametrize("value", [1e4, -1e4])
@pytest.mark.parametrize("which", ["box", "obj", "cls", "shape", "all"])
def test_extreme_logits_stay_finite(which, value, boxes):
    """exp of 1e4 is infinite in float32, and exp of -1e4 is 0: a loss must not show it."""
    layout = Layout(64, 64)
    instances = [make_instances(boxes, [1] * len(boxes))]
    rng = np.random.default_rng(0)
    predictions = draw_predictions(rng, instances, layout=layout, num_classes=2)
    for name, logits in zip(["box", "obj", "cls", "shape"], leaves(predictions)):
        if which in (name, "all"):
            logits.data.fill_(value)
    losses = compute_losses(layout, predictions, instances)
    assert all(loss.isfinite() for loss in losses.values()), losses
    sum(losses.values()).backward()
    assert all(logits.grad.isfinite().all() for logits in leaves(predictions))
    assert predictions.boxes().isfinite().all()


BATCHES = {
    "every level": [[[20, 20, 30, 33], [4, 8, 66, 53], [2, 2, 94, 90]], [[20, 20, 30, 33]]],
    # Nothing at strides 8 and 32.
    "one level": [[[4, 8, 66, 53]], []],
    "no box": [[], []],
    "degenerate box": [[[5, 5, 5, 20]], []],
}


def train_step(model: torch.nn.Module, boxes: list, size: int = 96) -> dict[str, Tensor]:
    """Compute losses and gradients of a batch of noise with these boxes."""
    generator = torch.Generator().manual_seed(0)
    batch = [
        {
            "image": 255 * torch.rand(3, size, size, generator=generator),
            "instances": make_instances(b, [0] * len(b), image_size=(size, size)),
        }
        for b in boxes
    ]
    losses = model.train()(batch)
    sum(losses.values()).backward()
    return losses


@pytest.mark.parametrize("smoothing", [False, True])
@pytest.mark.parametrize("boxes", BATCHES.values(), ids=BATCHES)
def test_every_parameter_receives_a_gradient(boxes, smoothing):
    """None would make DistributedDataParallel wait for ever."""
    torch.manual_seed(0)
    model = build_model(detector_cfg(*TINY_DARKNET, "MODEL.YOLOV3.LABEL_SMOOTHING", smoothing))
    losses = train_step(model, boxes)
    assert all(loss.isfinite() for loss in losses.values())
    if boxes == BATCHES["no box"]:
        assert losses.pop("loss_obj") > 0
        assert not any(losses.values())
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
    if boxes == BATCHES["every level"]:
        # Trained, not only reached.
        still = [name for name, p in model.named_parameters() if not p.grad.any()]
        assert not still


NETWORKS = {
    "a narrow DarkNet": (*TINY_DARKNET, "MODEL.YOLOV3.NUM_CLASSES", 80),
    "MobileNetV2": MOBILENET,
    "DarkNet-53": (
        *("MODEL.BACKBONE.NAME", "build_darknet_backbone"),
        *("MODEL.YOLOV3.NECK.WIDEN_FINEST", True),
    ),
}


@pytest.mark.parametrize(
    "name",
    [name if "narrow" in name else pytest.param(name, marks=pytest.mark.slow) for name in NETWORKS],
)
def test_first_loss_is_small(name, report):
    """At 608 pixels with 80 classes, for 10 boxes in an image, it is within a bound by hand.

    There are 4 x (19^2 + 38^2 + 76^2) = 30324 anchors. With an objectness p of 1/1000 they cost
    30324 x 0.001 = 30.3, and 6.9 for each of 10 positives; a class probability of 1/80 costs
    4.4 + 1.0 per positive; x and y 1.4, w and h about 1, times 2; IoU 2 and the two shapes 2 at
    most: 30 + 10 x 21. Twice that leaves room for randomness. At p = 1/2 it would be 21000.
    """
    torch.manual_seed(0)
    model = build_model(detector_cfg(*NETWORKS[name]))
    rng = np.random.default_rng(0)
    boxes = []
    for side in np.geomspace(12, 400, 10):
        x, y = rng.uniform(0, 608 - side, 2)
        boxes.append([x, y, x + side, y + side])
    losses = train_step(model, [boxes], size=608)
    total = sum(losses.values()).item()
    terms = ", ".join(f"{name[5:]} {loss.item():.1f}" for name, loss in losses.items())
    report(f"first loss of {name} at 608, 80 classes, 10 boxes per image: {total:.1f} ({terms})")
    assert total < 2 * (30 + 10 * 21)
    assert all(p.grad.isfinite().all() for p in model.parameters())


def test_autocast_changes_little():
    """Under bfloat16 the losses are float32, finite and near those of float32."""
    torch.manual_seed(0)
    model = build_model(detector_cfg(*TINY_DARKNET))
    exact = train_step(model, BATCHES["every level"])
    model.zero_grad()
    with torch.autocast("cpu", torch.bfloat16):
        rounded = train_step(model, BATCHES["every level"])
    assert {loss.dtype for loss in rounded.values()} == {torch.float32}
    for name, loss in exact.items():
        # bfloat16 has 8 bits; through some 30 layers 1/256 grows to a few hundredths.
        assert rounded[name].item() == pytest.approx(loss.item(), rel=0.05), name
    assert all(p.grad.isfinite().all() for p in model.parameters())
