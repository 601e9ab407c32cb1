"""Clustering of box shapes: against clusters made by hand, and IoUs of a slow loop."""

from __future__ import annotations

import itertools
import sys
from pathlib import Path

import pytest
import torch
from detectron2.config import CfgNode
from detectron2.structures import BoxMode
from torch import Tensor

from asff.analysis import anchor_fit
from asff.analysis.anchor_fit import (
    base_path,
    box_sizes,
    fit_anchors,
    measure,
    read_anchors,
    refine,
)
from tests.helpers import detector_cfg

# Far apart, by ascending area, of several aspect ratios.
SHAPES = [(10, 12), (40, 16), (20, 40), (60, 60), (30, 150), (150, 50), (160, 150), (90, 300)]


def tensor(rows: list) -> Tensor:
    return torch.tensor(rows, dtype=torch.float64)


def make_clusters() -> Tensor:
    """Around shape k, on either side of it alike, the more boxes the smaller k is."""
    factors = list(itertools.product((0.95, 1, 1.05), repeat=2))
    rows = [
        (width * a, height * b)
        for k, (width, height) in enumerate(SHAPES)
        for a, b in factors * 3 * (len(SHAPES) - k)
    ]
    generator = torch.Generator().manual_seed(0)
    return tensor(rows)[torch.randperm(len(rows), generator=generator)]


def slow_iou(box: list[float], anchor: list[float]) -> float:
    inter = min(box[0], anchor[0]) * min(box[1], anchor[1])
    return inter / (box[0] * box[1] + anchor[0] * anchor[1] - inter)


