"""Training or evaluation in one process of a job."""

from __future__ import annotations

import argparse

from detectron2.config import CfgNode
from detectron2.engine import default_setup
from detectron2.utils import comm

from ..checkpoint import Checkpointer
from ..data import UnreadableImage
from .launch import user_errors
from .logs import setup_logs
from .trainer import Trainer


def main(cfg: CfgNode, args: argparse.Namespace) -> dict | None:
    """Train, or evaluate with ``--eval-only``; for :func:`asff.engine.launch`.

    Returns:
        The metrics of the evaluation (of the last one, after training); None without one.
    """
    setup_logs(cfg.OUTPUT_DIR, comm.get_rank())
    default_setup(cfg, args)
    if args.eval_only:
        with user_errors():
            model = Trainer.build_model(cfg)
            checkpointer = Checkpointer(model, cfg.OUTPUT_DIR)
            checkpointer.resume_or_load(cfg.MODEL.WEIGHTS, resume=args.resume)
        with user_errors(UnreadableImage):
            return Trainer.test(cfg, model)
    with user_errors():
        trainer = Trainer(cfg)
        trainer.resume_or_load(resume=args.resume)
    with user_errors(UnreadableImage):
        trainer.train()
    return getattr(trainer, "_last_eval_results", None)
