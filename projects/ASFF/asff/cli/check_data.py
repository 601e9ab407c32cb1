#!/usr/bin/env python
"""Looks for what is wrong with datasets before they are trained on, and shows what they are like.

    python tools/check_dataset.py --config-file FILE [--dataset NAME] [--quick] [KEY VALUE ...]
    python tools/check_dataset.py --config-file FILE --dataset NAME --fix OUT.json
    python tools/check_dataset.py --config-file FILE --picture OUT.jpg

By default it checks all of DATASETS.TRAIN and DATASETS.TEST. --fix writes a cleaned copy of one
dataset in COCO's format. --picture draws the first training batch as the network sees it.
Exit code 0 where nothing is an error, 1 where something is, 2 where the command line is wrong.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

from ..analysis.anchor_fit import POOR_IOU, measure, read_anchors

# First, for it says what is not installed.
from ..data import (
    build_batch_plan,
    build_train_dataset,
    check_datasets,
    check_input,
    load_training_dicts,
    resized_shape,
    resolve_seed,
)
from ..data.datasets.content import Content, load_content
from ..data.datasets.file_status import FileStatus, examine_files, shared_files
from ..data.datasets.inspection import Findings, image_sizes, inspect, usable_annotations
from ..data.datasets.repair import repair
from ..engine import user_errors
from ..engine.setup import load_config, setup_datasets
from ..visualization import draw_samples
from ..visualization.tables import (
    class_table,
    describe_sizes,
    findings_table,
    histogram,
    side_table,
)

# isort: split
import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.utils.logger import setup_logger
from PIL import Image

MAX_SAMPLES = 16  # in the picture
PICTURES = (".jpg", ".jpeg", ".png")
# Sides of squares in pixels, COCO's and ours, that part small boxes from larger ones.
COCO_SIDES, COCO_NAMES = (32, 96), ("small", "medium", "large")
INPUT_SIDES = (8, 16, 32, 64, 128, 256)


@dataclass
class Dataset:
    """A dataset, what is known of its image files, and what was found."""

    name: str
    content: Content
    image_root: str
    files: dict[str, FileStatus]
    findings: Findings

    @property
    def num_errors(self) -> int:
        return sum(x.count for kind, x in self.findings.items() if kind.severity == "error")


def check(name: str, *, quick: bool) -> Dataset:
    content, image_root = load_content(name)
    files = examine_files(content, image_root, opened=not quick)
    return Dataset(name, content, image_root, files, inspect(content, files))


def print_report(dataset: Dataset, cfg: CfgNode) -> None:
    """What was found; then images, classes and sizes of all boxes that can be trained on."""
    content, files = dataset.content, dataset.files
    title = (
        f"{dataset.name}: {len(content['images'])} images, {len(content['annotations'])} "
        f"annotations, {len(content['categories'])} classes"
    )
    print(f"\n{title}\n{'=' * len(title)}\n{findings_table(dataset.findings)}")
    annotations = usable_annotations(content, files)
    if not annotations:
        print("\nThere are no boxes to train on.")
        return
    sizes = {k: size for k, size in image_sizes(content, files).items() if size is not None}
    per_image = Counter(annotation["image_id"] for annotation in annotations)
    counts = [per_image[image_id] for image_id in sizes]
    print(
        f"\nImage sizes: {describe_sizes(list(sizes.values()))}.\n"
        f"Boxes per image: {min(counts)} to {max(counts)}, median {np.median(counts):g}, "
        f"mean {np.mean(counts):.1f}."
    )
    print(f"\n{class_table(content, annotations)}")
    boxes = np.array([annotation["bbox"][2:] for annotation in annotations], float)
    scales = {image_id: input_scale(cfg, size) for image_id, size in sizes.items()}
    scaled = boxes * [scales[annotation["image_id"]] for annotation in annotations]
    print(f"\n{side_table('side in the image', boxes, COCO_SIDES, COCO_NAMES)}")
    print(f"\n{side_table('side at the input', scaled, INPUT_SIDES)}")
    if cfg.MODEL.META_ARCHITECTURE == "YOLOv3":
        print_anchor_fit(cfg, scaled)


def input_scale(cfg: CfgNode, size: tuple[int, int]) -> tuple[float, float]:
    """By what the network's input in a test stretches the width and the height of an image."""
    width, height = size
    new_height, new_width = resized_shape(cfg, height, width)
    return new_width / width, new_height / height


def print_anchor_fit(cfg: CfgNode, boxes: np.ndarray) -> None:
    """How well the config's anchors fit boxes (M, 2) at the network's input."""
    anchors, counts = read_anchors(cfg)
    fit = measure(torch.from_numpy(boxes), anchors, counts)
    columns = {
        "level": cfg.MODEL.YOLOV3.IN_FEATURES,
        "anchors": [", ".join(f"{w}x{h}" for w, h in x) for x in cfg.MODEL.YOLOV3.ANCHORS],
    }
    print(f"\n{histogram(columns, [round(share * len(boxes)) for share in fit.levels])}")
    print(
        f"\nFit of the anchors: mean best IoU {fit.mean_iou:.3f}; {fit.poor:.1%} of the boxes "
        f"under {POOR_IOU}. (tools/fit_anchors.py fits them to the boxes.)"
    )


def print_shared_files(datasets: Sequence[Dataset], cfg: CfgNode) -> None:
    """Warn of images in two datasets: a test on images that were trained on tells nothing."""
    for name in sorted({*cfg.DATASETS.TRAIN} & {*cfg.DATASETS.TEST}):
        print(f"\nWarning: {name} is in DATASETS.TRAIN and in DATASETS.TEST.")
    for first, second in combinations(datasets, 2):
        shared = shared_files(first.files, second.files)
        if shared:
            names = ", ".join(shared[:3]) + (", ..." if len(shared) > 3 else "")
            print(
                f"\nWarning: {first.name} and {second.name} have {len(shared)} image files in "
                f"common: {names}"
            )


