"""Measure what replacing FPN by ASFF-FPN changes in a trained detector before further training.

    asff measure-swap --config-file FPN_CONFIG --weights FILE [KEY VALUE ...]
    asff measure-swap --config-file FPN_CONFIG --weights FILE --backbone ASFF_BUILDER

Runs the detector of FPN_CONFIG, and the same with another MODEL.BACKBONE.NAME, over the dataset of
DATASETS.TEST. Prints AP of both, how far the features move, and how many detections stay.
"""

from __future__ import annotations

import argparse
from tempfile import TemporaryDirectory

from . import VerbParser


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
    from ..checkpoint import Checkpointer
    from ..config import choose
    from ..data import build_test_loader
    from ..engine import Trainer, argument_parser, setup

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
        models, lines = [], []
        for x in (cfg, swapped):
            model = Trainer.build_model(x).eval()
            Checkpointer(model).load(x.MODEL.WEIGHTS)
            models.append(model)
            results = Trainer.test(x, model)
            if "bbox" not in results:
                raise ValueError(
                    f"DATASETS.TEST: {x.DATASETS.TEST[0]} has no annotations, hence no AP."
                )
            ap, size = results["bbox"], sum(p.numel() for p in model.parameters()) / 1e6
            lines.append(
                f"{x.MODEL.BACKBONE.NAME}: AP {ap['AP']:.2f}, AP50 {ap['AP50']:.2f}, "
                f"{size:.2f} M parameters"
            )
        change = compare_detectors(*models, build_test_loader(cfg, cfg.DATASETS.TEST[0]))
    print(*lines, change, sep="\n")
