"""Gradient consistency: Equations 5 and 6, the parts of the loss, and their means."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from asff.analysis import LevelGradients, measure_gradients
from asff.analysis.gradients import GradientProbe, fuse_by_weights, summarize
from asff.modeling import FUSIONS, AdaptiveFusion, Matches, PyramidFusion, SumFusion, YOLOv3
from tests.helpers import TINY_DARKNET, detector_cfg, make_instances
from tests.modeling.oracle import Layout

pytestmark = pytest.mark.usefixtures("one_thread")
LINEAR = {"norm": "", "activation": ""}
LEVELS, CHANNELS, HEIGHT, WIDTH = 3, 6, 4, 5  # of the fusions with identity resizing
STRIDES = (32, 16, 8)
SIZE = (96, 128)  # height and width of the images
# Objects of strides 32, 16, and three of 8: the first two of these have their centres at one
# location, but different anchors; the last has it at the location of the first box.
BOXES = ([4, 4, 124, 92], [10, 10, 50, 70], [60, 60, 72, 74], [50, 58, 83, 77], [64, 34, 76, 46])


class IdentityCase:
    """A fusion whose resizing is the identity, and a random loss L(y^1, y^2, y^3).

    Attributes:
        levels: the features x^l (2, C, H, W), in float64.
        weights: of the fusion, L tensors (2, L, H, W); empty without ASFF.
        outer: the gradients of L by y^l.
        full: those by x^l; fixed: the same with constant weights.
    """

    def __init__(self, operation: type[nn.Module]):
        torch.manual_seed(0)
        # Levels of one stride and of as many channels need no resizing.
        self.fusion = PyramidFusion(
            operation, in_channels=[CHANNELS] * LEVELS, strides=[8] * LEVELS, **LINEAR
        ).double()
        shape = (2, CHANNELS, HEIGHT, WIDTH)
        self.levels = [torch.randn(shape).double().requires_grad_() for _ in range(LEVELS)]
        slopes = torch.randn(LEVELS, *shape).double()
        self.weights = []
        for fuse in self.fusion.fuse:
            if isinstance(fuse, AdaptiveFusion):
                fuse.softmax.register_forward_hook(lambda *x: self.weights.append(x[-1].detach()))
        fused = self.fusion(self.levels)
        loss = self.loss(fused, slopes)
        self.outer = torch.autograd.grad(loss, fused, retain_graph=True)
        self.full = torch.autograd.grad(loss, self.levels)
        if self.weights:
            again = fuse_by_weights(self.fusion, self.levels, self.weights)
            torch.testing.assert_close(again, fused, rtol=0, atol=0)
            self.fixed = torch.autograd.grad(self.loss(again, slopes), self.levels)

    @staticmethod
    def loss(fused: Sequence[Tensor], slopes: Tensor) -> Tensor:
        y1, y2, y3 = fused
        return (slopes * torch.stack(fused)).sum() + (y1 * y2 * y3).sum() + (y1**3).sum()


@pytest.fixture(scope="module")
def adaptive() -> IdentityCase:
    return IdentityCase(partial(AdaptiveFusion, weight_channels=2, **LINEAR))


def test_equation_6(adaptive):
    """dL/dx^1_ij = sum over n of alpha^n_ij dL/dy^n_ij, at every location."""
    for level in range(LEVELS):
        for image, y, x in np.ndindex(2, HEIGHT, WIDTH):
            expected = sum(
                adaptive.weights[n][image, level, y, x].double() * adaptive.outer[n][image, :, y, x]
                for n in range(LEVELS)
            )
            found = adaptive.fixed[level][image, :, y, x]
            torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


def test_equation_6_neglects_the_gradient_through_the_weights(adaptive):
    """By hand: lambda is linear in x, and d alpha_m / d lambda_k = alpha_m ([m = k] - alpha_k)."""
    for level in range(LEVELS):
        expected = torch.zeros_like(adaptive.levels[level])
        for n, fuse in enumerate(adaptive.fusion.fuse):
            alpha = adaptive.weights[n].double()
            # Gradient by the weight of level m: x^m . dL/dy^n, (2, H, W).
            gain = [(x.detach() * adaptive.outer[n]).sum(dim=1) for x in adaptive.levels]
            kernel = fuse.logits.weight.detach()[:, :, 0, 0]  # (L, L 2)
            compress = fuse.compress[level].weight.detach()[:, :, 0, 0]  # (2, C)
            for k in range(LEVELS):
                by_lambda = sum(
                    gain[m] * alpha[:, m] * (int(m == k) - alpha[:, k]) for m in range(LEVELS)
                )
                by_x = kernel[k, 2 * level : 2 * level + 2] @ compress  # d lambda_k / d x, (C,)
                expected += by_lambda[:, None] * by_x[None, :, None, None]
        found = adaptive.full[level] - adaptive.fixed[level]
        assert found.abs().max() > 0.1
        # The weights are in float32.
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_equation_5():
    """A sum: dL/dx^1_ij = dL/dy^1_ij + dL/dy^2_ij + dL/dy^3_ij."""
    case = IdentityCase(SumFusion)
    for level in range(LEVELS):
        torch.testing.assert_close(case.full[level], sum(case.outer), rtol=0, atol=1e-6)


def make_model(fusion: str) -> YOLOv3:
    """Create a tiny detector in training mode, some of whose anchors predict an object."""
    torch.manual_seed(0)
    options = ("MODEL.YOLOV3.FUSION.NAME", fusion, "MODEL.YOLOV3.IGNORE_THRESH", 0.3)
    model = YOLOv3(detector_cfg(*TINY_DARKNET, *options)).train()
    for level in model.head.levels:
        nn.init.normal_(level.predict.weight, std=0.05)
        nn.init.normal_(level.predict.bias)
    return model


def make_batch(*boxes: Sequence[Sequence[float]]) -> list[dict]:
    """Create an image of noise for each list of boxes."""
    torch.manual_seed(1)
    return [
        {
            "image": torch.randint(256, (3, *SIZE), dtype=torch.uint8),
            "instances": make_instances(x, range(len(x)), image_size=SIZE),
        }
        for x in boxes
    ]


def slow_masks(matches: Matches, level: int) -> tuple[Tensor, Tensor]:
    """Return masks (N, R): positives of a level, negatives of the others at the same positions."""
    stride, anchors = STRIDES[level], Layout(*SIZE).anchors
    own, others = torch.zeros(2, *matches.obj_targets.shape, dtype=torch.bool)
    for image, targets in enumerate(matches.obj_targets.tolist()):
        locations = set()
        for i, anchor in enumerate(anchors):
            if anchor.stride == stride and targets[i] == 1:
                own[image, i] = True
                locations.add((anchor.x, anchor.y))
        for i, anchor in enumerate(anchors):
            large = max(anchor.stride, stride)
            inside = {(x * stride // large, y * stride // large) for x, y in locations}
            position = anchor.x * anchor.stride // large, anchor.y * anchor.stride // large
            if anchor.stride != stride and targets[i] == 0 and position in inside:
                others[image, i] = True
    return own, others


def the_rest(matches: Matches, level: int) -> Matches:
    """Return the part without the level's positives and the others' negatives beside them."""
    own, others = slow_masks(matches, level)
    strides = torch.tensor([anchor.stride for anchor in Layout(*SIZE).anchors])
    return replace(
        matches,
        positive=matches.positive & ~own.gather(1, matches.anchor_idx),
        shape_positive=matches.shape_positive
        & (strides[matches.shape_anchor_idx] != STRIDES[level]),
        obj_weights=matches.obj_weights * ~(own | others),
    )


@pytest.fixture(scope="module", params=FUSIONS)
def probe(request: pytest.FixtureRequest) -> GradientProbe:
    return GradientProbe(make_model(request.param), make_batch(BOXES, [], BOXES[:2]))


def test_locations_of_positives(probe):
    found = [probe.positive_locations(level).nonzero().tolist() for level in range(3)]
    # Image, y and x of the locations of the centres: x, y are (64, 48); (30, 40); (70, 40), then
    # (66, 67) and (66.5, 67.5).
    assert found == [[[0, 1, 2], [2, 1, 2]], [[0, 2, 1], [2, 2, 1]], [[0, 5, 8], [0, 8, 8]]]
    assert probe.matches.obj_targets.sum() == 7


def total_gradients(model: YOLOv3, batch: list[dict]) -> Iterator[Tensor]:
    """Return the gradients of a training step's total loss by the features x^l."""
    leaves = []

    def cut(neck: nn.Module, inputs: tuple, levels: list[Tensor]) -> list[Tensor]:
        leaves.extend(x.detach().requires_grad_() for x in levels)
        return leaves

    hook = model.backbone.neck.register_forward_hook(cut)
    losses = model(batch)
    hook.remove()
    sum(losses.values()).backward()
    return (x.grad.movedim(1, -1).double() for x in leaves)


