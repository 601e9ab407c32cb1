"""Draw the fusion weights of images, as the paper's Figures 3 and 4, or summarize a dataset's.

    asff fusion-maps photo.jpg 'data/**/*.png' --weights model_final.pth
    asff fusion-maps --dataset coco_2017_val --weights model_final.pth

An IMAGE is a file, a folder, or a pattern in quotes. Without --config-file, the config inside the
checkpoint is used. The output folder gets NAME.webp for every image: its detections with their
levels, and for each level its weights of all levels and the fused feature, summed over its
channels. For a dataset it gets NAME_fusion.md and NAME_fusion.json: mean weights at objects by size
and in the background, their entropy, and a warning for a level that is never used.
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from . import VerbParser

if TYPE_CHECKING:
    from ..engine import Predictor
    from ..visualization.files import OutputFolder


def add_arguments(parser: VerbParser) -> None:
    parser.add_argument("images", nargs="*", metavar="IMAGE", help="file, folder or pattern")
    parser.add_argument("--dataset", metavar="NAME", help="a dataset whose weights to summarize")
    parser.add_weights(required=True, help="checkpoint")
    parser.add_output("output/fusion_maps")
    parser.add_min_score(help="lowest score of detections to draw; default: %(default)s")
    parser.add_config_file(help="default: the config inside the checkpoint")


def run(args: argparse.Namespace) -> None:
    """Draw the images, and summarize the dataset."""
    from detectron2.utils.logger import setup_logger

    from ..analysis import check_fusion_maps
    from ..data.media import find_media
    from ..engine import Predictor
    from ..visualization.files import OutputFolder

    setup_logger(name="asff")
    if not args.images and args.dataset is None:
        raise ValueError("name an IMAGE, or --dataset.")
    images, videos = find_media(args.images)
    if videos:
        raise ValueError(f"{videos[0]}: a video cannot be drawn; name images, such as its frames.")
    folder = OutputFolder(args.output, images)
    predictor = Predictor(args.config_file, args.weights, opts=args.opts)
    check_fusion_maps(predictor.cfg, predictor.model)
    dataset_dicts = _load_dataset_dicts(predictor, args) if args.dataset else []
    if images:
        _write_figures(predictor, images, folder, args)
    if dataset_dicts:
        _write_statistics(predictor, dataset_dicts, args)


def _load_dataset_dicts(predictor: Predictor, args: argparse.Namespace) -> list[dict]:
    """Return the dataset dicts of --dataset.

    Raises:
        ValueError: it is not registered, empty, or its files are missing or wrong.
    """
    from detectron2.data import DatasetCatalog

    from ..data import (
        check_annotations,
        check_datasets,
        register_custom_datasets,
        resolve_custom_datasets,
    )

    cfg = predictor.cfg.clone()
    cfg.defrost()
    resolve_custom_datasets(cfg, args.config_file or "", [args.dataset])
    register_custom_datasets(cfg)
    check_datasets([args.dataset], "--dataset")
    check_annotations([args.dataset], "--dataset")
    dataset_dicts = DatasetCatalog.get(args.dataset)
    if not dataset_dicts:
        raise ValueError(f"--dataset {args.dataset}: it contains no images.")
    return dataset_dicts


def _write_figures(
    predictor: Predictor, images: list[str], folder: OutputFolder, args: argparse.Namespace
) -> None:
    from tqdm import tqdm

    from ..engine.fusion_maps import draw_fusion_maps

    figures = draw_fusion_maps(predictor, images, min_score=args.min_score)
    unknown_levels = False
    for file, (view, webp) in zip(tqdm(images, unit=" images"), figures):
        folder.name(file, ".webp").write_bytes(webp)
        unknown_levels = view.levels is None
    if unknown_levels:
        name = predictor.cfg.MODEL.META_ARCHITECTURE
        print(f"The levels of detections are known for YOLOv3 and RetinaNet, but not for {name}.")
    print(f"{len(images)} figures: {args.output}")


def _write_statistics(
    predictor: Predictor, dataset_dicts: list[dict], args: argparse.Namespace
) -> None:
    import json

    from ..engine.fusion_maps import measure_fusion
    from ..visualization import fusion_tables

    statistics = measure_fusion(predictor, dataset_dicts).to_json()
    tables = fusion_tables(statistics)
    path = args.output / f"{args.dataset}_fusion.md"
    path.write_text(f"# {args.dataset}, {args.weights}\n\n{tables}\n", encoding="utf-8")
    path.with_suffix(".json").write_text(json.dumps(statistics, indent=1))
    print(f"{tables}\n\nWrote {path} and {path.with_suffix('.json').name}.")
