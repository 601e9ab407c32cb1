#!/usr/bin/env python
"""Train or evaluate a detector of this project, or any other of Detectron2, with COCO metrics.

    python train_net.py --config-file configs/coco/yolov3_d53_asff.yaml --num-gpus 4
    python train_net.py --config-file FILE --resume
    python train_net.py --config-file FILE --eval-only MODEL.WEIGHTS output/model_final.pth
    torchrun --nproc-per-node 4 train_net.py --config-file FILE

Without a GPU, --num-gpus N starts N processes on the CPU.
"""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "projects" / "ASFF"))  # also where not installed

# First, for it says what is not installed.
from asff.checkpoint import Checkpointer
from asff.engine import Trainer, argument_parser, launch, setup, user_errors

# isort: split
from detectron2.config import CfgNode
from detectron2.engine import default_setup
from detectron2.utils import comm
from detectron2.utils.logger import setup_logger


def main(cfg: CfgNode, args: argparse.Namespace) -> dict | None:
    """Train, or evaluate with ``--eval-only``, in one process of the job.

    Returns:
        The metrics of the evaluation (of the last one, after training); None without one.
    """
    default_setup(cfg, args)
    setup_logger(
        cfg.OUTPUT_DIR,
        distributed_rank=comm.get_rank(),
        name="asff",
        configure_stdout=not logging.getLogger("asff").handlers,  # setup() may have done it
    )
    if args.eval_only:
        with user_errors():
            model = Trainer.build_model(cfg)
            checkpointer = Checkpointer(model, cfg.OUTPUT_DIR)
            checkpointer.resume_or_load(cfg.MODEL.WEIGHTS, resume=args.resume)
        return Trainer.test(cfg, model)
    with user_errors():
        trainer = Trainer(cfg)
        trainer.resume_or_load(resume=args.resume)
    trainer.train()
    return getattr(trainer, "_last_eval_results", None)


if __name__ == "__main__":
    args = argument_parser().parse_args()
    with user_errors():
        cfg = setup(args)
    launch(main, cfg, args)
