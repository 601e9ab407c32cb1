"""Fit the anchors of a YOLOv3 to the boxes of its training datasets, and write a config with them.

    asff fit-anchors --config-file FILE --output OUT.yaml [KEY VALUE ...]
    asff train --config-file OUT.yaml

The boxes of DATASETS.TRAIN, at the size of the test images, are clustered by k-means with the IoU
of shapes as similarity. OUT.yaml inherits from FILE, holds the KEY VALUE pairs too, and has as many
anchors per feature as FILE.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from . import VerbParser


def add_arguments(parser: VerbParser) -> None:
    parser.add_output(required=True, metavar="OUT.yaml", help="the config to write")
    parser.add_argument("--seed", type=int, default=0, help="seed of the clustering; default: 0")
    parser.add_config_file(required=True, help="config of the detector")


def run(args: argparse.Namespace) -> None:
    """Fit anchors, write the config, and print both fits."""
    from detectron2.utils.logger import setup_logger

    from ..analysis import anchor_fit
    from ..config_files import load_config
    from ..data import check_datasets, check_input, load_training_dicts
    from ..engine.setup import setup_datasets

    setup_logger(name="asff")
    anchor_fit.check_new_config(args.output)
    cfg = load_config(args.config_file, args.opts)
    old, counts = anchor_fit.read_anchors(cfg)
    check_input(cfg)
    if not cfg.DATASETS.TRAIN:
        raise ValueError("DATASETS.TRAIN is empty: name at least one dataset to fit to.")
    setup_datasets(cfg, args.config_file, cfg.DATASETS.TRAIN)
    check_datasets(cfg.DATASETS.TRAIN, "DATASETS.TRAIN")
    sizes, crowds, degenerate = anchor_fit.box_sizes(cfg, load_training_dicts(cfg))
    new = anchor_fit.fit_anchors(sizes, len(old), args.seed)
    cfg.MODEL.YOLOV3.ANCHORS = [level.int().tolist() for level in new.split(counts)]
    before, after = (anchor_fit.measure(sizes, anchors, counts) for anchors in (old, new))
    base = Path(args.config_file)
    anchor_fit.write_config(args.output, cfg, base, args.opts[::2], before, after)
    print(
        f"{', '.join(cfg.DATASETS.TRAIN)}: {len(sizes)} boxes; "
        f"left out: {crowds} crowds, {degenerate} degenerate boxes."
    )
    print(anchor_fit.compare_fits(cfg, before, after))
    if after.mean_iou <= before.mean_iou:
        print(f"Warning: the anchors of {args.config_file} fit as well or better: keep them.")
    print(f"Next: asff train --config-file {args.output}")
