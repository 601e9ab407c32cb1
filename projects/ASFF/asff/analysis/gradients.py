"""Where the gradient of the features x^l comes from (paper 3.3, Equations 3 to 6).

Shape letters: N images, L levels (coarsest first), C channels, H and W of a level, R rows, P cells
of level l that hold a positive.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..modeling import AdaptiveFusion, DensePredictions, GroundTruth, Matches, YOLOv3


@dataclass
class LevelGradients:
    """What reaches x^l at the cells of level l that hold a positive.

    Norms are over channels, means over these cells. None: there is nothing to take a mean of.

    Attributes:
        stride: of level l, in pixels.
        positives: rows of level l that answer for a truth.
        own: mean norm of what comes from the positives of level l, through all loss terms.
        others: mean norm of what comes from the other levels' negatives at the same places.
        share: others / (own + others).
        cosine: mean cosine between these two; -1 where negatives undo what positives ask for.
        weights: L means, of the weights that each level n gives to x^{l->n} at the same places: the
            coefficients of Equation 6. None unless ASFF fuses.
        through_weights: mean norm of that part of ``others`` that passes through the weights
            (lambda), which Equation 6 leaves out. None unless ASFF fuses.
    """

    stride: int
    positives: int
    own: float | None = None
    others: float | None = None
    share: float | None = None
    cosine: float | None = None
    weights: list[float] | None = None
    through_weights: float | None = None


def measure_gradients(model: YOLOv3, batches: Iterable[Sequence[dict]]) -> list[LevelGradients]:
    """Measure how consistent the gradient of the neck's outputs x^l is.

    A positive's cell covers a square of pixels. The same place is, at a finer level, the cells in
    this square, and at a coarser level the cell that contains it. Negatives are the background rows
    there that have an objectness loss.

    Losses of a kind are differentiated together, so a cell also gets what 3x3 convolutions bring
    from its neighbours. What negatives bring to cells beside the positive's is not measured, nor
    what comes through the neck's top-down path, which is no part of Equation 3.

    Args:
        model: in the mode to be measured. In training mode its running statistics are updated.
        batches: lists of dicts with ``image`` and ``instances``.

    Returns:
        L measurements.
    """
    strides = model.head.anchor_generator.strides
    levels = range(len(strides))
    positives, cells = [0 for _ in levels], [[] for _ in levels]
    for batch in batches:
        probe = GradientProbe(model, batch)
        for level in levels:
            positives[level] += int(probe.matches.obj_targets[:, probe.rows_of(level)].sum())
            cells[level].append(probe.measure(level))
    return [
        summarize(*found) for found in zip(strides, positives, cells)
    ]


def summarize(stride: int, positives: int, cells: Sequence[dict[str, Tensor]]) -> LevelGradients:
    """Means over the cells that :meth:`GradientProbe.measure` found in several batches."""
    means = {name: torch.cat([found[name] for found in cells]).nanmean(dim=0) for name in cells[0]}
    means["share"] = means["others"] / (means["own"] + means["others"])
    values = {name: None if x.isnan().any() else x.tolist() for name, x in means.items()}
    return LevelGradients(stride, positives, **values)


class GradientProbe:
    """The loss of one batch, to be differentiated by the features x^l, part by part.

    Args:
        model: see :func:`measure_gradients`.
        batch: N dicts with ``image`` and ``instances``.

    Attributes:
        levels: the features x^l (N, C, H, W); the graph begins at them.
        predictions, matches, truths: of the batch.
        weights: L spatial importance weights (N, L, H, W), [n][:, l] those of x^{l->n}; none unless
            ASFF fuses.
        equation6: predictions of the same values, whose graph leaves out the way through the
            weights; None unless ASFF fuses.
    """

    def __init__(self, model: YOLOv3, batch: Sequence[dict]):
        self.model = model
        images = model.preprocess_image(batch)
        self.image_area = float(images.tensor.shape[-2:].numel())
        backbone = model.backbone
        with torch.no_grad():
            features = backbone.bottom_up(images.tensor)
            levels = backbone.neck([features[name] for name in backbone.in_features])
        self.levels = [x.requires_grad_() for x in levels]
        with recorded_weights(backbone) as self.weights:
            self.predictions = self.predict()
        self.truths = GroundTruth.from_instances([x["instances"].to(model.device) for x in batch])
        self.matches = model.label_anchors(self.predictions, self.truths)
        self.equation6 = None
        if self.weights:
            with detached_weights(backbone):
                self.equation6 = self.predict()

    def predict(self) -> DensePredictions:
        """Fusion, where there is one, and head."""
        fusion = self.model.backbone.fusion
        return self.model.head(self.levels if fusion is None else fusion(self.levels))

    def gradient(self, level: int, matches: Matches, predictions: DensePredictions) -> Tensor:
        """(N, H, W, C), float64: the gradient by x^l of the loss of these matches."""
        losses = self.model.losses(predictions, matches, self.truths, self.image_area)
        x = self.levels[level]
        (gradient,) = torch.autograd.grad(sum(losses.values()), x, retain_graph=True)
        return gradient.movedim(1, -1).double()

    def measure(self, level: int) -> dict[str, Tensor]:
        """The numbers of :class:`LevelGradients` for each of the level's P cells: (P,) or (P, L).

        The cosine is NaN where nothing comes from the others.
        """
        cells = self.positive_cells(level)
        negatives = self.negatives_beside(level)
        own = self.gradient(level, self.positives_of(level), self.predictions)[cells]  # (P, C)
        others = self.gradient(level, negatives, self.predictions)[cells]
        found = {"own": own.norm(dim=1), "others": others.norm(dim=1)}
        found["cosine"] = (own * others).sum(dim=1) / (found["own"] * found["others"])
        if self.equation6 is not None:
            through_features = self.gradient(level, negatives, self.equation6)[cells]
            found["through_weights"] = (others - through_features).norm(dim=1)
            # Means over the cells of a finer level, copies of those of a coarser one.
            weights = [F.adaptive_avg_pool2d(w[:, level], cells.shape[1:]) for w in self.weights]
            found["weights"] = torch.stack(weights, dim=-1)[cells]
        return found

    def rows_of(self, level: int) -> Tensor:
        """(R,): which rows belong to a level."""
        return self.predictions.grid.levels == level

    def positive_cells(self, level: int) -> Tensor:
        """(N, H, W): which cells of a level hold a positive."""
        targets = self.matches.obj_targets[:, self.rows_of(level)]
        height, width = self.predictions.grid.level_shapes[level]
        return targets.view(len(targets), -1, height, width).bool().any(dim=1)

    def rows_beside(self, level: int) -> Tensor:
        """(N, R): which rows of other levels are at the same places as the level's positives."""
        cells = self.positive_cells(level).float()
        rows = []
        num_anchors = self.model.head.anchor_generator.num_anchors
        for count, size in zip(num_anchors, self.predictions.grid.level_shapes):
            # A finer level gets copies of a cell; of a coarser one a cell holds several.
            there = F.adaptive_max_pool2d(cells, size).bool()
            rows.append(there.flatten(1).repeat(1, count))
        return torch.cat(rows, dim=1) & ~self.rows_of(level)

    def positives_of(self, level: int) -> Matches:
        """The part of the matches that makes the loss of a level's positives."""
        matches, here = self.matches, self.rows_of(level)
        return replace(
            matches,
            positive=matches.positive & here[matches.anchor_idx],
            shape_positive=matches.shape_positive & here[matches.shape_anchor_idx],
            obj_weights=matches.obj_weights * matches.obj_targets * here,
        )

    def negatives_beside(self, level: int) -> Matches:
        """The part that makes the loss of the other levels' negatives at the same places."""
        matches = self.matches
        negative = self.rows_beside(level) & (matches.obj_targets == 0)
        return replace(
            matches,
            positive=torch.zeros_like(matches.positive),
            shape_positive=torch.zeros_like(matches.shape_positive),
            obj_weights=matches.obj_weights * negative,
        )


@contextmanager
def recorded_weights(module: nn.Module) -> Iterator[list[Tensor]]:
    """Within, a list gets the spatial importance weights (N, L, H, W) of each adaptive fusion."""
    weights = []

    def record(softmax: nn.Module, inputs: tuple, output: Tensor) -> None:
        weights.append(output.detach())

    hooks = [fuse.softmax.register_forward_hook(record) for fuse in adaptive_fusions(module)]
    try:
        yield weights
    finally:
        for hook in hooks:
            hook.remove()


@contextmanager
def detached_weights(module: nn.Module) -> Iterator[None]:
    """Within, gradient reaches x^l through the resized features alone, as in Equation 6."""
    hooks = [
        fuse.logits.register_forward_hook(lambda layer, inputs, logits: logits.detach())
        for fuse in adaptive_fusions(module)
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def adaptive_fusions(module: nn.Module) -> list[AdaptiveFusion]:
    return [part for part in module.modules() if isinstance(part, AdaptiveFusion)]
