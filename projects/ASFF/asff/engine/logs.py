"""Loggers of a training: all messages go to log.txt, a selection to the screen."""

from __future__ import annotations

import logging
import re
import sys

from detectron2.utils.logger import setup_logger

# The screen shows warnings, the messages of this project, and those of these loggers that begin so.
SHOWN = {
    "detectron2.utils.events": "",  # progress lines
    "detectron2.evaluation.evaluator": "Inference done",
    "detectron2.evaluation.coco_evaluation": "Evaluation results|Per-category",
    "detectron2.engine.hooks": "Total training time",
}


def setup_logs(output_dir: str, rank: int) -> None:
    """Set up the loggers of Detectron2, fvcore and this project.

    Args:
        output_dir: the folder of log.txt (in further processes log.txt.rank1 ...).
        rank: of this process. The first alone writes to the screen.
    """
    # Called as Detectron2's default_setup() calls it, whose calls then add no further handlers.
    setup_logger(output_dir, distributed_rank=rank, name="fvcore")
    setup_logger(output_dir, distributed_rank=rank)
    has_screen = bool(logging.getLogger("asff").handlers)  # setup() may have added it
    setup_logger(output_dir, distributed_rank=rank, name="asff", configure_stdout=not has_screen)
    for name in ("fvcore", "detectron2", "asff"):
        for handler in logging.getLogger(name).handlers:
            if getattr(handler, "stream", None) is sys.stdout:
                handler.addFilter(_is_shown)
    # Warns of CUDA's tools on a machine without a GPU.
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)


def _is_shown(record: logging.LogRecord) -> bool:
    """Check whether a message goes to the screen."""
    if record.levelno < logging.INFO:
        return False
    if record.name == "detectron2.engine.train_loop" and record.exc_info:
        return False  # the error that ends this training is printed last
    if record.levelno > logging.INFO or record.name.partition(".")[0] == "asff":
        return True
    return record.name in SHOWN and bool(re.match(SHOWN[record.name], record.getMessage()))