def test_parts_add_up_to_the_total_gradient(probe):
    totals = total_gradients(probe.model, make_batch(BOXES, [], BOXES[:2]))
    for level, total in enumerate(totals):
        parts = [
            probe.gradient(level, matches, probe.predictions)
            for matches in (
                probe.positives_of(level),
                probe.negatives_beside(level),
                the_rest(probe.matches, level),
            )
        ]
        scale = total.abs().max()
        assert all(part.abs().max() > 1e-6 * scale for part in parts[::2])
        torch.testing.assert_close(sum(parts) / scale, total / scale, rtol=1e-4, atol=1e-5)


def slow_weight(weights: Tensor, size: Sequence[int], y: int, x: int) -> float:
    """Return the value of a map (H, W) at a location of a map of another size."""
    (height, width), (rows, columns) = weights.shape, size
    if height <= rows:
        return weights[y * height // rows, x * width // columns].item()
    step = height // rows
    return weights[step * y : step * (y + 1), step * x : step * (x + 1)].mean().item()


def test_means_of_a_batch(probe):
    """They agree with a loop over the locations."""
    adaptive = any(isinstance(x, AdaptiveFusion) for x in probe.model.modules())
    measured = measure_gradients(probe.model, [make_batch(BOXES, [], BOXES[:2])])
    for level, numbers in enumerate(measured):
        own, others, fixed = (
            probe.gradient(level, matches, predictions)
            for matches, predictions in (
                (probe.positives_of(level), probe.predictions),
                (probe.negatives_beside(level), probe.predictions),
                (probe.negatives_beside(level), probe.equation6 or probe.predictions),
            )
        )
        locations = probe.positive_locations(level).nonzero().tolist()
        num = len(locations)
        norms = [[part[i, y, x].norm().item() for part in (own, others)] for i, y, x in locations]
        dots = [(own[i, y, x] @ others[i, y, x]).item() for i, y, x in locations]
        means = [sum(values) / num for values in zip(*norms)]
        assert numbers.stride == STRIDES[level] and numbers.positives == (2, 2, 3)[level]
        assert [numbers.own, numbers.others] == pytest.approx(means, rel=1e-3)
        assert numbers.share == pytest.approx(means[1] / sum(means), rel=1e-3)
        if probe.model.backbone.fusion is None:
            assert numbers.others == numbers.share == 0 and numbers.cosine is None
        else:
            cosines = [dot / (a * b) for dot, (a, b) in zip(dots, norms)]
            assert numbers.cosine == pytest.approx(sum(cosines) / num, rel=1e-3, abs=1e-4)
        if not adaptive:
            assert numbers.weights is None and numbers.through_weights is None
            continue
        through = [(others - fixed)[i, y, x].norm().item() for i, y, x in locations]
        assert min(through) > 0
        assert numbers.through_weights == pytest.approx(sum(through) / num, rel=1e-3)
        weights = [
            sum(slow_weight(w[i, level], own.shape[1:3], y, x) for i, y, x in locations) / num
            for w in probe.weights
        ]
        assert numbers.weights == pytest.approx(weights, rel=1e-3)


@pytest.mark.parametrize("fusion", ["none", "asff"])
def test_no_objects(fusion):
    measured = measure_gradients(make_model(fusion), [make_batch([], [])])
    assert measured == [LevelGradients(stride, positives=0) for stride in STRIDES]


def test_means_are_over_the_locations_of_all_batches():
    first = {"own": [1.0, 2.0], "others": [0.0, 0.5], "cosine": [math.nan, -0.5]}
    second = {"own": [6.0], "others": [4.0], "cosine": [0.25]}
    parts = [
        {name: torch.tensor(x).double() for name, x in part.items()} for part in (first, second)
    ]
    parts[0]["weights"], parts[1]["weights"] = torch.tensor([[1, 0], [0.4, 0.6]]), torch.ones(1, 2)
    found = summarize(16, 5, parts)
    assert (found.stride, found.positives, found.own, found.others) == (16, 5, 3.0, 1.5)
    assert found.share == 1 / 3 and found.cosine == -0.125 and found.through_weights is None
    assert found.weights == pytest.approx([0.8, 1.6 / 3])
