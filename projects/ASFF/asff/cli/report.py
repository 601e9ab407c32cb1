#!/usr/bin/env python
"""Writes a report on a run: how it was trained, how good it is, and what it gets wrong.

    python tools/report.py RUN_DIR [--dataset NAME] [--output FOLDER]

RUN_DIR is the OUTPUT_DIR of train_net.py, with an evaluation in it; detections are read, not made.
The report is report.html, one file that loads nothing, and report.json, the same numbers. Where the
model fuses by ASFF and its last checkpoint is there, the page also shows some fusion maps.
"""

from __future__ import annotations

import argparse
import io
import json
import logging
import os
from pathlib import Path

from ..analysis.fusion_maps import find_fusion, view_fusion

# First, for it says what is not installed.
from ..data import check_datasets
from ..engine import Predictor, Trainer, user_errors
from ..engine.setup import load_config, setup_datasets
from ..report import (
    RunFolder,
    choose_images,
    describe_run,
    evaluate,
    render_page,
)
from ..visualization.fusion_figure import draw_fusion

# isort: split
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.utils.logger import setup_logger
from PIL import Image

NUM_MAPS = 3  # images whose fusion is shown
QUALITY = 85  # of these pictures, as WebP


def read_config(run: RunFolder, wanted: str | None) -> tuple[CfgNode, str]:
    """The config of a run, and the dataset to report on, which is known then.

    Raises:
        ValueError: naming the key or file, its value, and the fix.
    """
    cfg = load_config(str(run.config_file))
    cfg.OUTPUT_DIR = str(run.path)  # it may have been moved
    dataset = run.choose_dataset(cfg.DATASETS.TEST, wanted)
    setup_datasets(cfg, str(run.config_file), [dataset])
    check_datasets([dataset], "DATASETS.TEST")
    return cfg, dataset


def draw_maps(run: RunFolder, paths: list[str], score: float) -> list[tuple[str, bytes]]:
    """Names of images, and their fusion maps as WebP.

    Raises:
        ValueError: the model has none, or cannot be built here.
    """
    last = run.path / "last_checkpoint"
    if not last.is_file():
        raise ValueError(f"There is no {last}.")
    predictor = Predictor(run.config_file, run.path / last.read_text().strip())
    find_fusion(predictor.model)
    if predictor.cfg.MODEL.YOLOV3.LETTERBOX_TEST:
        raise ValueError("MODEL.YOLOV3.LETTERBOX_TEST is True: maps do not lie over the images.")
    maps = []
    for path in paths:
        image = predictor.read(path)
        (view,) = view_fusion(predictor.model, [predictor.map_pixels(image)])
        figure = draw_fusion(image, view, predictor.class_names, min_score=score)
        file = io.BytesIO()
        Image.fromarray(figure).save(file, "WEBP", quality=QUALITY)
        maps.append((os.path.basename(path), file.getvalue()))
    return maps


def write_report(run: RunFolder, output: Path, wanted: str | None) -> None:
    """Write report.html and report.json, and say where, and what they tell.

    Raises:
        ValueError: naming the file or option, its value, and the fix.
    """
    cfg, dataset = read_config(run, wanted)
    truth = Trainer.build_evaluator(cfg, dataset).ground_truth
    evaluation = evaluate(truth, run.read_results(dataset))
    images = choose_images(evaluation, MetadataCatalog.get(dataset).get("image_root", ""))
    content = describe_run(run, cfg, dataset, evaluation, images)
    try:
        paths = [image.path for image in images[:NUM_MAPS]]
        maps = draw_maps(run, paths, content["best_score"])
    except ValueError as error:
        maps = []
        logging.getLogger("asff").info(f"No fusion maps: {error}")
    page, numbers = output / "report.html", output / "report.json"
    page.write_text(render_page(content, images, maps), encoding="utf-8")
    numbers.write_text(json.dumps(content, allow_nan=False, indent=1), encoding="utf-8")
    others = [name for name in run.evaluated if name != dataset]
    if others:
        print(f"Evaluated in {run.path} too: {', '.join(others)} (choose by --dataset).")
    ap = content["AP"]["AP"]
    print(f"{dataset}: {'no' if ap is None else f'{ap:.1f}'} AP. Wrote {page} and {numbers}")


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", metavar="RUN_DIR", help="the OUTPUT_DIR of a run")
    parser.add_argument("--dataset", metavar="NAME", help="if several were evaluated")
    parser.add_argument("--output", type=Path, metavar="FOLDER", help="default: RUN_DIR")
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    setup_logger(name="asff")
    with user_errors():
        run = RunFolder(args.run)
        output = args.output or run.path
        if not (output.is_dir() and os.access(output, os.W_OK)):
            raise ValueError(f"--output {output}: there is no such folder that one can write to.")
        write_report(run, output, args.dataset)


if __name__ == "__main__":
    main()
