"""Fit anchors to a dataset: k-means over the shapes of its boxes, with their IoU as similarity.

Shape letters: M boxes, K anchors.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import yaml
from detectron2.config import CfgNode
from fvcore.common.config import BASE_KEY
from tabulate import tabulate
from torch import Tensor
from tqdm import tqdm, trange

from ..data import resized_shape
from ..data.boxes import corner_boxes
from ..modeling import shape_iou

# Larger values changed the mean IoU by less than 0.002 on BCCD, generated and 860,000 drawn boxes.
STARTS, SAMPLE = 20, 20_000  # clusterings, and boxes of each
MAX_STEPS = 300
POOR_IOU = 0.5
CHUNK = 100_000  # boxes compared with the anchors at a time, to bound the memory


@dataclass(frozen=True)
class Fit:
    """How well anchors fit boxes, each compared with the anchor of the highest IoU."""

    mean_iou: float  # of shapes
    poor: float  # fraction of boxes with an IoU under POOR_IOU
    levels: list[float]  # fraction of boxes per level


def read_anchors(cfg: CfgNode) -> tuple[Tensor, list[int]]:
    """Read the anchors of a config: (K, 2) in pixels, and how many each level has.

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
    """Return each box's (M, 2) highest IoU with an anchor (K, 2), and that anchor's index: (M,)."""
    parts = [shape_iou(part[:, None], anchors).max(dim=1) for part in sizes.split(CHUNK)]
    return torch.cat([part.values for part in parts]), torch.cat([part.indices for part in parts])


def measure(sizes: Tensor, anchors: Tensor, counts: Sequence[int]) -> Fit:
    """Measure how well anchors (K, 2) fit boxes (M, 2).

    Args:
        counts: number of anchors per level.
    """
    ious, nearest = best_ious(sizes, anchors)
    per_anchor = torch.bincount(nearest, minlength=len(anchors)).double() / len(sizes)
    levels = [float(level.sum()) for level in per_anchor.split(list(counts))]
    return Fit(float(ious.mean()), float((ious < POOR_IOU).double().mean()), levels)