def random_sizes(count: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return 2 + 100 * torch.rand(count, 2, dtype=torch.float64, generator=generator)


@pytest.mark.parametrize("seed", [0, 1])
def test_clusters_are_found_exactly(seed):
    assert fit_anchors(make_clusters(), len(SHAPES), seed).tolist() == [list(x) for x in SHAPES]


def test_many_boxes_are_sampled(monkeypatch):
    monkeypatch.setattr(anchor_fit, "SAMPLE", 300)
    shapes = tensor(SHAPES * 100)
    assert fit_anchors(shapes, len(SHAPES), seed=0).tolist() == [list(x) for x in SHAPES]
    # Not the first 300, whose order may be the dataset's: of these it could not know the last.
    in_order = tensor([x for x in SHAPES for _ in range(100)])
    assert fit_anchors(in_order, len(SHAPES), seed=0).tolist() == [list(x) for x in SHAPES]


def test_a_seed_repeats_its_anchors():
    sizes = random_sizes(300, seed=3)
    first, again, other = (fit_anchors(sizes, 9, seed) for seed in (5, 5, 6))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_fit_against_a_slow_loop(monkeypatch):
    monkeypatch.setattr(anchor_fit, "CHUNK", 7)  # of which 60 boxes fill the last one in part
    sizes, anchors = random_sizes(60, seed=0), random_sizes(5, seed=1)
    ious = [[slow_iou(box, anchor) for anchor in anchors.tolist()] for box in sizes.tolist()]
    best = [max(row) for row in ious]
    owners = [row.index(max(row)) for row in ious]
    fit = measure(sizes, anchors, counts=[2, 0, 3])
    assert fit.mean_iou == pytest.approx(sum(best) / 60)
    assert fit.poor == sum(iou < 0.5 for iou in best) / 60 and 0 < fit.poor < 1
    first = sum(owner < 2 for owner in owners) / 60
    assert fit.levels == pytest.approx([first, 0, 1 - first]) and 0 < first < 1


def test_a_step_by_hand():
    sizes = tensor([(10, 10), (10, 12), (10, 10), (40, 40), (42, 40), (44, 44)])
    # No box has its best IoU with the third anchor, which stays.
    anchors, mean = refine(sizes, tensor([(14, 14), (30, 30), (500, 500)]))
    assert anchors.tolist() == [[10, 10], [42, 40], [500, 500]]
    ious = [1, 100 / 120, 1, 1600 / 1680, 1, 1680 / 1936]
    assert mean == pytest.approx(sum(ious) / 6)


def test_a_step_for_the_worse_is_not_taken():
    # The medians are 40 and 40: with that anchor the mean IoU is (4 x 1/4 + 1) / 5 = 0.4.
    sizes = tensor([(10, 40), (10, 40), (40, 10), (40, 10), (40, 40)])
    anchors, mean = refine(sizes, tensor([(10, 40)]))
    assert anchors.tolist() == [[10, 40]]
    assert mean == pytest.approx((2 * 1 + 2 * 100 / 700 + 1 / 4) / 5)


def test_steps_never_make_a_fit_worse():
    for seed in range(40):
        sizes, start = random_sizes(40, seed), random_sizes(6, seed + 100)
        anchors, mean = refine(sizes, start)
        assert measure(sizes, start, [6]).mean_iou <= mean
        assert measure(sizes, anchors, [6]).mean_iou == pytest.approx(mean, abs=1e-12)


def test_whole_pixels_by_ascending_area():
    sizes = torch.cat([0.2 * make_clusters(), random_sizes(500, seed=0) / 300])
    anchors = fit_anchors(sizes, 6, seed=0)
    assert anchors.min() == 1 and torch.equal(anchors, anchors.round())
    areas = anchors.prod(dim=1).tolist()
    assert areas == sorted(areas) and areas[0] < areas[-1]


def test_fewer_shapes_than_anchors():
    # In whole pixels there are two: 10 x 10 and 20 x 10.
    sizes = tensor([(10, 10), (10.4, 9.6), (20, 10)] * 20)
    with pytest.raises(ValueError, match=r"have 2 different shapes .* the 3 anchors of MODEL"):
        fit_anchors(sizes, 3, seed=0)
    assert fit_anchors(sizes, 2, seed=0).tolist() == [[10, 10], [20, 10]]
    with pytest.raises(ValueError, match="have 0 different shapes"):
        fit_anchors(sizes[:0], 3, seed=0)


def test_without_scikit_learn(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.cluster", None)  # Python's own way to block a module
    with pytest.raises(ValueError, match="scikit-learn is not installed: `make setup`"):
        fit_anchors(make_clusters(), 3, seed=0)


def test_anchors_of_a_config():
    levels = [[[10, 13], [16.5, 30]], [[30, 61]], []]
    anchors, counts = read_anchors(detector_cfg("MODEL.YOLOV3.ANCHORS", levels))
    assert anchors.tolist() == [[10, 13], [16.5, 30], [30, 61]]
    assert counts == [2, 1, 0]


@pytest.mark.parametrize(
    "levels",
    [
        [[[10, 13]], [[30, 61]]],
        [[10, 13], [30, 61], [116, 90]],
        [[[10, 13, 5]], [[30, 61]], [[116, 90]]],
        [[[10, 0]], [[30, 61]], [[116, 90]]],
        [[["10", "13"]], [[30, 61]], [[116, 90]]],
        [[], [], []],
        [10, 13, 16],
    ],
)
def test_malformed_anchors_of_a_config(levels):
    with pytest.raises(ValueError) as error:
        read_anchors(detector_cfg("MODEL.YOLOV3.ANCHORS", levels))
    assert f"MODEL.YOLOV3.ANCHORS is {levels}: write a list for each of the 3" in str(error.value)


def dataset_dict(height: int, width: int, *boxes: list, **fields: object) -> dict:
    mode = {"bbox_mode": BoxMode.XYWH_ABS, **fields}
    annotations = [{"bbox": box, "category_id": 0, **mode} for box in boxes]
    return {"height": height, "width": width, "annotations": annotations}


def square_cfg(*options: object) -> CfgNode:
    return detector_cfg("INPUT.SQUARE", True, "INPUT.TEST_SIZE", 320, *options)


def test_boxes_are_resized_with_their_images():
    dicts = [
        dataset_dict(480, 640, [10, 20, 64, 48], [0, 0, 640, 480]),
        dataset_dict(160, 160, [5, 5, 16, 8]),
        dataset_dict(320, 640, [-10, -20, 30, 60], [620, 300, 100, 100]),  # clipped
        dataset_dict(320, 320, [10, 20, 40, 60], bbox_mode=BoxMode.XYXY_ABS),
    ]
    sizes, crowds, degenerate = box_sizes(square_cfg(), dicts)
    assert sizes.tolist() == [[32, 32], [320, 320], [32, 16], [10, 40], [10, 20], [30, 40]]
    assert (crowds, degenerate) == (0, 0)


def test_boxes_that_are_left_out_are_counted():
    dicts = [
        dataset_dict(320, 320, [10, 10, 0, 20], [10, 10, 20, -1], [10, 10, float("nan"), 5]),
        dataset_dict(320, 320, [330, 10, 20, 20], [-30, 10, 20, 20]),  # outside
        dataset_dict(320, 320, [1, 2, 30, 40], [5, 6, 70, 80], iscrowd=1),
        dataset_dict(320, 320, [1, 2, 30, 40], iscrowd=0),
        dataset_dict(320, 320),
        {"height": 320, "width": 320},
    ]
    sizes, crowds, degenerate = box_sizes(square_cfg(), dicts)
    assert sizes.tolist() == [[30, 40]]
    assert (crowds, degenerate) == (2, 5)
    sizes, _, _ = box_sizes(square_cfg(), dicts[4:])
    assert sizes.shape == (0, 2)


def test_base_path():
    assert base_path(Path("/a/b/c.yaml"), Path("/a/out.yaml")) == "b/c.yaml"
    assert base_path(Path("/a/c.yaml"), Path("/a/b/d/out.yaml")) == "../../c.yaml"
    assert base_path(Path("/a/c.yaml"), Path("/b/out.yaml")) == "/a/c.yaml"


def test_base_path_through_links(tmp_path):
    """``..`` follows links of folders; a linked config has its bases beside the link."""
    for folder in ("real/deep", "configs"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "linked").symlink_to(tmp_path / "real" / "deep")
    (tmp_path / "configs" / "c.yaml").symlink_to(tmp_path / "elsewhere.yaml")
    found = base_path(tmp_path / "configs" / "c.yaml", tmp_path / "linked" / "out.yaml")
    assert found == "../../configs/c.yaml"
