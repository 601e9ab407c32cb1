"""Which rows answer for which truths: against the slow loop of oracle.py and cases by hand."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from detectron2.structures import Instances

from asff.modeling.yolov3 import DensePredictions, GroundTruth, Matches, YOLOv3Matcher
from tests.helpers import make_instances
from tests.modeling.drawn import draw_predictions, draw_truths, make_anchors
from tests.modeling.oracle import Layout, slow_targets


def match(layout: Layout, predictions: DensePredictions, instances: Sequence[Instances]) -> Matches:
    return YOLOv3Matcher(make_anchors(layout))(predictions, GroundTruth.from_instances(instances))


def zeros(
    layout: Layout, *, num_images: int = 1, guided_anchoring: bool = True
) -> DensePredictions:
    """Predictions whose logits are 0: base anchors in the middle of their cells."""
    shape = (num_images, len(layout.rows))
    return DensePredictions(
        box_logits=torch.zeros(*shape, 4),
        obj_logits=torch.zeros(shape),
        cls_logits=torch.zeros(*shape, 2),
        shape_logits=torch.zeros(*shape, 2) if guided_anchoring else None,
        grid=make_anchors(layout)(layout.sizes),
    )


def positives(matches: Matches, image: int = 0) -> dict[int, int]:
    """Row -> number of the truth it answers for."""
    kept = matches.positive[image]
    rows, truths = matches.anchor_idx[image][kept].tolist(), kept.nonzero().flatten().tolist()
    assert len(set(rows)) == len(rows)
    return dict(zip(rows, truths))


def shapes(matches: Matches, image: int = 0) -> dict[int, int]:
    """Row -> number of the truth whose shape it learns."""
    kept = matches.shape_positive[image]
    rows, truths = matches.shape_anchor_idx[image][kept].tolist(), kept.nonzero()[:, 0].tolist()
    assert len(set(rows)) == len(rows)
    return dict(zip(rows, truths))


@pytest.mark.parametrize("guided_anchoring", [True, False])
@pytest.mark.parametrize("anchor_free", [True, False])
@pytest.mark.parametrize("counts", [(0, 7, 30), (120,), (1, 0)], ids=str)
def test_drawn_examples(counts, anchor_free, guided_anchoring):
    """All targets of images with different numbers of boxes equal those of the slow loop."""
    rng = np.random.default_rng(sum(counts))
    layout = Layout(256, 384, anchor_free=anchor_free)
    instances = [draw_truths(rng, count, layout=layout, num_classes=3) for count in counts]
    predictions = draw_predictions(
        rng, instances, layout=layout, num_classes=3, guided_anchoring=guided_anchoring
    )
    matches = match(layout, predictions, instances)
    found = []
    for image, truths in enumerate(instances):
        shape_logits = predictions.shape_logits[image] if guided_anchoring else None
        expected = slow_targets(layout, predictions.box_logits[image], shape_logits, truths)
        found.append(expected)
        indices = {row: truth.index for row, truth in expected.positives.items()}
        assert positives(matches, image) == indices
        shape_indices = {row: truth.index for row, truth in expected.shapes.items()}
        assert shapes(matches, image) == shape_indices
        targets = torch.zeros(len(layout.rows))
        weights = torch.ones(len(layout.rows))
        weights[sorted(expected.ignored)] = 0
        for row, truth in expected.positives.items():
            targets[row], weights[row] = 1, truth.weight
        torch.testing.assert_close(matches.obj_targets[image], targets, rtol=0, atol=0)
        torch.testing.assert_close(matches.obj_weights[image], weights, rtol=0, atol=0)
    if sum(counts) > 30:  # the example holds what it is there for
        strides = {layout.rows[row].stride for targets in found for row in targets.positives}
        assert strides == {8, 16, 32}
        assert all(targets.ignored for targets, count in zip(found, counts) if count)
        assert sum(targets.num_collisions for targets in found) > 2
        assert (sum(targets.num_anchor_free for targets in found) > 2) is anchor_free


def test_no_image_has_a_truth():
    layout = Layout(64, 64)
    matches = match(layout, zeros(layout, num_images=2), [make_instances([], [])] * 2)
    assert matches.anchor_idx.shape == (2, 0)
    assert not matches.obj_targets.any()
    assert (matches.obj_weights == 1).all()


@pytest.mark.parametrize(
    "anchors, expected",
    [
        ([[[40, 40], [10, 10]], [[1, 1]], [[2, 2]]], (8, 0)),
        ([[[10, 10], [40, 40]], [[1, 1]], [[2, 2]]], (8, 0)),
        ([[[1, 1]], [[10, 10]], [[40, 40]]], (16, 0)),
        ([[[1, 1]], [[2, 2], [40, 40]], [[10, 10]]], (16, 1)),
    ],
)
def test_of_anchors_that_fit_equally_well_the_first_wins(anchors, expected):
    """20 x 20 has an IoU of 1/4 with 10 x 10 (100 / 400) and with 40 x 40 (400 / 1600)."""
    layout = Layout(64, 64, anchors=anchors, anchor_free=False)
    matches = match(layout, zeros(layout), [make_instances([[22, 22, 42, 42]], [0])])
    stride, slot = expected
    cell = 32 // stride
    assert positives(matches) == {layout.number[stride, slot, cell, cell]: 0}


def test_anchor_free_slot_must_fit_better_not_equally_well():
    # 64 x 32 has an IoU of 1/2 with the only anchor of 64 x 64, and with the anchor-free square of
    # 4 x 16 pixels; with one of 64 x 62 it has 32 / 62.
    layout = Layout(128, 128, anchors=[[[1, 1]], [[64, 64]], [[1, 1]]])
    truths = [make_instances([[16, 32, 80, 64]], [0])]
    predictions = zeros(layout)
    anchor, free = (layout.number[16, slot, 3, 3] for slot in (0, 1))
    assert positives(match(layout, predictions, truths)) == {anchor: 0}
    predictions.shape_logits[0, free, 1] = np.log(62 / 64)
    matches = match(layout, predictions, truths)
    assert positives(matches) == {free: 0}
    assert shapes(matches) == {anchor: 0, free: 0}


def test_predicted_anchors_do_not_compete():
    """Only the anchor-free slot competes by its predicted shape; anchors do by their base."""
    layout = Layout(64, 64)
    predictions = zeros(layout)
    # Predicts just the truth's shape, but its base anchor of 10 x 13 fits worse than 16 x 30.
    other = layout.number[8, 0, 4, 4]
    predictions.shape_logits[0, other] = torch.tensor([1.6, 30 / 13]).log()
    matches = match(layout, predictions, [make_instances([[26, 18, 42, 48]], [0])])
    assert positives(matches) == {layout.number[8, 1, 4, 4]: 0}


@pytest.mark.parametrize(
    "center, cell",
    [
        ((128, 30), (7, 1)),  # on the right border
        ((30, 96), (1, 5)),  # on the lower border
        ((128, 96), (7, 5)),
        ((0, 0), (0, 0)),
        ((16, 32), (1, 2)),  # between cells: the right, lower one
    ],
)
def test_cell_holds_the_center(center, cell):
    layout = Layout(96, 128)
    (cx, cy), (x, y) = center, cell
    box = [cx - 15, cy - 30.5, cx + 15, cy + 30.5]  # the first anchor of stride 16
    matches = match(layout, zeros(layout), [make_instances([box], [0])])
    assert positives(matches) == {layout.number[16, 0, y, x]: 0}


@pytest.mark.parametrize("guided_anchoring", [True, False])
def test_later_truth_takes_the_slot(guided_anchoring):
    layout = Layout(64, 64)
    # Both 16 x 30 in the cell (4, 4) of stride 8; between them one elsewhere.
    boxes = [[26, 18, 42, 48], [2, 2, 12, 15], [27, 19, 43, 49]]
    truths = [make_instances(boxes, [0, 1, 1], [0.25, 0.5, 0.75])]
    predictions = zeros(layout, guided_anchoring=guided_anchoring)
    matches = match(layout, predictions, truths)
    slot, other = layout.number[8, 1, 4, 4], layout.number[8, 0, 1, 0]
    free, other_free = layout.number[8, 3, 4, 4], layout.number[8, 3, 1, 0]
    assert positives(matches) == {slot: 2, other: 1}
    assert shapes(matches) == {slot: 2, free: 2, other: 1, other_free: 1}
    assert matches.obj_weights[0, slot] == 0.75
    assert matches.obj_weights[0, other] == 0.5
    assert matches.same_anchor[0].tolist() == [[1, 0, 1], [0, 1, 0], [1, 0, 1]]


def test_truths_of_a_level_share_only_the_anchor_free_shape():
    """Two anchors of one cell are positives; the later truth sets the anchor-free slot's shape."""
    layout = Layout(64, 64)
    truths = [make_instances([[26, 18, 42, 48], [18, 23, 51, 46]], [0, 1])]
    matches = match(layout, zeros(layout), truths)
    tall, wide, free = (layout.number[8, slot, 4, 4] for slot in (1, 2, 3))
    assert positives(matches) == {tall: 0, wide: 1}
    assert shapes(matches) == {tall: 0, wide: 1, free: 1}


