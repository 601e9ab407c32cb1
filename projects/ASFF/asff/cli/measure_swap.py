"""Measure what replacing FPN by ASFF-FPN changes in a trained detector before further training.

    asff measure-swap --config-file FPN_CONFIG --weights FILE [KEY VALUE ...]
    asff measure-swap --config-file FPN_CONFIG --weights FILE --backbone ASFF_BUILDER

Runs the detector of FPN_CONFIG, and the same with another MODEL.BACKBONE.NAME, over the dataset of
DATASETS.TEST. Prints AP of both, how far the features move, and how many detections stay.
"""

from __future__ import annotations

import argparse
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from . import VerbParser

if TYPE_CHECKING:
    from detectron2.config import CfgNode
    from torch import nn


def add_arguments(parser: VerbParser) -> None:
    parser.add_weights(required=True, help="checkpoint of the detector with FPN")
    parser.add_argument(
        "--backbone",
        default="build_retinanet_resnet_asff_fpn_backbone",
        metavar="NAME",
        help="MODEL.BACKBONE.NAME to use instead, with the same levels; default: %(default)s",
    )
    parser.add_config_file(required=True, help="config of the detector with FPN")


def run(args: argparse.Namespace) -> None:
    """Evaluate and compare both detectors."""
    from detectron2.modeling import BACKBONE_REGISTRY

    from ..analysis.swap import compare_detectors
    from ..config import choose
    from ..data import build_test_loader
    from ..engine import argument_parser, setup

    with TemporaryDirectory() as folder:  # the results of a training in OUTPUT_DIR stay
        options = ["MODEL.WEIGHTS", args.weights, *args.opts, "OUTPUT_DIR", folder]
        line = ["--config-file", args.config_file, "--eval-only", *options]
        cfg = setup(argument_parser().parse_args(line))
        if len(cfg.DATASETS.TEST) != 1:
            raise ValueError(f"DATASETS.TEST is {cfg.DATASETS.TEST}: name one dataset.")
        choose(dict(BACKBONE_REGISTRY), args.backbone, "--backbone")
        swapped = cfg.clone()
        swapped.defrost()
        swapped.MODEL.BACKBONE.NAME = args.backbone
        models, lines = zip(_evaluate(cfg), _evaluate(swapped))
        change = compare_detectors(*models, build_test_loader(cfg, cfg.DATASETS.TEST[0]))
    print(*lines, change, sep="\n")


def _evaluate(cfg: CfgNode) -> tuple[nn.Module, str]:
    """Load and evaluate a detector, and describe its AP and size in a line."""
    from ..checkpoint import Checkpointer
    from ..engine import Trainer

    model = Trainer.build_model(cfg).eval()
    Checkpointer(model).load(cfg.MODEL.WEIGHTS)
    results = Trainer.test(cfg, model)
    if "bbox" not in results:
        raise ValueError(f"DATASETS.TEST: {cfg.DATASETS.TEST[0]} has no annotations, hence no AP.")
    ap, size = results["bbox"], sum(p.numel() for p in model.parameters()) / 1e6
    return model, (
        f"{cfg.MODEL.BACKBONE.NAME}: AP {ap['AP']:.2f}, AP50 {ap['AP50']:.2f}, "
        f"{size:.2f} M parameters"
    )
