"""Find and repair faults of datasets before training, and print their statistics.

    asff check-data --config-file FILE [--dataset NAME] [--quick] [KEY VALUE ...]
    asff check-data --config-file FILE --dataset NAME --fix OUT.json
    asff check-data --config-file FILE --picture OUT.jpg

By default all of DATASETS.TRAIN and DATASETS.TEST are checked. --fix writes a cleaned copy of one
dataset in COCO's format. --picture draws the first training batch as the network sees it.
Exit code 0: no errors were found. 1: errors were found. 2: the command line must be corrected.
"""

from __future__ import annotations

import argparse
import json
import os
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING

from . import VerbParser

if TYPE_CHECKING:
    from detectron2.config import CfgNode

    from ..data.datasets import Inspection

MAX_SAMPLES = 16  # in the picture


def add_arguments(parser: VerbParser) -> None:
    parser.add_argument("--dataset", action="append", metavar="NAME", help="may be repeated")
    parser.add_argument("--fix", type=Path, metavar="OUT.json", help="write a cleaned copy")
    parser.add_argument("--picture", type=Path, metavar="OUT.jpg", help="draw training samples")
    parser.add_argument("--quick", action="store_true", help="do not open the images")
    parser.add_config_file(required=True)


def run(args: argparse.Namespace) -> int:
    """Check the datasets; return 1 where errors were found."""
    from detectron2.utils.logger import setup_logger

    from ..config_files import load_config
    from ..data import check_input
    from ..data.datasets import inspect_dataset, shared_files, shorten

    setup_logger(name="asff")
    _check_options(args)
    cfg = load_config(args.config_file, args.opts)
    check_input(cfg)
    inspections = []
    for name in _select(cfg, args):
        inspections.append(inspect_dataset(name, opened=not args.quick))
        print(f"\n{_report(inspections[-1], cfg)}")
    # A test on images that were trained on tells nothing.
    for name in sorted({*cfg.DATASETS.TRAIN} & {*cfg.DATASETS.TEST}):
        print(f"\nWarning: {name} is in DATASETS.TRAIN and in DATASETS.TEST.")
    for first, second in combinations(inspections, 2):
        if shared := shared_files(first.files, second.files):
            print(
                f"\nWarning: {first.name} and {second.name} have {len(shared)} image files in "
                f"common: {shorten(shared, 3)}"
            )
    if args.fix is not None:
        _write_fixed(inspections[0], args.fix)
    if args.picture is not None:
        _draw_batch(cfg, args.picture)
    faulty = [x for x in inspections if x.num_errors]
    if not faulty:
        opened = " (images were not opened)" if args.quick else ""
        print(f"\nNo errors{opened}. Next: asff train --config-file {args.config_file}")
        return 0
    fix = f"--dataset {faulty[0].name} --fix OUT.json"
    advice = f"Correct the files, or let {fix} write a cleaned copy."
    if args.fix is not None:
        advice = f"Use {args.fix} instead, as shown above."
    print(f"\nErrors: {', '.join(f'{x.name} {x.num_errors}' for x in faulty)}. {advice}")
    return 1


def _check_options(args: argparse.Namespace) -> None:
    for option, path in (("--fix", args.fix), ("--picture", args.picture)):
        if path is not None and not os.access(path.parent, os.W_OK):
            raise ValueError(f"{option} {path}: there is no folder {path.parent} to write to.")
    if args.fix is not None and args.fix.exists():
        raise ValueError(f"--fix {args.fix}: the file exists, and is not overwritten.")
    if args.fix is not None and args.quick:
        raise ValueError("--fix has to open the images: leave --quick out.")
    if args.picture and args.picture.suffix.lower() not in (".jpg", ".jpeg", ".png"):
        raise ValueError(f"--picture {args.picture}: name a file with the suffix .jpg or .png.")


