"""Generate images, train a small detector on them, evaluate it and draw its detections.

    asff quickstart
    asff quickstart --iterations 100 --output output/short SOLVER.BASE_LR 0.002

Takes minutes, on a GPU where there is one. The config is quickstart.yaml. The images go to
$DETECTRON2_DATASETS/shapes (by default datasets/shapes).
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from . import VerbParser, at_least

if TYPE_CHECKING:
    from detectron2.config import CfgNode

NUM_DRAWN = 8  # images of the test set whose detections are drawn


def add_arguments(parser: VerbParser) -> None:
    parser.add_argument(
        "--iterations",
        type=at_least(1),
        metavar="N",
        help="train for N iterations, and evaluate at the end alone",
    )
    parser.add_argument(
        "--images",
        type=at_least(1),
        default=1600,
        metavar="N",
        help="to train on, and an eighth as many to test on; default: %(default)s",
    )
    parser.add_output(metavar="FOLDER", help="default: output/quickstart")
    parser.add_opts()


def run(args: argparse.Namespace) -> None:
    import os
    import time

    from ..config_files import get_config_file
    from ..data.datasets.shapes import write_shapes_dataset
    from ..engine import argument_parser, main, setup

    start = time.perf_counter()
    datasets = Path(os.getenv("DETECTRON2_DATASETS", "datasets"))
    write_shapes_dataset(
        datasets / "shapes", num_train=args.images, num_val=max(args.images // 8, 1)
    )
    config = get_config_file("quickstart.yaml")
    options = [*scale_schedule(config, args.iterations), *args.opts]
    if args.output is not None:
        options += ["OUTPUT_DIR", str(args.output)]
    args = argument_parser().parse_args(["--config-file", config, *options])
    cfg = setup(args)
    results = main(cfg, args)
    output = Path(cfg.OUTPUT_DIR)
    draw_test_images(cfg, output / "model_final.pth", output / "detections")
    print(
        f"\nDone in {time.perf_counter() - start:.0f} s: AP50 {results['bbox']['AP50']:.1f} on "
        "images that were not used for training.\n"
        f"Ground truth and detections side by side: {output / 'detections'}\n"
        f"Model and log: {output}\n"
        f"Next: asff report {output}"
    )


def scale_schedule(config: str, iterations: int | None) -> list[str]:
    """Return KEY, VALUE, ... that shorten or lengthen the training with all that depends on it."""
    from ..config_files import load_config

    if iterations is None:
        return []
    solver = load_config(config).SOLVER
    warmup = solver.WARMUP_ITERS * iterations // solver.MAX_ITER
    keys = {"SOLVER.MAX_ITER": iterations, "SOLVER.WARMUP_ITERS": warmup, "TEST.EVAL_PERIOD": 0}
    return [str(x) for pair in keys.items() for x in pair]


def draw_test_images(cfg: CfgNode, weights: Path, folder: Path) -> None:
    """Draw ground truth and detections of the first images of the test set."""
    from detectron2.data import DatasetCatalog, MetadataCatalog
    from PIL import Image

    from ..engine import Predictor
    from ..visualization import draw_detections

    folder.mkdir(parents=True, exist_ok=True)
    predictor, name = Predictor(cfg, weights), cfg.DATASETS.TEST[0]
    for dataset_dict in DatasetCatalog.get(name)[:NUM_DRAWN]:
        file = Path(dataset_dict["file_name"])
        image = draw_detections(dataset_dict, predictor(file), MetadataCatalog.get(name))
        Image.fromarray(image).save(folder / f"{file.stem}.jpg")