def test_later_truth_on_the_anchor_free_slot_still_sets_the_anchors_shape():
    """Both truths fit the same anchor best; for the second the anchor-free slot answers. The anchor
    slot stays the first one's, but learns the shape of the second ("whichever is positive").
    """
    layout = Layout(64, 64)
    predictions = zeros(layout)
    anchor, free = (layout.number[8, slot, 4, 4] for slot in (1, 3))
    predictions.shape_logits[0, free] = torch.tensor([20 / 32, 30 / 32]).log()
    boxes = [[27, 18, 43, 48], [24, 18, 44, 48]]
    matches = match(layout, predictions, [make_instances(boxes, [0, 1], [0.3, 0.6])])
    assert positives(matches) == {anchor: 0, free: 1}
    assert shapes(matches) == {anchor: 1, free: 1}
    assert matches.obj_weights[0, [anchor, free]].tolist() == pytest.approx([0.3, 0.6])


def test_ignored_are_rows_that_overlap_and_are_not_positive():
    layout = Layout(64, 64)
    predictions = zeros(layout)
    # At 0 logits slot 1 of the cell (4, 4) is 16 x 30 around (36, 36), exactly the first truth; the
    # second one takes another slot there and overlaps it by 16 x 28 / (2 x 480 - 448) = 7/8.
    boxes = [[28, 21, 44, 51], [28, 23, 44, 53]]
    anchor, beside = layout.number[8, 1, 4, 4], layout.number[8, 0, 4, 4]
    predictions.box_logits[0, beside, 2:] = torch.tensor([1.6, 30 / 13]).log()
    matches = match(layout, predictions, [make_instances(boxes[:1], [0], [0.5])])
    assert matches.obj_weights[0, anchor] == 0.5
    assert matches.obj_weights[0, beside] == 0
    assert positives(matches) == {anchor: 0}
    # The pushed-off first truth still shields what overlaps it, and the positive is not ignored.
    matches = match(layout, predictions, [make_instances(boxes, [0, 0], [0.5, 0.25])])
    assert positives(matches) == {anchor: 1}
    assert matches.obj_weights[0, anchor] == 0.25
    assert matches.obj_weights[0, beside] == 0
    assert (matches.obj_weights == 0).sum() == 1


