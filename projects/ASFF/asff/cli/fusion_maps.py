#!/usr/bin/env python
"""Shows which level feeds which place in a detector with ASFF, as the paper's Figures 3 and 4 do.

    python tools/visualize_fusion.py IMAGE... --weights FILE [--config-file FILE] [--output FOLDER]
    python tools/visualize_fusion.py --dataset NAME --weights FILE [--config-file FILE]

An IMAGE is a file, a folder, or a pattern in quotes. Without --config-file, the checkpoint's own
config is used. FOLDER gets NAME.webp for every image: its detections with the level each came from,
and for each level the weights of all levels and the fused feature, summed over its channels. Of a
dataset it gets NAME_fusion.md and NAME_fusion.json: mean weights at objects by size and in the
background, their entropy, and an alarm where a level is never used.
Exit code 0; 2 where the command line is wrong, an image cannot be read, or the model has no ASFF.
"""

from __future__ import annotations

import argparse
import json

from ..analysis import FusionView, view_fusion
from ..analysis.fusion_maps import find_fusion
from ..analysis.fusion_statistics import FusionStatistics

# First, for it says what is not installed.
from ..data import (
    check_annotations,
    check_datasets,
    register_custom_datasets,
    resolve_custom_datasets,
)
from ..data.image_io import check_size
from ..engine import Predictor
from ..visualization import draw_fusion

# isort: split
import numpy as np
from detectron2.data import DatasetCatalog
from PIL import Image
from tqdm import tqdm

from ..data.media import find_media
from ..visualization.files import OutputFolder
from . import VerbParser

QUALITY = 85  # of WebP


def find_images(inputs: list[str]) -> list[str]:
    """The image files that inputs stand for.

    Raises:
        ValueError: an input stands for nothing, or is a video.
    """
    images, videos = find_media(inputs)
    if videos:
        raise ValueError(f"{videos[0]}: a video cannot be shown; name images, such as its frames.")
    return images


def load_detector(args: argparse.Namespace) -> Predictor:
    """The detector of a command line.

    Raises:
        ValueError: it cannot be loaded, has no ASFF, or puts images where the maps do not follow.
    """
    predictor = Predictor(args.config_file, args.weights, opts=args.opts)
    find_fusion(predictor.model)
    if predictor.cfg.MODEL.YOLOV3.LETTERBOX_TEST:
        raise ValueError(
            "MODEL.YOLOV3.LETTERBOX_TEST is True, but maps can be laid over an image only without "
            "a letterbox: add --opts MODEL.YOLOV3.LETTERBOX_TEST False INPUT.SQUARE True."
        )
    return predictor


def load_records(predictor: Predictor, args: argparse.Namespace) -> list[dict]:
    """The dataset dicts of --dataset.

    Raises:
        ValueError: it is not known, or its files are not there or are wrong.
    """
    cfg = predictor.cfg.clone()
    cfg.defrost()
    resolve_custom_datasets(cfg, args.config_file or "", [args.dataset])
    register_custom_datasets(cfg)
    check_datasets([args.dataset], "--dataset")
    check_annotations([args.dataset], "--dataset")
    return DatasetCatalog.get(args.dataset)


def look(predictor: Predictor, image: np.ndarray) -> FusionView:
    """Detect in an image (H, W, 3), RGB, uint8."""
    return view_fusion(predictor.model, [predictor.map_pixels(image)])[0]


def write_figures(
    predictor: Predictor, images: list[str], folder: OutputFolder, args: argparse.Namespace
) -> None:
    for file in tqdm(images, unit=" images"):
        image = predictor.read(file)
        view = look(predictor, image)
        figure = draw_fusion(image, view, predictor.class_names, min_score=args.min_score)
        Image.fromarray(figure).save(folder.name(file, ".webp"), quality=QUALITY)
    if view.levels is None:
        name = predictor.cfg.MODEL.META_ARCHITECTURE
        print(f"The levels of detections are known for YOLOv3 and RetinaNet, but not for {name}.")
    print(f"{len(images)} figures: {args.output}")


def write_numbers(predictor: Predictor, records: list[dict], args: argparse.Namespace) -> None:
    numbers = FusionStatistics()
    for record in tqdm(records, unit=" images"):
        image = predictor.read(record["file_name"])
        check_size(record["file_name"], image, record)
        numbers.add(look(predictor, image), record)
    table = numbers.to_markdown()
    path = args.output / f"{args.dataset}_fusion.md"
    path.write_text(f"# {args.dataset}, {args.weights}\n\n{table}\n", encoding="utf-8")
    path.with_suffix(".json").write_text(json.dumps(numbers.to_json(), indent=1))
    print(f"{table}\n\nWrote {path} and {path.with_suffix('.json').name}.")


def run(args: argparse.Namespace) -> None:
    """Do what the command line says.

    Raises:
        ValueError: it is wrong, or what it names cannot be read.
    """
    if not args.images and args.dataset is None:
        raise ValueError("name an IMAGE, or --dataset.")
    images = find_images(args.images)
    folder = OutputFolder(args.output, images)
    predictor = load_detector(args)
    records = load_records(predictor, args) if args.dataset else []
    if images:
        write_figures(predictor, images, folder, args)
    if args.dataset:
        if not records:
            raise ValueError(f"--dataset {args.dataset}: it holds no images.")
        write_numbers(predictor, records, args)


def add_arguments(parser: VerbParser) -> None:
    parser.add_input("images", nargs="*", metavar="IMAGE", help="file, folder, pattern")
    parser.add_argument("--dataset", metavar="NAME", help="numbers over a dataset")
    parser.add_weights(required=True, help="checkpoint")
    parser.add_output("output/fusion_maps")
    parser.add_min_score(help="lowest score of detections to draw; default: %(default)s")
    parser.add_config_file(help="default: the config inside the checkpoint")
