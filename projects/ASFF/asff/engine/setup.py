"""Reading, resolution and checks of the config of a command line."""

from __future__ import annotations

import argparse
import logging
import os
from collections.abc import Sequence
from pathlib import Path

import torch
from detectron2.config import CfgNode
from detectron2.engine import default_argument_parser
from detectron2.modeling import BACKBONE_REGISTRY, META_ARCH_REGISTRY
from detectron2.utils.logger import setup_logger

from ..config import INFINITY, check_ranges, choose
from ..config_files import find_config_file, flatten, load_config
from ..data import (
    check_annotations,
    check_datasets,
    check_input,
    check_num_classes,
    check_same_classes,
    follow_classes,
    register_custom_datasets,
    resolve_custom_datasets,
)
from ..evaluation import coco_classes
from .launch import num_processes
from .preemption import signal_numbers

# Keys with the smallest and the largest value that each of them may have.
MODEL_RANGES = {
    "MODEL.DARKNET.WIDTH": (1e-3, INFINITY),
    "MODEL.MOBILENETV2.WIDTH": (1e-3, INFINITY),
    "MODEL.YOLOV3.NECK.WIDTH": (1e-3, INFINITY),
    "MODEL.YOLOV3.SCORE_THRESH_TEST": (0, 1),
    "MODEL.YOLOV3.NMS_THRESH_TEST": (0, 1),
    "MODEL.YOLOV3.TOPK_CANDIDATES_TEST": (1, INFINITY),
    "TEST.DETECTIONS_PER_IMAGE": (1, INFINITY),
    "TEST.IMS_PER_BATCH": (1, INFINITY),
    "TEST.VIS_IMAGES": (0, INFINITY),
    "SEED": (-1, 2**32 - 1),
}
SOLVER_RANGES = {
    "SOLVER.MAX_ITER": (1, INFINITY),
    "SOLVER.ACCUM_ITERS": (1, INFINITY),
    "SOLVER.BASE_LR": (1e-12, INFINITY),
    "SOLVER.BASE_LR_END": (0, INFINITY),
    "SOLVER.MOMENTUM": (0, 1),
    "SOLVER.WEIGHT_DECAY": (0, INFINITY),
    "SOLVER.WARMUP_FACTOR": (0, 1),
    "SOLVER.WARMUP_ITERS": (0, INFINITY),
    "SOLVER.WARMUP_EPOCHS": (0, INFINITY),
    "SOLVER.MAX_GRAD_NORM": (0, INFINITY),
    "SOLVER.CHECKPOINT_PERIOD": (1, INFINITY),
    "SOLVER.KEEP_CHECKPOINTS": (0, INFINITY),
    "SOLVER.KEEP_EVERY": (0, INFINITY),
    "SOLVER.EARLY_STOPPING.PATIENCE": (0, INFINITY),
}


def argument_parser() -> argparse.ArgumentParser:
    """Return the parser of Detectron2's command line."""
    parser = default_argument_parser()
    for action in parser._actions:
        if action.dest == "num_gpus":
            action.help = "processes on this machine, one a GPU; without GPUs, on the CPU. 0: CPU"
    return parser


def setup(args: argparse.Namespace) -> CfgNode:
    """Read, resolve and check the config of a command line.

    Raises:
        ValueError: naming the key or file, its value, and the fix.
    """
    setup_logger(distributed_rank=int(os.getenv("RANK", "0")), name="asff")
    args.config_file = find_config_file(args.config_file)
    cfg = load_config(args.config_file, args.opts)
    if cfg.DATASETS.TEST is None:  # an empty value in YAML
        cfg.DATASETS.TEST = ()
    train = () if args.eval_only else cfg.DATASETS.TRAIN or ()
    setup_datasets(cfg, args.config_file, [*train, *cfg.DATASETS.TEST])
    resolve_device(cfg, args.num_gpus)
    resolve_sync_norm(cfg, num_processes(args))
    _check_config(cfg, num_processes(args), eval_only=args.eval_only, resume=args.resume)
    cfg.freeze()
    return cfg


def setup_datasets(cfg: CfgNode, config_file: str, names: Sequence[str]) -> None:
    """Register the datasets of DATASETS.CUSTOM; set the model's class count to that of the data.

    Args:
        config_file: the file of ``cfg``, to whose folder its paths are relative.
        names: of the datasets that will be used.

    Raises:
        ValueError: naming the key, its value, and the fix.
    """
    resolve_custom_datasets(cfg, config_file, names)
    register_custom_datasets(cfg)
    check_same_classes(names)
    follow_classes(cfg, names)


def resolve_device(cfg: CfgNode, num_gpus: int) -> None:
    """Use the CPU, and log it, where there is no GPU or none is wanted."""
    if torch.device(cfg.MODEL.DEVICE).type != "cuda":
        return
    if num_gpus == 0 or not torch.cuda.is_available():
        reason = "--num-gpus is 0" if num_gpus == 0 else "there is no CUDA device"
        logging.getLogger("asff").info(f"Running on the CPU: {reason}.")
        cfg.MODEL.DEVICE = "cpu"
    elif num_gpus > torch.cuda.device_count():
        raise ValueError(
            f"--num-gpus is {num_gpus}, but this machine has {torch.cuda.device_count()}."
        )


