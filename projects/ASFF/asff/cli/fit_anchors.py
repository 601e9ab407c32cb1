#!/usr/bin/env python
"""Fits the anchors of a YOLOv3 to the boxes it is trained on, and writes a config that uses them.

    python tools/fit_anchors.py --config-file FILE OUT.yaml [--seed 0] [KEY VALUE ...]
    python train_net.py --config-file OUT.yaml

The boxes of DATASETS.TRAIN, at the size of the test images, are clustered by k-means with the IoU
of shapes as similarity. OUT.yaml builds on FILE, says the KEY VALUE pairs too, and has as many
anchors on each feature as FILE.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path

from ..analysis.anchor_fit import POOR_IOU, Fit, fit_anchors, measure, read_anchors

# First, for it says what is not installed.
from ..data import check_datasets, check_input, load_training_dicts
from ..data.boxes import corner_boxes
from ..data.build import resized_shape
from ..engine import user_errors
from ..engine.setup import load_config, setup_datasets

# isort: split
import torch
import yaml
from detectron2.config import CfgNode
from detectron2.utils.logger import setup_logger
from fvcore.common.config import BASE_KEY
from tabulate import tabulate
from torch import Tensor
from tqdm import tqdm


def box_sizes(cfg: CfgNode, dicts: Sequence[dict]) -> tuple[Tensor, int, int]:
    """Width and height of boxes as the network sees them in a test.

    Args:
        dicts: Detectron2's dataset dicts.

    Returns:
        (boxes, 2) in pixels, clipped to the image, then how many boxes were left out: crowds,
        and those without area in the image.
    """
    objects, limits, scales, crowds = [], [], [], 0
    for record in tqdm(dicts, desc="reading boxes", unit="image"):
        height, width = record["height"], record["width"]
        new_height, new_width = resized_shape(cfg, height, width)
        limit, scale = (width, height), (new_width / width, new_height / height)
        for annotation in record.get("annotations", ()):
            if annotation.get("iscrowd", 0):
                crowds += 1
                continue
            objects.append(annotation)
            limits.append(limit)
            scales.append(scale)
    corners = torch.from_numpy(corner_boxes(objects))
    limits = torch.tensor(limits, dtype=torch.float64).view(-1, 2)
    visible = torch.minimum(corners[:, 2:], limits) - corners[:, :2].clamp(min=0)
    sizes = visible * torch.tensor(scales, dtype=torch.float64).view(-1, 2)
    has_area = (sizes > 0).all(dim=1)
    return sizes[has_area], crowds, int((~has_area).sum())


def base_path(config_file: Path, out: Path) -> str:
    """Where ``_BASE_`` of ``out`` finds a config.

    Relative, so that both can be moved together; absolute where they share no folder but the root.
    """
    config_file = config_file.parent.resolve() / config_file.name
    folder = out.parent.resolve()
    if os.path.commonpath([config_file, folder]) == os.path.sep:
        return str(config_file)
    return os.path.relpath(config_file, folder)


def check_out(out: Path) -> None:
    """Raise a ValueError where ``out`` is no file that can be written anew."""
    if out.suffix not in (".yaml", ".yml"):
        raise ValueError(f"OUT.yaml is '{out}': name the config to write, with its suffix .yaml.")
    if out.exists():
        raise ValueError(f"{out} exists and is not overwritten: remove it, or name another file.")
    if not os.access(out.parent, os.W_OK):
        raise ValueError(f"{out} cannot be written: {out.parent} is no folder one can write to.")


def overrides(cfg: CfgNode, keys: Sequence[str]) -> CfgNode:
    """A config of these keys alone."""
    chosen = CfgNode()
    for key in keys:
        *parents, name = key.split(".")
        source, target = cfg, chosen
        for parent in parents:
            source, target = source[parent], target.setdefault(parent, CfgNode())
        target[name] = source[name]
    return chosen


def write_config(cfg: CfgNode, args: argparse.Namespace, before: Fit, after: Fit) -> None:
    """Write what ``cfg`` says beyond --config-file: the KEY VALUE pairs and the anchors."""
    changed = overrides(cfg, [*args.opts[::2], "MODEL.YOLOV3.ANCHORS"])
    args.out.write_text(
        f"# Anchors fitted to {', '.join(cfg.DATASETS.TRAIN)} by tools/fit_anchors.py.\n"
        f"# Mean best IoU: {before.mean_iou:.3f} before, {after.mean_iou:.3f} after. "
        f"Boxes under {POOR_IOU}: {before.poor:.1%} before, {after.poor:.1%} after.\n"
        + yaml.safe_dump({BASE_KEY: base_path(Path(args.config_file), args.out)})
        + changed.dump(default_flow_style=None)
    )


def print_fits(before: Fit, after: Fit, cfg: CfgNode) -> None:
    """Print both fits side by side, then the new anchors, per feature."""
    options = cfg.MODEL.YOLOV3
    rows = [
        ("mean best IoU", f"{before.mean_iou:.3f}", f"{after.mean_iou:.3f}"),
        (f"boxes with best IoU under {POOR_IOU}", f"{before.poor:.1%}", f"{after.poor:.1%}"),
    ]
    for feature, old, new in zip(options.IN_FEATURES, before.levels, after.levels):
        rows.append((f"boxes at {feature}", f"{old:.1%}", f"{new:.1%}"))
    align = ("left", "right", "right")
    print(tabulate(rows, ["", "before", "after"], disable_numparse=True, colalign=align))
    for feature, level in zip(options.IN_FEATURES, options.ANCHORS):
        print(f"Anchors at {feature}: {', '.join(f'{w} x {h}' for w, h in level)}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path, metavar="OUT.yaml", help="the config to write")
    parser.add_argument("--config-file", required=True, metavar="FILE")
    parser.add_argument("--seed", type=int, default=0, help="of the clustering")
    parser.add_argument("opts", nargs="*", metavar="KEY VALUE", help="config keys to override")
    args = parser.parse_intermixed_args()
    setup_logger(name="asff")
    with user_errors():
        check_out(args.out)
        cfg = load_config(args.config_file, args.opts)
        old, counts = read_anchors(cfg)
        check_input(cfg)
        if not cfg.DATASETS.TRAIN:
            raise ValueError("DATASETS.TRAIN is empty: name at least one dataset to fit to.")
        setup_datasets(cfg, args.config_file, cfg.DATASETS.TRAIN)
        check_datasets(cfg.DATASETS.TRAIN, "DATASETS.TRAIN")
        sizes, crowds, flat = box_sizes(cfg, load_training_dicts(cfg))
        new = fit_anchors(sizes, len(old), args.seed)
    cfg.MODEL.YOLOV3.ANCHORS = [level.int().tolist() for level in new.split(counts)]
    before, after = measure(sizes, old, counts), measure(sizes, new, counts)
    write_config(cfg, args, before, after)
    print(
        f"{', '.join(cfg.DATASETS.TRAIN)}: {len(sizes)} boxes; "
        f"left out: {crowds} of crowds, {flat} without area."
    )
    print_fits(before, after, cfg)
    if after.mean_iou <= before.mean_iou:
        print(f"Warning: the anchors of {args.config_file} fit as well or better: keep them.")
    print(f"Next: python train_net.py --config-file {args.out}")


if __name__ == "__main__":
    main()
