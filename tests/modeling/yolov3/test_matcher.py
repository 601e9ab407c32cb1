"""Which anchors ground truth is matched to: against the slow loop of oracle.py, and by hand."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from detectron2.structures import Instances

from asff.modeling import DensePredictions, GroundTruth, Matches, YOLOv3Matcher
from tests.helpers import make_instances
from tests.modeling.drawn import constant_predictions, draw_gt, draw_predictions, make_generator
from tests.modeling.oracle import Layout, slow_targets


def match(layout: Layout, predictions: DensePredictions, instances: Sequence[Instances]) -> Matches:
    return YOLOv3Matcher(make_generator(layout))(predictions, GroundTruth.from_instances(instances))


def positives(matches: Matches, image: int = 0) -> dict[int, int]:
    """Return the number of the box that is matched to each positive anchor."""
    kept = matches.positive[image]
    anchors, boxes = matches.anchor_idx[image][kept].tolist(), kept.nonzero().flatten().tolist()
    assert len(set(anchors)) == len(anchors)
    return dict(zip(anchors, boxes))


def shapes(matches: Matches, image: int = 0) -> dict[int, int]:
    """Return the number of the box that is the shape target of each anchor."""
    kept = matches.shape_positive[image]
    anchors, boxes = matches.shape_anchor_idx[image][kept].tolist(), kept.nonzero()[:, 0].tolist()
    assert len(set(anchors)) == len(anchors)
    return dict(zip(anchors, boxes))


@pytest.mark.parametrize("guided_anchoring", [True, False])
@pytest.mark.parametrize("anchor_free", [True, False])
@pytest.mark.parametrize("counts", [(0, 7, 30), (120,), (1, 0)], ids=str)
def test_drawn_examples(counts, anchor_free, guided_anchoring):
    """All targets of images with different numbers of boxes equal those of the slow loop."""
    rng = np.random.default_rng(sum(counts))
    layout = Layout(256, 384, anchor_free=anchor_free)
    instances = [draw_gt(rng, count, layout=layout, num_classes=3) for count in counts]
    predictions = draw_predictions(
        rng, instances, layout=layout, num_classes=3, guided_anchoring=guided_anchoring
    )
    matches = match(layout, predictions, instances)
    assert not matches.obj_weights.requires_grad
    expected = []
    for image, gt in enumerate(instances):
        shape_logits = predictions.shape_logits[image] if guided_anchoring else None
        targets = slow_targets(layout, predictions.box_logits[image], shape_logits, gt)
        expected.append(targets)
        assert positives(matches, image) == {i: x.number for i, x in targets.positives.items()}
        assert shapes(matches, image) == {i: x.number for i, x in targets.shapes.items()}
        obj_targets, obj_weights = targets.objectness(len(layout.anchors))
        assert torch.equal(matches.obj_targets[image], obj_targets)
        assert torch.equal(matches.obj_weights[image], obj_weights)
    if sum(counts) > 30:  # the example holds what it is there for
        strides = {layout.anchors[i].stride for targets in expected for i in targets.positives}
        assert strides == {8, 16, 32}
        assert all(targets.ignored for targets, count in zip(expected, counts) if count)
        assert sum(targets.num_collisions for targets in expected) > 2
        assert (sum(targets.num_anchor_free for targets in expected) > 2) is anchor_free


@pytest.mark.parametrize(
    "presets, expected",
    [
        ([[[40, 40], [10, 10]], [[1, 1]], [[2, 2]]], (8, 0)),
        ([[[10, 10], [40, 40]], [[1, 1]], [[2, 2]]], (8, 0)),
        ([[[1, 1]], [[10, 10]], [[40, 40]]], (16, 0)),
        ([[[1, 1]], [[2, 2], [40, 40]], [[10, 10]]], (16, 1)),
    ],
)
def test_first_of_equally_good_anchors_wins(presets, expected):
    """20 x 20 has an IoU of 1/4 with 10 x 10 (100 / 400) and with 40 x 40 (400 / 1600)."""
    layout = Layout(64, 64, presets=presets, anchor_free=False)
    gt = make_instances([[22, 22, 42, 42]], [0])
    stride, preset = expected
    anchor = layout.index[stride, preset, 32 // stride, 32 // stride]
    assert positives(match(layout, constant_predictions(layout), [gt])) == {anchor: 0}


def test_anchor_free_anchor_must_fit_better_not_equally_well():
    # 64 x 32 has an IoU of 1/2 with the only preset anchor of 64 x 64, and with the anchor-free
    # square of 4 x 16 pixels; with one of 64 x 62 it has 32 / 62.
    layout = Layout(128, 128, presets=[[[1, 1]], [[64, 64]], [[1, 1]]])
    gt = [make_instances([[16, 32, 80, 64]], [0])]
    predictions = constant_predictions(layout)
    preset, free = (layout.index[16, a, 3, 3] for a in (0, 1))
    assert positives(match(layout, predictions, gt)) == {preset: 0}
    predictions.shape_logits[0, free, 1] = np.log(62 / 64)
    matches = match(layout, predictions, gt)
    assert positives(matches) == {free: 0}
    assert shapes(matches) == {preset: 0, free: 0}


@pytest.mark.parametrize(
    "center, location",
    [
        ((128, 30), (7, 1)),  # on the right border
        ((30, 96), (1, 5)),  # on the lower border
        ((128, 96), (7, 5)),
        ((0, 0), (0, 0)),
        ((16, 32), (1, 2)),  # between locations: the right, lower one
    ],
)
def test_location_holds_the_center(center, location):
    layout = Layout(96, 128)
    (cx, cy), (x, y) = center, location
    box = [cx - 15, cy - 30.5, cx + 15, cy + 30.5]  # the first anchor of stride 16
    matches = match(layout, constant_predictions(layout), [make_instances([box], [0])])
    assert positives(matches) == {layout.index[16, 0, y, x]: 0}


def test_later_anchor_free_box_still_sets_the_preset_anchors_shape():
    """Both boxes fit the same preset anchor best; the second is matched to the anchor-free one.

    The preset anchor stays matched to the first, but its shape target is the second ("whichever is
    positive").
    """
    layout = Layout(64, 64)
    predictions = constant_predictions(layout)
    anchor, free = (layout.index[8, a, 4, 4] for a in (1, 3))
    predictions.shape_logits[0, free] = torch.tensor([20 / 32, 30 / 32]).log()
    boxes = [[27, 18, 43, 48], [24, 18, 44, 48]]
    matches = match(layout, predictions, [make_instances(boxes, [0, 1], [0.3, 0.6])])
    assert positives(matches) == {anchor: 0, free: 1}
    assert shapes(matches) == {anchor: 1, free: 1}
    assert matches.obj_weights[0, [anchor, free]].tolist() == pytest.approx([0.3, 0.6])


@pytest.mark.parametrize("overlap, weight", [(0.69, 1.0), (0.71, 0.0)])
def test_ignore_threshold_is_0_7(overlap, weight):
    # The anchor-free box, 32 x 32 around (36, 36), has its height reduced within the ground truth.
    layout = Layout(64, 64)
    predictions = constant_predictions(layout)
    free = layout.index[8, 3, 4, 4]
    predictions.box_logits[0, free, 3] = np.log(overlap)
    predictions.shape_logits[0, free] = -3  # so that it is not the positive
    predictions.box_logits[0, free, 2:] += 3
    matches = match(layout, predictions, [make_instances([[20, 20, 52, 52]], [0])])
    assert free not in positives(matches)
    assert matches.obj_weights[0, free] == weight


def test_degenerate_boxes_count_nowhere():
    layout = Layout(64, 64)
    predictions = constant_predictions(layout, num_images=2)
    # Boxes of one pixel in the corner, where padding might ignore them.
    for a, center in enumerate((0.01, 0.5, 1.0)):
        corner = layout.index[8, a, 0, 0]
        predictions.box_logits[:, corner, :2] = math.log(center / (8 - center))
        sizes = torch.tensor([layout.anchors[corner].width, layout.anchors[corner].height])
        predictions.box_logits[:, corner, 2:] = -sizes.log()
    degenerate = [[30, 30, 30, 40], [30, 33, 38, 33], [34, 33, 34, 33], [44, 48, 26, 18]]
    boxes = [degenerate[0], [26, 18, 42, 48], *degenerate[1:]]
    gt = [make_instances(boxes, [0, 1, 0, 0, 0]), make_instances([], [])]
    matches = match(layout, predictions, gt)
    anchor = layout.index[8, 1, 4, 4]
    assert positives(matches) == {anchor: 1}
    assert matches.obj_targets.nonzero().tolist() == [[0, anchor]]
    assert (matches.obj_weights == 1).all()
    assert matches.same_anchor.nonzero().tolist() == [[0, 1, 1]]
