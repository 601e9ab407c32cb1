"""Ignored anchors at adjacent levels: against a slow loop over boxes and anchors, and by hand."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from detectron2.structures import Instances
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from asff.modeling import DensePredictions, GroundTruth, Matches, YOLOv3, YOLOv3Matcher
from asff.modeling.yolov3.adjacent_ignore import AdjacentIgnore
from tests.helpers import TINY_DARKNET, detector_cfg, make_instances
from tests.modeling.drawn import constant_predictions, draw_gt, draw_predictions, make_generator
from tests.modeling.oracle import Layout, Targets, list_gt, slow_targets

NAMES = {None: "center", 0.2: "0.2", 0.5: "0.5"}
MODE, SCALE = "MODEL.YOLOV3.IGNORE_ADJACENT", "MODEL.YOLOV3.IGNORE_ADJACENT_SCALE"


def match(
    layout: Layout,
    predictions: DensePredictions,
    instances: Sequence[Instances],
    scale: float | None,
) -> Matches:
    generator = make_generator(layout)
    matcher = YOLOv3Matcher(generator, adjacent_ignore=AdjacentIgnore(generator, scale=scale))
    return matcher(predictions, GroundTruth.from_instances(instances))


def tiny_boxes(layout: Layout, num_images: int = 1) -> DensePredictions:
    """Return predictions of boxes so small that no overlap ignores them."""
    predictions = constant_predictions(layout, num_images=num_images)
    predictions.box_logits[..., 2:] = -9
    return predictions


def around(cx: float, cy: float, w: float, h: float) -> list[float]:
    return [cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2]


def ignored_locations(
    layout: Layout, box: Sequence[float], scale: float | None
) -> dict[int, set[tuple[int, int]]]:
    """Return the ignored locations (x, y) by stride, and check that all their anchors are."""
    gt = [make_instances([box], [0])]
    (weights,) = match(layout, tiny_boxes(layout), gt, scale).obj_weights
    locations: dict[int, set[tuple[int, int]]] = {}
    anchors = [anchor for anchor, weight in zip(layout.anchors, weights.tolist()) if weight == 0]
    for anchor in anchors:
        locations.setdefault(anchor.stride, set()).add((anchor.x, anchor.y))
    assert len(anchors) == sum(map(len, locations.values())) * (3 + layout.anchor_free)
    return locations


def slow_ignored(
    layout: Layout, targets: Sequence[Targets], instances: Instances, scale: float | None
) -> set[int]:
    """Return the anchors at the levels adjacent to those of the boxes that are ignored.

    Args:
        targets: of every box as if it were alone.
    """
    ignored = set()
    for target, gt in zip(targets, list_gt(instances)):
        (positive,) = target.positives
        own_stride = layout.anchors[positive].stride
        for index, anchor in enumerate(layout.anchors):
            stride = anchor.stride
            if stride not in (own_stride / 2, own_stride * 2):
                continue
            if scale is None:
                x = min(int(gt.cx // stride), layout.width // stride - 1)
                y = min(int(gt.cy // stride), layout.height // stride - 1)
                inside = (anchor.x, anchor.y) == (x, y)
            else:
                x, y = (anchor.x + 0.5) * stride, (anchor.y + 0.5) * stride
                inside = (
                    gt.cx - scale * gt.w / 2 <= x <= gt.cx + scale * gt.w / 2
                    and gt.cy - scale * gt.h / 2 <= y <= gt.cy + scale * gt.h / 2
                )
            if inside:
                ignored.add(index)
    return ignored


@pytest.mark.parametrize("scale", NAMES, ids=NAMES.get)
@pytest.mark.parametrize("anchor_free", [True, False])
def test_drawn_examples(anchor_free, scale):
    """Weights of images with different numbers of boxes, colliding ones among them."""
    rng = np.random.default_rng(0)
    layout = Layout(192, 256, anchor_free=anchor_free)
    instances = [draw_gt(rng, count, layout=layout, num_classes=2) for count in (0, 4, 30)]
    predictions = draw_predictions(rng, instances, layout=layout, num_classes=2)
    matches = match(layout, predictions, instances, scale)
    num_new, num_positive, num_collisions = 0, 0, 0
    for image, gt in enumerate(instances):
        logits = predictions.box_logits[image], predictions.shape_logits[image]
        targets = slow_targets(layout, *logits, gt)
        alone = [slow_targets(layout, *logits, gt[index]) for index in range(len(gt))]
        adjacent = slow_ignored(layout, alone, gt, scale)
        num_new += len(adjacent - targets.ignored)
        num_positive += len(adjacent & set(targets.positives))
        num_collisions += targets.num_collisions
        targets.ignored |= adjacent
        obj_targets, obj_weights = targets.objectness(len(layout.anchors))
        assert torch.equal(matches.obj_targets[image], obj_targets)
        assert torch.equal(matches.obj_weights[image], obj_weights)
    # The example holds what it is there for.
    assert min(num_new, num_positive, num_collisions) > 0


@pytest.mark.parametrize(
    "box, scale, expected",
    [
        # 30 x 61 is an anchor of stride 16, the middle level. On the borders between locations:
        (around(64, 48, 30, 61), None, {8: {(8, 6)}, 32: {(2, 1)}}),
        # In the corner of the image of 128 x 96.
        (around(128, 96, 30, 61), None, {8: {(15, 11)}, 32: {(3, 2)}}),
        # The finest and the coarsest level have one neighbour.
        (around(20, 70, 10, 13), None, {16: {(1, 4)}}),
        (around(64, 48, 116, 90), None, {16: {(4, 3)}}),
        # 44 to 76 and 36.75 to 59.25: at stride 8, centres on the left and right border; at
        # stride 32, the centre (48, 48).
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
    ],
)
def test_ignored_locations(box, scale, expected):
    assert ignored_locations(Layout(96, 128), box, scale) == expected


@pytest.mark.parametrize("scale", NAMES, ids=NAMES.get)
def test_padding_and_degenerate_boxes_ignore_nothing(scale):
    layout, none = Layout(96, 128), make_instances([], [])
    full = make_instances([around(60, 52, 62, 45)] * 2, [0, 1])
    degenerate = make_instances([[30, 30, 30, 90], [90, 60, 30, 20]], [0, 0])
    weights = match(layout, tiny_boxes(layout, 3), [none, full, degenerate], scale).obj_weights
    assert (weights[[0, 2]] == 1).all()
    assert (weights[1] == 0).any()
    assert (match(layout, tiny_boxes(layout), [none], scale).obj_weights == 1).all()


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
    generator = make_generator(layout)
    ignore, grid = AdjacentIgnore(generator, scale=scale), generator(layout.level_shapes)
    gt = GroundTruth.from_instances([make_instances([[0, 0, 300, 300]] * 50, [0] * 50)] * 16)
    anchor_idx = torch.full((16, 50), layout.index[16, 0, 9, 9])
    with Largest() as largest:
        result = ignore(grid, gt.boxes, gt.valid, anchor_idx)
    assert result.any()
    assert largest.numel == result.numel() < 16 * 50 * 76 * 76 / 9


@pytest.mark.parametrize(
    "options, scale", [((MODE, "center"), None), ((MODE, "box", SCALE, 0.5), 0.5)], ids=str
)
def test_by_config(options, scale):
    """The matcher of the detector ignores these locations too; by default, none."""
    assert YOLOv3(detector_cfg(*TINY_DARKNET, MODE, "none")).matcher.adjacent_ignore is None
    assert YOLOv3(detector_cfg(*TINY_DARKNET, *options)).matcher.adjacent_ignore.scale == scale


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