def write_fixed(dataset: Dataset, path: Path) -> None:
    """Write the cleaned content, say what was changed, and how to use it."""
    content, changes = repair(dataset.content, dataset.files)
    path.write_text(json.dumps(content))
    print(f"\nWrote {path}:")
    for change, times in changes.items():
        print(f"  {change}: {times}")
    if not changes:
        print("  nothing had to be changed")
    folders = [os.path.dirname(file.path) for file in dataset.files.values()]
    entry = {
        "name": f"{dataset.name}_fixed",
        "format": "coco",
        "annotations": str(path.resolve()),
        "images": os.path.abspath(dataset.image_root or os.path.commonpath(folders)),
    }
    quoted = {key: json.dumps(value, ensure_ascii=False) for key, value in entry.items()}
    values = ", ".join(f"{key}: {value}" for key, value in quoted.items())
    print(f"\nTo use it, put into the config:\nDATASETS:\n  CUSTOM:\n    - {{{values}}}")
    print(f"  TRAIN: ({quoted['name']},)  # or TEST")


def write_picture(cfg: CfgNode, path: Path) -> None:
    """Draw the first batch of the training stream."""
    records = load_training_dicts(cfg)
    dataset = build_train_dataset(cfg, records)
    stream = build_batch_plan(cfg, records, resolve_seed(cfg))
    samples = stream(0)[:MAX_SAMPLES]
    examples = [example for example in map(dataset.__getitem__, samples) if "image" in example]
    names = MetadataCatalog.get(cfg.DATASETS.TRAIN[0]).thing_classes
    picture = draw_samples(examples, names, image_format=cfg.INPUT.FORMAT)
    Image.fromarray(picture).save(path, quality=92)
    print(f"\nThe first training batch as the network sees it: {path}")


def select(cfg: CfgNode, args: argparse.Namespace) -> list[str]:
    """Make the datasets of the config known; the names of those to check.

    Raises:
        ValueError: a dataset is not known or not there, or there is not exactly one to fix.
    """
    names = list(dict.fromkeys(args.dataset or [*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST]))
    drawn = [*cfg.DATASETS.TRAIN] if args.picture is not None else []
    setup_datasets(cfg, args.config_file, [*names, *drawn])
    if args.dataset:
        check_datasets(args.dataset, "--dataset")
        check_datasets(drawn, "DATASETS.TRAIN")
    else:
        check_datasets(cfg.DATASETS.TRAIN, "DATASETS.TRAIN")
        check_datasets(cfg.DATASETS.TEST, "DATASETS.TEST")
    if not names:
        raise ValueError("DATASETS.TRAIN and DATASETS.TEST are empty: name one by --dataset.")
    if args.fix is not None and len(names) > 1:
        raise ValueError(f"--fix takes one dataset of {', '.join(names)}: choose it by --dataset.")
    return names


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config-file", required=True, metavar="FILE")
    parser.add_argument("--dataset", action="append", metavar="NAME", help="may be repeated")
    parser.add_argument("--fix", type=Path, metavar="OUT.json", help="write a cleaned copy")
    parser.add_argument("--picture", type=Path, metavar="OUT.jpg", help="draw training samples")
    parser.add_argument("--quick", action="store_true", help="do not open the images")
    parser.add_argument("opts", nargs="*", metavar="KEY VALUE", help="config keys to override")
    args = parser.parse_intermixed_args()
    for option, path in (("--fix", args.fix), ("--picture", args.picture)):
        if path is not None and not os.access(path.parent, os.W_OK):
            parser.error(f"{option} {path}: there is no folder {path.parent} one can write to")
    if args.fix is not None and args.fix.exists():
        parser.error(f"--fix {args.fix}: the file exists, and is not overwritten; name another")
    if args.fix is not None and args.quick:
        parser.error("--fix has to open the images: leave --quick out")
    if args.picture is not None and args.picture.suffix.lower() not in PICTURES:
        parser.error(f"--picture {args.picture}: name a file with the suffix .jpg or .png")
    return args


def main() -> int:
    args = parse_args()
    setup_logger(name="asff")
    with user_errors():
        cfg = load_config(args.config_file, args.opts)
        check_input(cfg)
        names = select(cfg, args)
        datasets = []
        for name in names:
            dataset = check(name, quick=args.quick)
            datasets.append(dataset)
            print_report(dataset, cfg)
        print_shared_files(datasets, cfg)
        if args.fix is not None:
            write_fixed(datasets[0], args.fix)
        if args.picture is not None:
            write_picture(cfg, args.picture)
    return conclude(datasets, args)


def conclude(datasets: Sequence[Dataset], args: argparse.Namespace) -> int:
    """Say in a line what to do now; the exit code."""
    faulty = [dataset for dataset in datasets if dataset.num_errors]
    if not faulty:
        opened = " (images were not opened)" if args.quick else ""
        print(f"\nNo errors{opened}. Next: python train_net.py --config-file {args.config_file}")
        return 0
    numbers = ", ".join(f"{dataset.name} {dataset.num_errors}" for dataset in faulty)
    if args.fix is not None:
        advice = f"Use {args.fix} instead, as shown above."
    else:
        fix = f"--dataset {faulty[0].name} --fix OUT.json"
        advice = f"Correct the files, or let {fix} write a cleaned copy."
    print(f"\nErrors: {numbers}. {advice}")
    return 1


if __name__ == "__main__":
    sys.exit(main())
