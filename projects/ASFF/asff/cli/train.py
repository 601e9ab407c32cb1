"""Train or evaluate a detector of this project, or any other of Detectron2, with COCO metrics.

    asff train --config-file coco/yolov3_d53_asff.yaml --num-gpus 4
    asff train --config-file FILE --resume
    asff train --config-file FILE --eval-only MODEL.WEIGHTS output/model_final.pth
    torchrun --nproc-per-node 4 -m asff train --config-file FILE

The options are those of train_net.py. Without a GPU, --num-gpus N starts N processes on the CPU.
"""

from __future__ import annotations

import argparse

from . import VerbParser


def add_arguments(parser: VerbParser) -> None:
    from ..engine import argument_parser

    for action in argument_parser()._actions:
        if action.dest not in ("help", "opts"):
            parser._add_action(action)
    parser.add_opts()


def run(args: argparse.Namespace) -> None:
    from ..engine import launch, main, setup

    launch(main, setup(args), args)