def _select(cfg: CfgNode, args: argparse.Namespace) -> list[str]:
    """Register the datasets of the config, and list the names of those to check."""
    from ..data import check_datasets
    from ..engine.setup import setup_datasets

    named = {"DATASETS.TRAIN": [*cfg.DATASETS.TRAIN], "DATASETS.TEST": [*cfg.DATASETS.TEST]}
    if args.dataset:
        drawn = named["DATASETS.TRAIN"] if args.picture is not None else []
        named = {"--dataset": args.dataset, "DATASETS.TRAIN": drawn}
    setup_datasets(cfg, args.config_file, sum(named.values(), []))
    for key, names in named.items():
        check_datasets(names, key)
    names = list(dict.fromkeys(args.dataset or sum(named.values(), [])))
    if not names:
        raise ValueError("DATASETS.TRAIN and DATASETS.TEST are empty: name one by --dataset.")
    if args.fix is not None and len(names) > 1:
        raise ValueError(f"--fix takes one dataset of {', '.join(names)}: choose it by --dataset.")
    return names


def _report(inspection: Inspection, cfg: CfgNode) -> str:
    """Format what was found, then what there is to train on."""
    import torch

    from ..analysis.anchor_fit import measure, read_anchors
    from ..analysis.dataset_statistics import compute_statistics
    from ..data import resized_shape
    from ..visualization.tables import anchor_table, inspection_table, statistics_tables

    parts = [inspection_table(inspection)]
    statistics = compute_statistics(inspection, partial(resized_shape, cfg))
    if not len(statistics.boxes):
        return "\n\n".join([*parts, "There are no boxes to train on."])
    parts.append(statistics_tables(statistics))
    if cfg.MODEL.META_ARCHITECTURE == "YOLOv3":
        fit = measure(torch.from_numpy(statistics.input_boxes), *read_anchors(cfg))
        options = cfg.MODEL.YOLOV3
        num_boxes = len(statistics.boxes)
        parts.append(anchor_table(fit, options.IN_FEATURES, options.ANCHORS, num_boxes))
    return "\n\n".join(parts)


def _write_fixed(inspection: Inspection, path: Path) -> None:
    """Write the cleaned copy; print what was changed, and how to use it."""
    from ..data.datasets import repair

    dataset, changes = repair(inspection.dataset, inspection.files)
    dataset.write(path)
    print(f"\nWrote {path}:")
    for change, times in changes.items():
        print(f"  {change}: {times}")
    if not changes:
        print("  nothing had to be changed")
    folders = [os.path.dirname(file.path) for file in inspection.files.values()]
    config = {
        "name": f"{inspection.name}_fixed",
        "format": "coco",
        "annotations": str(path.resolve()),
        "images": os.path.abspath(dataset.image_root or os.path.commonpath(folders)),
    }
    quoted = {key: json.dumps(value, ensure_ascii=False) for key, value in config.items()}
    values = ", ".join(f"{key}: {value}" for key, value in quoted.items())
    print(f"\nTo use it, put into the config:\nDATASETS:\n  CUSTOM:\n    - {{{values}}}")
    print(f"  TRAIN: ({quoted['name']},)  # or TEST")


def _draw_batch(cfg: CfgNode, path: Path) -> None:
    """Draw the first training batch."""
    from detectron2.data import MetadataCatalog
    from PIL import Image

    from ..data import build_batch_plan, build_train_dataset, load_training_dicts, resolve_seed
    from ..visualization import draw_samples

    dataset_dicts = load_training_dicts(cfg)
    dataset = build_train_dataset(cfg, dataset_dicts)
    plan = build_batch_plan(cfg, dataset_dicts, resolve_seed(cfg))
    examples = [dataset[spec] for spec in plan(0)[:MAX_SAMPLES]]
    names = MetadataCatalog.get(cfg.DATASETS.TRAIN[0]).thing_classes
    picture = draw_samples(
        [x for x in examples if "image" in x], names, image_format=cfg.INPUT.FORMAT
    )
    Image.fromarray(picture).save(path, quality=92)
    print(f"\nThe first training batch as the network sees it: {path}")