def refine(sizes: Tensor, anchors: Tensor) -> tuple[Tensor, float]:
    """Run Lloyd's algorithm with the IoU of shapes, until no box (M, 2) changes its anchor (K, 2).

    A cluster's centre is the median width and height: if one shape lies inside the other,
    -log IoU = |log w - log w'| + |log h - log h'|, whose sum the median minimizes. If shapes cross,
    this does not hold, and a step can lower the mean IoU: the best anchors are kept.

    Returns:
        The best anchors, and their mean IoU; never worse than the given ones.
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
    """Cluster boxes several times, and return the best clustering.

    k-means of scikit-learn does not support IoU. On logarithms its distance is one of ratios, as
    IoU is, so each clustering starts from its result.

    Args:
        sizes: (M, 2), width and height in pixels.
        seed: seed of the samples and the clusterings.

    Returns:
        Anchors (num_anchors, 2) in whole pixels, by ascending area.

    Raises:
        ValueError: there are fewer shapes than anchors, or scikit-learn is not installed.
    """
    try:
        from sklearn.cluster import KMeans
    except ImportError as error:
        raise ValueError("scikit-learn is not installed: `make setup` brings it.") from error
    num_shapes = len(_whole_pixels(sizes).unique(dim=0))
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
    anchors = _whole_pixels(best)
    return anchors[anchors.prod(dim=1).argsort(stable=True)]


def _whole_pixels(sizes: Tensor) -> Tensor:
    return sizes.round().clamp(min=1)


def box_sizes(cfg: CfgNode, dataset_dicts: Sequence[dict]) -> tuple[Tensor, int, int]:
    """Compute the width and height of boxes at the size of the test images.

    Returns:
        Sizes (M, 2) in pixels, clipped to the image; then the numbers of boxes that were left out:
        crowds, and degenerate boxes (zero area inside the image).
    """
    annotations, limits, scales, num_crowds = [], [], [], 0
    for dataset_dict in tqdm(dataset_dicts, desc="reading boxes", unit="image"):
        height, width = dataset_dict["height"], dataset_dict["width"]
        new_height, new_width = resized_shape(cfg, height, width)
        for annotation in dataset_dict.get("annotations", ()):
            if annotation.get("iscrowd", 0):
                num_crowds += 1
                continue
            annotations.append(annotation)
            limits.append((width, height))
            scales.append((new_width / width, new_height / height))
    corners = torch.from_numpy(corner_boxes(annotations))
    limits = torch.tensor(limits, dtype=torch.float64).view(-1, 2)
    visible = torch.minimum(corners[:, 2:], limits) - corners[:, :2].clamp(min=0)
    sizes = visible * torch.tensor(scales, dtype=torch.float64).view(-1, 2)
    has_area = (sizes > 0).all(dim=1)
    return sizes[has_area], num_crowds, int((~has_area).sum())


def compare_fits(cfg: CfgNode, before: Fit, after: Fit) -> str:
    """Format both fits side by side, then the anchors of ``cfg`` per feature."""
    options = cfg.MODEL.YOLOV3
    rows = [
        ("mean best IoU", f"{before.mean_iou:.3f}", f"{after.mean_iou:.3f}"),
        (f"boxes with best IoU under {POOR_IOU}", f"{before.poor:.1%}", f"{after.poor:.1%}"),
    ]
    for feature, old, new in zip(options.IN_FEATURES, before.levels, after.levels):
        rows.append((f"boxes at {feature}", f"{old:.1%}", f"{new:.1%}"))
    align = ("left", "right", "right")
    table = tabulate(rows, ["", "before", "after"], disable_numparse=True, colalign=align)
    anchors = [
        f"Anchors at {feature}: {', '.join(f'{w} x {h}' for w, h in level)}"
        for feature, level in zip(options.IN_FEATURES, options.ANCHORS)
    ]
    return "\n".join([table, *anchors])


def check_new_config(file: Path) -> None:
    """Raise a ValueError if ``file`` is no config that can be written anew."""
    if file.suffix not in (".yaml", ".yml"):
        raise ValueError(f"--output {file}: name the config to write, with its suffix .yaml.")
    if file.exists():
        raise ValueError(f"{file} exists and is not overwritten: remove it, or name another file.")
    if not os.access(file.parent, os.W_OK):
        raise ValueError(f"{file} cannot be written: {file.parent} is no folder one can write to.")


def write_config(
    file: Path, cfg: CfgNode, base: Path, keys: Sequence[str], before: Fit, after: Fit
) -> None:
    """Write a config that adds the anchors, and the values of other keys, to a base.

    Args:
        cfg: has the values.
        base: the config that ``cfg`` was read from.
        keys: keys to write beside the anchors.
    """
    changed = CfgNode()
    for key in (*keys, "MODEL.YOLOV3.ANCHORS"):
        *parents, name = key.split(".")
        source, target = cfg, changed
        for parent in parents:
            source, target = source[parent], target.setdefault(parent, CfgNode())
        target[name] = source[name]
    file.write_text(
        f"# Anchors fitted to {', '.join(cfg.DATASETS.TRAIN)} by asff fit-anchors.\n"
        f"# Mean best IoU: {before.mean_iou:.3f} before, {after.mean_iou:.3f} after. "
        f"Boxes under {POOR_IOU}: {before.poor:.1%} before, {after.poor:.1%} after.\n"
        + yaml.safe_dump({BASE_KEY: base_path(base, file)})
        + changed.dump(default_flow_style=None)
    )


def base_path(base: Path, file: Path) -> str:
    """Return the ``_BASE_`` of a config that is written to ``file``.

    It is relative, so that both can be moved together; absolute if they share only the root.
    """
    base = base.parent.resolve() / base.name
    folder = file.parent.resolve()
    if os.path.commonpath([base, folder]) == os.path.sep:
        return str(base)
    return os.path.relpath(base, folder)
