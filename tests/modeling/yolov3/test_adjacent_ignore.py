"""Ignored places at adjacent levels: against a slow loop over truths and rows, and by hand."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from detectron2.config import CfgNode
from detectron2.structures import Boxes, ImageList, Instances
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from asff.modeling import YOLOv3
from asff.modeling.yolov3 import (
    AdjacentIgnore,
    DensePredictions,
    GroundTruth,
    Matches,
    YOLOv3Matcher,
)
from tests.helpers import TINY_DARKNET, detector_cfg, make_instances
from tests.modeling.drawn import draw_predictions, draw_truths, make_anchors
from tests.modeling.oracle import Layout, Targets, list_truths, slow_targets

NAMES = {None: "center", 0.2: "0.2", 0.5: "0.5"}
MODE, SCALE = "MODEL.YOLOV3.IGNORE_ADJACENT", "MODEL.YOLOV3.IGNORE_ADJACENT_SCALE"


def match(
    layout: Layout,
    predictions: DensePredictions,
    instances: Sequence[Instances],
    scale: float | None,
) -> Matches:
    anchors = make_anchors(layout)
    matcher = YOLOv3Matcher(anchors, adjacent_ignore=AdjacentIgnore(anchors, scale=scale))
    return matcher(predictions, GroundTruth.from_instances(instances))


def blank(layout: Layout, num_images: int = 1) -> DensePredictions:
    """Predictions of boxes so small that they overlap no truth."""
    shape = (num_images, len(layout.rows))
    return DensePredictions(
        box_logits=torch.tensor([0.0, 0.0, -9.0, -9.0]).expand(*shape, 4),
        obj_logits=torch.zeros(shape),
        cls_logits=torch.zeros(*shape, 2),
        shape_logits=None,
        grid=make_anchors(layout)(layout.sizes),
    )


def around(cx: float, cy: float, w: float, h: float) -> list[float]:
    return [cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2]


def ignored_cells(
    layout: Layout, boxes: Sequence[Sequence[float]], scale: float | None
) -> dict[int, set[tuple[int, int]]]:
    """Stride -> cells (x, y) of which all slots are ignored; none is ignored by some slots only."""
    truths = [make_instances(boxes, [0] * len(boxes))]
    (weights,) = match(layout, blank(layout), truths, scale).obj_weights
    cells: dict[int, set[tuple[int, int]]] = {}
    rows = [row for row, weight in zip(layout.rows, weights.tolist()) if weight == 0]
    for row in rows:
        cells.setdefault(row.stride, set()).add((row.x, row.y))
    assert len(rows) == sum(map(len, cells.values())) * (3 + layout.anchor_free)
    return cells


def slow_ignored(
    layout: Layout, targets: Sequence[Targets], instances: Instances, scale: float | None
) -> set[int]:
    """AnchorGrid at the levels next to those of the truths.

    Args:
        targets: of every truth as if it were alone.
    """
    ignored = set()
    for target, truth in zip(targets, list_truths(instances)):
        (positive,) = target.positives
        for number, row in enumerate(layout.rows):
            stride = row.stride
            if stride not in (layout.rows[positive].stride / 2, layout.rows[positive].stride * 2):
                continue
            if scale is None:
                x = min(int(truth.cx // stride), layout.width // stride - 1)
                y = min(int(truth.cy // stride), layout.height // stride - 1)
                inside = (row.x, row.y) == (x, y)
            else:
                x, y = (row.x + 0.5) * stride, (row.y + 0.5) * stride
                inside = (
                    truth.cx - scale * truth.w / 2 <= x <= truth.cx + scale * truth.w / 2
                    and truth.cy - scale * truth.h / 2 <= y <= truth.cy + scale * truth.h / 2
                )
            if inside:
                ignored.add(number)
    return ignored


@pytest.mark.parametrize("scale", NAMES, ids=NAMES.get)
@pytest.mark.parametrize("anchor_free", [True, False])
def test_drawn_examples(anchor_free, scale):
    """Weights of images with different numbers of boxes, colliding ones among them."""
    rng = np.random.default_rng(0)
    layout = Layout(192, 256, anchor_free=anchor_free)
    instances = [draw_truths(rng, count, layout=layout, num_classes=2) for count in (0, 4, 30)]
    predictions = draw_predictions(rng, instances, layout=layout, num_classes=2)
    matches = match(layout, predictions, instances, scale)
    without = YOLOv3Matcher(make_anchors(layout))(
        predictions, GroundTruth.from_instances(instances)
    )
    assert torch.equal(matches.obj_targets, without.obj_targets)
    num_new, num_positive, num_collisions = 0, 0, 0
    for image, truths in enumerate(instances):
        logits = predictions.box_logits[image], predictions.shape_logits[image]
        targets = slow_targets(layout, *logits, truths)
        alone = [slow_targets(layout, *logits, truths[index]) for index in range(len(truths))]
        ignored = slow_ignored(layout, alone, truths, scale)
        weights = torch.ones(len(layout.rows))
        weights[sorted(targets.ignored | ignored)] = 0
        for row, truth in targets.positives.items():
            weights[row] = truth.weight
        torch.testing.assert_close(matches.obj_weights[image], weights, rtol=0, atol=0)
        num_new += len(ignored - targets.ignored)
        num_positive += len(ignored & set(targets.positives))
        num_collisions += targets.num_collisions
    # The example holds what it is there for.
    assert min(num_new, num_positive, num_collisions) > 0


@pytest.mark.parametrize(
    "box, expected",
    [
        # 30 x 61 is an anchor of stride 16, the middle level. On the borders between cells:
        (around(64, 48, 30, 61), {8: {(8, 6)}, 32: {(2, 1)}}),
        (around(63.9, 47.9, 30, 61), {8: {(7, 5)}, 32: {(1, 1)}}),
        # In the corners of the image of 128 x 96.
        (around(0, 0, 30, 61), {8: {(0, 0)}, 32: {(0, 0)}}),
        (around(128, 96, 30, 61), {8: {(15, 11)}, 32: {(3, 2)}}),
        # The finest and the coarsest level have one neighbour.
        (around(20, 70, 10, 13), {16: {(1, 4)}}),
        (around(64, 48, 116, 90), {16: {(4, 3)}}),
    ],
)
def test_center(box, expected):
    assert ignored_cells(Layout(96, 128), [box], None) == expected


@pytest.mark.parametrize(
    "box, scale, expected",
    [
        # 44 to 76 and 36.75 to 59.25: at stride 8 cell centres on the left and right border; at
        # stride 32 the centre (48, 48).
        (
            around(60, 48, 64, 45),
            0.5,
            {8: {(x, y) for x in (5, 6, 7, 8, 9) for y in (5, 6)}, 32: {(1, 1)}},
        ),
        # 53.6 to 66.4 and 43.5 to 52.5: the centres 60 and 44, 52; none at stride 32.
        (around(60, 48, 64, 45), 0.2, {8: {(7, 5), (7, 6)}}),
        # Nothing: 61 to 67 lies between the centres 60 and 68.
        (around(64, 48, 30, 61), 0.2, {}),
        # Over the corner of the image: up to 15 and 30.
        (around(0, 0, 60, 120), 0.5, {8: {(x, y) for x in (0, 1) for y in (0, 1, 2, 3)}}),
        # The whole box: 49 to 79 and 17.5 to 78.5.
        (
            around(64, 48, 30, 61),
            1.0,
            {8: {(x, y) for x in (6, 7, 8, 9) for y in range(2, 10)}},
        ),
        # The finest and the coarsest level have one neighbour: 12 to 28 and 60 to 80 of 32 x 40;
        # 35 to 93 and 25.5 to 70.5.
        (around(20, 70, 16, 20), 1.0, {16: {(1, 4)}}),
        (around(64, 48, 116, 90), 0.5, {16: {(x, y) for x in (2, 3, 4, 5) for y in (2, 3)}}),
    ],
)
def test_box(box, scale, expected):
    assert ignored_cells(Layout(96, 128, anchor_free=False), [box], scale) == expected


def test_two_boxes_unite_and_a_pushed_off_one_counts():
    layout = Layout(96, 128)
    # Both 30 x 61 in cell (2, 2) of stride 16: the second pushes the first off its row. Their
    # centres are in different cells of stride 8.
    boxes = [around(37, 37, 30, 61), around(43, 43, 30, 61)]
    assert ignored_cells(layout, boxes, None) == {8: {(4, 4), (5, 5)}, 32: {(1, 1)}}
    # And one of stride 8, around which stride 16 is ignored, elsewhere.
    boxes.append(around(100, 60, 10, 13))
    expected = {8: {(4, 4), (5, 5)}, 16: {(6, 3)}, 32: {(1, 1)}}
    assert ignored_cells(layout, boxes, None) == expected


@pytest.mark.parametrize("scale", [None, 0.2], ids=NAMES.get)
def test_a_positive_is_not_ignored(scale):
    """The small box is positive at stride 8 in the cell that is ignored for the large one."""
    layout = Layout(96, 128)
    # 62 x 45 is an anchor of stride 16; (60, 52) is the centre of the cell (7, 6) of stride 8.
    boxes = [around(60, 52, 62, 45), around(60, 52, 10, 13)]
    truths = [make_instances(boxes, [0, 1], [0.25, 0.75])]
    matches = match(layout, blank(layout), truths, scale)
    large, small = layout.number[16, 1, 3, 3], layout.number[8, 0, 6, 7]
    assert matches.obj_targets[0].nonzero().flatten().tolist() == [large, small]
    weights = matches.obj_weights[0]
    assert weights[[large, small]].tolist() == [0.25, 0.75]
    beside_small = [layout.number[8, slot, 6, 7] for slot in (1, 2, 3)]
    assert weights[beside_small].tolist() == [0, 0, 0]
    # The small box, scaled, does not reach the centre (56, 56) of the large one's cell.
    beside_large = [layout.number[16, slot, 3, 3] for slot in (0, 2, 3)]
    assert weights[beside_large].tolist() == ([0, 0, 0] if scale is None else [1, 1, 1])


@pytest.mark.parametrize("scale", NAMES, ids=NAMES.get)
def test_padding_and_boxes_without_area_ignore_nothing(scale):
    layout = Layout(96, 128)
    full = make_instances([around(60, 52, 62, 45)] * 2, [0, 1])
    flat = make_instances([[30, 30, 30, 90], [90, 60, 30, 20]], [0, 0])
    weights = match(layout, blank(layout, 3), [make_instances([], []), full, flat], scale)
    assert (weights.obj_weights[[0, 2]] == 1).all()
    assert (weights.obj_weights[1] == 0).any()


def test_no_image_has_a_truth():
    layout = Layout(64, 64)
    matches = match(layout, blank(layout, 2), [make_instances([], [])] * 2, 0.5)
    assert (matches.obj_weights == 1).all()


@pytest.mark.parametrize("scale", [None, 0.5], ids=NAMES.get)
def test_memory_is_bounded(scale):
    """No tensor is larger than the result, where one of N M H W is nine times as large."""

    class Largest(TorchDispatchMode):
        numel = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            result = func(*args, **(kwargs or {}))
            sizes = [x.numel() for x in tree_leaves(result) if isinstance(x, Tensor)]
            self.numel = max([self.numel, *sizes])
            return result

    layout = Layout(608, 608)
    anchors = make_anchors(layout)
    ignore, rows = AdjacentIgnore(anchors, scale=scale), anchors(layout.sizes)
    truths = GroundTruth.from_instances([make_instances([[0, 0, 300, 300]] * 50, [0] * 50)] * 16)
    row = torch.full((16, 50), layout.number[16, 0, 9, 9])
    with Largest() as largest:
        result = ignore(rows, truths.boxes, truths.valid, row)
    assert result.any()
    assert largest.numel == result.numel() < 16 * 50 * 76 * 76 / 9


@pytest.mark.parametrize("mode", ["center", "box"])
def test_training_runs_without_values(mode):
    """Fake tensors have shapes, but no values: whatever needs one on the host fails."""
    with FakeTensorMode(allow_non_fake_inputs=True):
        model = YOLOv3(detector_cfg(*TINY_DARKNET, MODE, mode))
        truths = Instances((64, 64))
        truths.gt_boxes = Boxes(torch.zeros(3, 4))
        truths.gt_classes = torch.zeros(3, dtype=torch.int64)
        images = ImageList(torch.zeros(1, 3, 64, 64), [(64, 64)])
        features = list(model.backbone(images.tensor).values())
        losses = model.forward_training(images, features, model.head(features), [truths])
        sum(losses.values()).backward()


def detector_weights(cfg: CfgNode, truths: Instances) -> Tensor:
    """Objectness weights of an image of 64 pixels by the detector of a config."""
    torch.manual_seed(0)
    model = YOLOv3(cfg)
    features = list(model.backbone(torch.zeros(1, 3, 64, 64)).values())
    matches = model.label_anchors(model.head(features), GroundTruth.from_instances([truths]))
    return matches.obj_weights[0]


def test_by_config():
    """Of 192 + 48 + 12 = (8 x 8 + 4 x 4 + 2 x 2) x 3 rows, some about a truth of stride 16."""
    off = detector_cfg(*TINY_DARKNET, "MODEL.YOLOV3.ANCHOR_FREE", False)
    truths = make_instances([around(28, 28, 30, 61)], [0])
    ignored = {}
    options = {"off": (), "none": (MODE, "none"), "center": (MODE, "center")}
    options["0.5"] = (MODE, "box", SCALE, 0.5)
    for name, option in options.items():
        cfg = off.clone()
        cfg.merge_from_list(list(option))
        ignored[name] = set(detector_weights(cfg, truths).eq(0).nonzero().flatten().tolist())
    # Nothing but what predictions overlap by themselves.
    assert ignored["none"] == ignored["off"]
    starts = {32: 0, 8: 12 + 48}
    slots = {32: 4, 8: 64}
    # The cells (0, 0) of stride 32 and (3, 3) of stride 8.
    expected = {starts[32] + slots[32] * slot for slot in range(3)}
    expected |= {starts[8] + slots[8] * slot + 3 * 8 + 3 for slot in range(3)}
    assert ignored["center"] - ignored["off"] == expected - ignored["off"] != set()
    # 20.5 to 35.5 and 12.75 to 43.25: centres 28 and 20, 28, 36 of stride 8; none of stride 32.
    expected = {starts[8] + slots[8] * slot + y * 8 + 3 for slot in range(3) for y in (2, 3, 4)}
    assert ignored["0.5"] - ignored["off"] == expected - ignored["off"] != set()


@pytest.mark.parametrize(
    "options, message",
    [
        ((MODE, "centre"), f"{MODE} is 'centre', .*: none, center, box"),
        ((MODE, ""), f"{MODE} is ''"),
        *(((MODE, "box", SCALE, scale), f"{SCALE} is {scale}: .*'none'") for scale in (0.0, -0.2)),
        ((MODE, "box", SCALE, 1.5), f"{SCALE} is 1.5: "),
        ((MODE, "box", SCALE, float("nan")), f"{SCALE} is nan: "),
    ],
)
def test_bad_values(options, message):
    with pytest.raises(ValueError, match=message):
        YOLOv3(detector_cfg(*TINY_DARKNET, *options))
