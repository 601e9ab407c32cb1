"""Write an HTML page about a run: how it was trained, its accuracy, and its mistakes.

    asff report output/quickstart
    asff report RUN_DIR --dataset NAME --output FOLDER

RUN_DIR is the OUTPUT_DIR of a training or evaluation. The report is made of the detections of the
last evaluation: report.html, one file that loads nothing, and report.json, the same numbers. If the
model has ASFF and its last checkpoint is there, the page also shows fusion maps.
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from . import VerbParser

if TYPE_CHECKING:
    from ..report import RunFolder

NUM_MAPS = 3  # images whose fusion maps are shown


def add_arguments(parser: VerbParser) -> None:
    parser.add_argument("run_dir", metavar="RUN_DIR", help="OUTPUT_DIR of a run")
    parser.add_argument("--dataset", metavar="NAME", help="default: first of DATASETS.TEST")
    parser.add_output(metavar="FOLDER", help="default: RUN_DIR")


def run(args: argparse.Namespace) -> None:
    """Write report.html and report.json."""
    import os

    from detectron2.data import MetadataCatalog
    from detectron2.utils.logger import setup_logger

    from ..analysis import evaluate
    from ..engine import Trainer
    from ..report import RunFolder, choose_images, describe_run, write_report

    setup_logger(name="asff")
    folder = RunFolder(args.run_dir)
    output = args.output or folder.path
    if not (output.is_dir() and os.access(output, os.W_OK)):
        raise ValueError(f"--output {output}: there is no such folder that one can write to.")
    cfg, dataset = folder.read_config(args.dataset)
    ground_truth = Trainer.build_evaluator(cfg, dataset).ground_truth
    evaluation = evaluate(ground_truth, folder.read_results(dataset), cfg.TEST.COCO_API)
    images = choose_images(evaluation, MetadataCatalog.get(dataset).get("image_root", ""))
    content = describe_run(folder, cfg, dataset, evaluation, images)
    maps = _draw_maps(folder, [x.path for x in images[:NUM_MAPS]], content["best_score"])
    page, numbers = write_report(output, content, images, maps)
    if others := [name for name in folder.evaluated if name != dataset]:
        print(f"Also evaluated in {folder.path}: {', '.join(others)} (choose by --dataset).")
    ap = content["AP"]["AP"]
    print(f"{dataset}: {'no' if ap is None else f'{ap:.1f}'} AP. Wrote {page} and {numbers}")


def _draw_maps(folder: RunFolder, paths: list[str], min_score: float) -> list[tuple[str, bytes]]:
    """Return the names of images and their fusion maps as WebP.

    None, with the reason in the log, if the model has no ASFF or cannot be built here.
    """
    import logging
    import os

    from ..engine import Predictor
    from ..engine.fusion_maps import draw_fusion_maps

    try:
        predictor = Predictor(folder.config_file, folder.last_checkpoint())
        figures = draw_fusion_maps(predictor, paths, min_score=min_score)
        return [(os.path.basename(path), webp) for path, (_, webp) in zip(paths, figures)]
    except ValueError as error:
        logging.getLogger("asff").info(f"No fusion maps: {error}")
        return []
