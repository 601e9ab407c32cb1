"""Measure where the gradient of the features x^l comes from (paper 3.3, Equations 3 to 6).

Shape letters: N images, L levels (coarsest first), C channels, H and W of a level, R all anchors of
an image, P locations of level l with a positive anchor.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from ..modeling import (
    AdaptiveFusion,
    DensePredictions,
    GroundTruth,
    Matches,
    PyramidFusion,
    YOLOv3,
)
from .fusion_maps import FusionRecorder

STAGES = ("before", "after")  # of training


@dataclass
class LevelGradients:
    """The gradient by x^l at the locations of level l with a positive anchor.

    Norms are over channels, means over these locations. None: there is nothing to average.

    Attributes:
        stride: of level l, in pixels.
        positives: number of positive anchors of level l.
        own: mean norm of the gradient of level l's positives, through all loss terms.
        others: mean norm of the gradient of the other levels' negatives at the same positions.
        share: others / (own + others).
        cosine: mean cosine between these two; -1 if the negatives cancel the positives.
        weights: L means of the weight that each level n gives to x^{l->n} at the same positions:
            the coefficients of Equation 6. None without ASFF.
        through_weights: mean norm of the part of ``others`` that passes through the weights
            (lambda), which Equation 6 neglects. None without ASFF.
    """

    stride: int
    positives: int
    own: float | None = None
    others: float | None = None
    share: float | None = None
    cosine: float | None = None
    weights: list[float] | None = None
    through_weights: float | None = None


@dataclass
class Measurement:
    """The gradients of a detector.

    Attributes:
        label: of the detector.
        stage: of its training, one of :data:`STAGES`.
        config_file, weights: of the model; no weights: a random initialisation.
        levels: coarsest first.
    """

    label: str
    stage: str
    config_file: str
    weights: str
    levels: list[LevelGradients]


def measure_gradients(model: YOLOv3, batches: Iterable[Sequence[dict]]) -> list[LevelGradients]:
    """Measure how consistent the gradient of the neck's outputs x^l is.

    The location of a positive covers a square of pixels. The same position is, at a finer level,
    every location in this square, and at a coarser level the location that contains it. Negatives
    are the background anchors there that have an objectness loss.

    All losses of a kind are differentiated together, so the gradient at a location includes what
    3x3 convolutions bring from its neighbours. Neither the gradient of negatives at the neighbours
    of the positive's location is measured nor what passes through the neck's top-down path, which
    is not part of Equation 3.

    Args:
        model: in the mode to be measured. In training mode its running statistics are updated.
        batches: lists of dicts with ``image`` and ``instances``.

    Returns:
        L measurements.
    """
    strides = model.head.anchor_generator.strides
    levels = range(len(strides))
    positives, parts = [0 for _ in levels], [[] for _ in levels]
    for batch in batches:
        probe = GradientProbe(model, batch)
        for level in levels:
            positives[level] += int(probe.matches.obj_targets[:, probe.anchors_of(level)].sum())
            parts[level].append(probe.measure(level))
    return [summarize(*measured) for measured in zip(strides, positives, parts)]


def summarize(stride: int, positives: int, parts: Sequence[dict[str, Tensor]]) -> LevelGradients:
    """Average over the locations of several batches, measured by :meth:`GradientProbe.measure`."""
    means = {name: torch.cat([part[name] for part in parts]).nanmean(dim=0) for name in parts[0]}
    means["share"] = means["others"] / (means["own"] + means["others"])
    values = {name: None if x.isnan().any() else x.tolist() for name, x in means.items()}
    return LevelGradients(stride, positives, **values)


class GradientProbe:
    """The loss of one batch, to be differentiated by the features x^l, part by part.

    See :func:`measure_gradients` for the arguments.

    Attributes:
        levels: the features x^l (N, C, H, W); the graph begins at them.
        predictions, matches, gt: of the batch.
        weights: L spatial importance weights (N, L, H, W), [n][:, l] those of x^{l->n}; empty
            without ASFF.
        equation6: the same predictions, computed from detached weights; None without ASFF.
    """

    def __init__(self, model: YOLOv3, batch: Sequence[dict]):
        self.model = model
        images = model.preprocess_image(batch)
        self.image_area = float(images.tensor.shape[-2:].numel())
        backbone, fusion = model.backbone, model.backbone.fusion
        with torch.no_grad():
            features = backbone.bottom_up(images.tensor)
            levels = backbone.neck([features[name] for name in backbone.in_features])
        self.levels = [x.requires_grad_() for x in levels]
        self.weights, self.equation6 = [], None
        if fusion is None:
            self.predictions = model.head(self.levels)
        elif isinstance(fusion.fuse[0], AdaptiveFusion):
            with FusionRecorder(model) as recorder:
                self.predictions = model.head(fusion(self.levels))
            self.weights = [maps.weights for maps in recorder.maps.values()]
            self.equation6 = model.head(fuse_by_weights(fusion, self.levels, self.weights))
        else:
            self.predictions = model.head(fusion(self.levels))
        self.gt = GroundTruth.from_instances([x["instances"].to(model.device) for x in batch])
        self.matches = model.label_anchors(self.predictions, self.gt)

    def gradient(self, level: int, matches: Matches, predictions: DensePredictions) -> Tensor:
        """Return the gradient by x^l of the loss of these matches: (N, H, W, C), float64."""
        losses = self.model.losses(predictions, matches, self.gt, self.image_area)
        x = self.levels[level]
        (gradient,) = torch.autograd.grad(sum(losses.values()), x, retain_graph=True)
        return gradient.movedim(1, -1).double()

    def measure(self, level: int) -> dict[str, Tensor]:
        """Return the values of :class:`LevelGradients` at the level's P locations: (P,) or (P, L).

        The cosine is NaN where the gradient of the others is zero.
        """
        locations = self.positive_locations(level)
        negatives = self.negatives_beside(level)
        own = self.gradient(level, self.positives_of(level), self.predictions)[locations]  # (P, C)
        others = self.gradient(level, negatives, self.predictions)[locations]
        values = {"own": own.norm(dim=1), "others": others.norm(dim=1)}
        values["cosine"] = (own * others).sum(dim=1) / (values["own"] * values["others"])
        if self.equation6 is not None:
            through_features = self.gradient(level, negatives, self.equation6)[locations]
            values["through_weights"] = (others - through_features).norm(dim=1)
            # Means over the locations of a finer level, copies of those of a coarser one.
            shape = locations.shape[1:]
            weights = [F.adaptive_avg_pool2d(w[:, level], shape) for w in self.weights]
            values["weights"] = torch.stack(weights, dim=-1)[locations]
        return values

    def anchors_of(self, level: int) -> Tensor:
        """Return a mask (R,) of the anchors of a level."""
        return self.predictions.grid.levels == level

    def positive_locations(self, level: int) -> Tensor:
        """Return a mask (N, H, W) of the locations of a level with a positive anchor."""
        targets = self.matches.obj_targets[:, self.anchors_of(level)]
        height, width = self.predictions.grid.level_shapes[level]
        return targets.view(len(targets), -1, height, width).bool().any(dim=1)

    def _anchors_beside(self, level: int) -> Tensor:
        """Return a mask (N, R) of the other levels' anchors at the positions of positives."""
        locations = self.positive_locations(level).float()
        num_anchors = self.model.head.anchor_generator.num_anchors
        masks = [
            # A finer level has copies of a location; one of a coarser level contains several.
            F.adaptive_max_pool2d(locations, shape).bool().flatten(1).repeat(1, count)
            for count, shape in zip(num_anchors, self.predictions.grid.level_shapes)
        ]
        return torch.cat(masks, dim=1) & ~self.anchors_of(level)

    def positives_of(self, level: int) -> Matches:
        """Return the part of the matches for the loss of a level's positives."""
        matches, mask = self.matches, self.anchors_of(level)
        return replace(
            matches,
            positive=matches.positive & mask[matches.anchor_idx],
            shape_positive=matches.shape_positive & mask[matches.shape_anchor_idx],
            obj_weights=matches.obj_weights * matches.obj_targets * mask,
        )

    def negatives_beside(self, level: int) -> Matches:
        """Return the part for the loss of the other levels' negatives at its positives."""
        matches = self.matches
        negative = self._anchors_beside(level) & (matches.obj_targets == 0)
        return replace(
            matches,
            positive=torch.zeros_like(matches.positive),
            shape_positive=torch.zeros_like(matches.shape_positive),
            obj_weights=matches.obj_weights * negative,
        )


def fuse_by_weights(
    fusion: PyramidFusion, levels: Sequence[Tensor], weights: Sequence[Tensor]
) -> list[Tensor]:
    """Fuse by given weights (Equation 1): gradient passes through the resized features alone.

    Args:
        levels: L features x^l (N, C, H, W).
        weights: of each level, (N, L, H, W).

    Returns:
        The L fused features y^l.
    """
    fused = []
    for target, resizes, level_weights in zip(levels, fusion.resize, weights):
        resized = [resize(x, target.shape[-2:]) for resize, x in zip(resizes, levels)]
        fused.append(sum(level_weights[:, [n]] * x for n, x in enumerate(resized)))
    return fused
