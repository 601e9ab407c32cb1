"""Training or evaluation in one process of a job."""

from __future__ import annotations

import argparse
import logging

from detectron2.config import CfgNode
from detectron2.engine import default_setup
from detectron2.utils import comm
from detectron2.utils.logger import setup_logger

from ..checkpoint import Checkpointer
from .launch import user_errors
from .trainer import Trainer


def main(cfg: CfgNode, args: argparse.Namespace) -> dict | None:
    """Train, or evaluate with ``--eval-only``; for :func:`asff.engine.launch`.

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