@pytest.mark.parametrize("overlap, weight", [(0.69, 1.0), (0.71, 0.0)])
def test_ignore_threshold_is_0_7(overlap, weight):
    # The row of the anchor-free slot, 32 x 32 around (36, 36), shrunk in height inside the truth.
    layout = Layout(64, 64)
    predictions = zeros(layout)
    free = layout.number[8, 3, 4, 4]
    predictions.box_logits[0, free, 3] = np.log(overlap)
    predictions.shape_logits[0, free] = -3  # which keeps the slot from being the positive
    predictions.box_logits[0, free, 2:] += 3
    matches = match(layout, predictions, [make_instances([[20, 20, 52, 52]], [0])])
    assert free not in positives(matches)
    assert matches.obj_weights[0, free] == weight


def test_boxes_without_area_count_nowhere():
    layout = Layout(64, 64)
    predictions = zeros(layout, num_images=2)
    # Boxes of one pixel in the corner: a stand-in for an absent truth there would shield them.
    for slot, center in enumerate((0.01, 0.5, 1.0)):
        row = layout.number[8, slot, 0, 0]
        predictions.box_logits[:, row, :2] = math.log(center / (8 - center))
        sizes = torch.tensor([layout.rows[row].width, layout.rows[row].height])
        predictions.box_logits[:, row, 2:] = -sizes.log()
    boxes = [
        [30, 30, 30, 40],
        [26, 18, 42, 48],
        [30, 33, 38, 33],
        [34, 33, 34, 33],
        [44, 48, 26, 18],
    ]
    truths = [make_instances(boxes, [0, 1, 0, 0, 0]), make_instances([], [])]
    matches = match(layout, predictions, truths)
    row = layout.number[8, 1, 4, 4]
    assert positives(matches) == {row: 1}
    assert matches.obj_targets.nonzero().tolist() == [[0, row]]
    assert (matches.obj_weights == 1).all()
    assert matches.same_anchor.nonzero().tolist() == [[0, 1, 1]]


def test_other_images_change_nothing():
    """An image's targets are the same alone and padded to the fullest image of a batch."""
    rng = np.random.default_rng(0)
    layout = Layout(128, 128)
    few, many = (draw_truths(rng, count, layout=layout, num_classes=2) for count in (3, 60))
    predictions = zeros(layout, num_images=2)
    together, alone = match(layout, predictions, [few, many]), match(layout, zeros(layout), [few])
    assert positives(together, 0) == positives(alone)
    assert shapes(together, 0) == shapes(alone)
    assert torch.equal(together.obj_targets[:1], alone.obj_targets)
    assert torch.equal(together.obj_weights[:1], alone.obj_weights)


def test_matching_passes_no_gradient():
    rng = np.random.default_rng(0)
    layout = Layout(64, 64)
    truths = [draw_truths(rng, 5, layout=layout, num_classes=2)]
    matches = match(layout, draw_predictions(rng, truths, layout=layout, num_classes=2), truths)
    assert not matches.obj_weights.requires_grad
