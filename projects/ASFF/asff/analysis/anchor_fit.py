"""Anchors that fit a dataset: k-means over the shapes of its boxes, with their IoU as similarity.

Shape letters: M boxes, K anchors.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from detectron2.config import CfgNode
from torch import Tensor
from tqdm import trange

from ..modeling import shape_iou

# More of either changed the mean IoU by less than 0.002 on BCCD, generated and 860,000 drawn boxes.
STARTS, SAMPLE = 20, 20_000
MAX_STEPS = 300
POOR_IOU = 0.5
CHUNK = 100_000  # boxes compared with the anchors at a time, to bound the memory


@dataclass(frozen=True)
class Fit:
    """How well anchors fit boxes, each box taken with the anchor that fits it best."""

    mean_iou: float  # of shapes
    poor: float  # share of boxes with an IoU under POOR_IOU
    levels: list[float]  # share of boxes per level


def read_anchors(cfg: CfgNode) -> tuple[Tensor, list[int]]:
    """The anchors of a config: (K, 2) in pixels, and how many each level has.

    Raises:
        ValueError: the detector has none, or they are not (width, height) per level.
    """
    if cfg.MODEL.META_ARCHITECTURE != "YOLOv3":
        raise ValueError(
            f"MODEL.META_ARCHITECTURE is '{cfg.MODEL.META_ARCHITECTURE}', but only the anchors of "
            "'YOLOv3' are single shapes that can be fitted. Use a config of that."
        )
    levels, features = cfg.MODEL.YOLOV3.ANCHORS, cfg.MODEL.YOLOV3.IN_FEATURES
    try:
        anchors = torch.cat([torch.tensor(level, dtype=torch.float64) for level in levels])
        valid = anchors.dim() == 2 and anchors.shape[1] == 2 and bool((anchors > 0).all())
    except (TypeError, ValueError, RuntimeError):
        valid = False
    if not valid or len(levels) != len(features):
        raise ValueError(
            f"MODEL.YOLOV3.ANCHORS is {levels}: write a list for each of the {len(features)} "
            "MODEL.YOLOV3.IN_FEATURES, of anchors [width, height] in pixels above 0."
        )
    return anchors, [len(level) for level in levels]


def best_ious(sizes: Tensor, anchors: Tensor) -> tuple[Tensor, Tensor]:
    """Per box (M, 2), the IoU with and the index of the anchor (K, 2) that fits it best: (M,)."""
    parts = [shape_iou(part[:, None], anchors).max(dim=1) for part in sizes.split(CHUNK)]
    return torch.cat([part.values for part in parts]), torch.cat([part.indices for part in parts])


def measure(sizes: Tensor, anchors: Tensor, counts: Sequence[int]) -> Fit:
    """Compare boxes (M, 2) with anchors (K, 2), of which each level has so many."""
    ious, nearest = best_ious(sizes, anchors)
    per_anchor = torch.bincount(nearest, minlength=len(anchors)).double() / len(sizes)
    levels = [float(level.sum()) for level in per_anchor.split(list(counts))]
    return Fit(float(ious.mean()), float((ious < POOR_IOU).double().mean()), levels)


def refine(sizes: Tensor, anchors: Tensor) -> tuple[Tensor, float]:
    """Lloyd's steps with the IoU of shapes, until no box (M, 2) changes its anchor (K, 2).

    A cluster's centre is the median width and height: where one shape lies inside the other,
    -log IoU = |log w - log w'| + |log h - log h'|, whose sum the median makes least. Where shapes
    cross this no longer holds, so the mean IoU need not rise with every step: the best is kept.

    Returns:
        The best anchors seen, and their mean IoU; never worse than the given ones.
    """
    best, best_mean, previous = anchors, 0.0, None
    for _ in range(MAX_STEPS):
        ious, nearest = best_ious(sizes, anchors)
        if ious.mean() > best_mean:
            best, best_mean = anchors, float(ious.mean())
        if previous is not None and torch.equal(nearest, previous):
            break
        previous = nearest
        clusters = [sizes[nearest == k] for k in range(len(anchors))]
        pairs = zip(clusters, anchors)
        anchors = torch.stack([x.median(dim=0).values if len(x) else old for x, old in pairs])
    return best, best_mean


def fit_anchors(sizes: Tensor, num_anchors: int, seed: int) -> Tensor:
    """The best of several clusterings of boxes.

    k-means of scikit-learn knows no IoU. On logarithms its distance is one of ratios, as IoU is, so
    each clustering starts from there.

    Args:
        sizes: (M, 2), width and height in pixels.
        seed: of all that is random here.

    Returns:
        (num_anchors, 2): in whole pixels, by ascending area.

    Raises:
        ValueError: there are fewer shapes than anchors, or scikit-learn is not installed.
    """
    try:
        from sklearn.cluster import KMeans
    except ImportError as error:
        raise ValueError("scikit-learn is not installed: `make setup` brings it.") from error
    num_shapes = len(whole_pixels(sizes).unique(dim=0))
    if num_shapes < num_anchors:
        raise ValueError(
            f"The boxes of DATASETS.TRAIN have {num_shapes} different shapes in whole pixels, too "
            f"few for the {num_anchors} anchors of MODEL.YOLOV3.ANCHORS. Write fewer anchors "
            "there, or keep the ones you have."
        )
    rng = np.random.RandomState(seed)
    sample = sizes[rng.permutation(len(sizes))[:SAMPLE]]
    clusterings = []
    for _ in trange(STARTS, desc="clustering", unit="start"):
        kmeans = KMeans(num_anchors, n_init=1, random_state=rng).fit(sample.log().numpy())
        clusterings.append(refine(sample, torch.from_numpy(kmeans.cluster_centers_).exp()))
    best, _ = max(clusterings, key=lambda clustering: clustering[1])
    anchors = whole_pixels(best)
    return anchors[anchors.prod(dim=1).argsort(stable=True)]


def whole_pixels(sizes: Tensor) -> Tensor:
    return sizes.round().clamp(min=1)