def resolve_sync_norm(cfg: CfgNode, world_size: int) -> None:
    """Replace "SyncBN", which needs several CUDA processes, by its equal on this machine."""
    if world_size > 1 and torch.device(cfg.MODEL.DEVICE).type == "cuda":
        return
    norm = "BN" if world_size == 1 else "naiveSyncBN"
    replaced = [key for key, value in flatten(cfg) if key.endswith(".NORM") and value == "SyncBN"]
    if replaced:
        cfg.merge_from_list([x for key in replaced for x in (key, norm)])
        logging.getLogger("asff").info(
            f"{', '.join(replaced)}: {norm} instead of SyncBN "
            f"({world_size} process{'es' if world_size > 1 else ''} on {cfg.MODEL.DEVICE})."
        )


def _check_config(cfg: CfgNode, world_size: int, *, eval_only: bool, resume: bool) -> None:
    """Raise a ValueError that names the key, its value and the fix, for what would fail later."""
    check_model(cfg)
    check_input(cfg)
    _check_output_dir(cfg.OUTPUT_DIR)
    _check_weights(cfg, eval_only=eval_only, resume=resume)
    datasets = {"DATASETS.TEST": cfg.DATASETS.TEST}
    coco_classes(cfg.TEST.COCO_API)
    if not eval_only:
        if not cfg.DATASETS.TRAIN:
            raise ValueError("DATASETS.TRAIN is empty: name at least one dataset to train on.")
        _check_solver(cfg, world_size)
        _check_saving(cfg)
        datasets["DATASETS.TRAIN"] = cfg.DATASETS.TRAIN
    for key, names in datasets.items():
        check_datasets(names, key)
        check_num_classes(cfg, names)
        if int(os.getenv("RANK", "0")) == 0:  # torchrun's; without it there is one process so far
            check_annotations(names, key)


def _check_output_dir(output: str) -> None:
    """Raise a ValueError where OUTPUT_DIR is no folder, or cannot be made or written to."""
    folder = Path(output).absolute()
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    if not (output and existing.is_dir() and os.access(existing, os.W_OK)):
        reason = "is a file" if existing.is_file() else "cannot be written to"
        reason = f"{existing} {reason}" if output else "it must name a folder"
        raise ValueError(f"OUTPUT_DIR is '{output}': {reason}. Name another folder.")


def _check_saving(cfg: CfgNode) -> None:
    """Raise a ValueError where checkpoints, and the best of them, cannot be saved as asked."""
    solver = cfg.SOLVER
    signal_numbers(solver.SAVE_SIGNALS)
    evaluates = cfg.TEST.BEST_METRIC and cfg.TEST.EVAL_PERIOD > 0 and cfg.DATASETS.TEST
    if solver.EARLY_STOPPING.PATIENCE and not evaluates:
        raise ValueError(
            f"SOLVER.EARLY_STOPPING.PATIENCE is {solver.EARLY_STOPPING.PATIENCE}, which needs "
            "evaluations and a metric: set DATASETS.TEST, TEST.EVAL_PERIOD, and TEST.BEST_METRIC "
            'to "bbox/AP".'
        )


def check_model(cfg: CfgNode) -> None:
    """Raise a ValueError for parts that Detectron2 does not know, and for wrong keys of TEST."""
    choose(dict(META_ARCH_REGISTRY), cfg.MODEL.META_ARCHITECTURE, "MODEL.META_ARCHITECTURE")
    choose(dict(BACKBONE_REGISTRY), cfg.MODEL.BACKBONE.NAME, "MODEL.BACKBONE.NAME")
    choose(dict.fromkeys(("float32", "bfloat16", "float16")), cfg.TEST.DTYPE, "TEST.DTYPE")
    check_ranges(cfg, MODEL_RANGES)


def _check_weights(cfg: CfgNode, *, eval_only: bool, resume: bool) -> None:
    """Raise a ValueError where weights are named but missing, or needed but not named."""
    weights = cfg.MODEL.WEIGHTS
    if weights and "://" not in weights and not Path(weights).is_file():
        raise ValueError(f"MODEL.WEIGHTS is '{weights}': there is no such file.")
    resumes = resume and any(Path(cfg.OUTPUT_DIR).glob("*.pth"))
    if eval_only and not weights and not resumes:
        raise ValueError(
            "--eval-only needs MODEL.WEIGHTS FILE, or --resume and a checkpoint in OUTPUT_DIR "
            f"('{cfg.OUTPUT_DIR}')."
        )


def _check_solver(cfg: CfgNode, world_size: int) -> None:
    """Raise a ValueError where batch size, learning rate or dtype cannot work."""
    check_ranges(cfg, SOLVER_RANGES)
    # Where REFERENCE_WORLD_SIZE is set, the trainer scales the batch to the processes.
    batch, processes = cfg.SOLVER.IMS_PER_BATCH, cfg.SOLVER.REFERENCE_WORLD_SIZE or world_size
    if batch < 1 or batch % processes:
        raise ValueError(
            f"SOLVER.IMS_PER_BATCH is {batch}, the batch of all processes together, which "
            f"{processes} processes do not divide. Use {max(batch - batch % processes, processes)}."
        )
    if cfg.SOLVER.BASE_LR_END > cfg.SOLVER.BASE_LR:
        raise ValueError(
            f"SOLVER.BASE_LR_END is {cfg.SOLVER.BASE_LR_END:g}, above SOLVER.BASE_LR, which is "
            f"{cfg.SOLVER.BASE_LR:g}. Lower the first or raise the second."
        )
    if cfg.SOLVER.AMP.ENABLED:
        dtypes = {"bfloat16": torch.bfloat16, "float16": torch.float16}
        choose(dtypes, cfg.SOLVER.AMP.DTYPE, "SOLVER.AMP.DTYPE")
