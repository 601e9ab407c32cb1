"""Processes: one, several spawned by Detectron2's launch(), or those that torchrun started."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from detectron2.config import CfgNode
from detectron2.engine import launch as spawn
from detectron2.engine.launch import DEFAULT_TIMEOUT
from detectron2.utils import comm
from torch.multiprocessing import ProcessExitedException

from ..data import register_custom_datasets
from .preemption import catch_signals


def under_torchrun() -> bool:
    """Check whether torchrun (or a compatible launcher) started this process."""
    return "LOCAL_RANK" in os.environ and "WORLD_SIZE" in os.environ


def num_processes(args: argparse.Namespace) -> int:
    """Return the number of processes of the whole job."""
    if under_torchrun():
        return int(os.environ["WORLD_SIZE"])
    return max(args.num_gpus, 1) * args.num_machines


@contextmanager
def user_errors(kind: type[ValueError] = ValueError) -> Iterator[None]:
    """End this process with exit code 2 and no traceback at an error of this kind."""
    try:
        yield
    except kind as error:
        if comm.get_rank() or int(os.environ.get("RANK", 0)):
            # Rank 0 prints the same message, and its exit ends this process, unless this rank alone
            # has failed.
            time.sleep(10)
        print(f"{Path(sys.argv[0]).name}: error: {error}", file=sys.stderr)
        sys.exit(2)


def launch(main: Callable, cfg: CfgNode, args: argparse.Namespace) -> Any:
    """Call ``main(cfg, args)`` in every process of the job."""
    if under_torchrun():
        return _join(main, cfg, args)
    if torch.device(cfg.MODEL.DEVICE).type == "cpu" and num_processes(args) > 1:
        # Detectron2 chooses NCCL where a GPU is visible.
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    forward = num_processes(args) > 1
    with catch_signals(cfg.SOLVER.SAVE_SIGNALS if forward else (), forward=forward) as received:
        try:
            return spawn(
                worker,
                max(args.num_gpus, 1),
                num_machines=args.num_machines,
                machine_rank=args.machine_rank,
                dist_url=args.dist_url,
                args=(main, cfg, args, max(args.num_gpus, 1)),
            )
        except ProcessExitedException as error:
            if error.signal_name is None:
                sys.exit(error.exit_code)  # the process has printed why
            if not received:
                raise
            sys.exit(128 + max(received))  # it had not begun to train


def _join(main: Callable, cfg: CfgNode, args: argparse.Namespace):
    """Join the process group that the launcher's environment variables describe."""
    on_cuda = torch.device(cfg.MODEL.DEVICE).type == "cuda"
    local_size = int(os.environ.get("LOCAL_WORLD_SIZE", os.environ["WORLD_SIZE"]))
    if on_cuda:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group("nccl" if on_cuda else "gloo", timeout=DEFAULT_TIMEOUT)
    try:
        comm.create_local_process_group(local_size)
        comm.synchronize()
        return worker(main, cfg, args, local_size)
    finally:
        dist.destroy_process_group()


def worker(main: Callable, cfg: CfgNode, args: argparse.Namespace, local_size: int) -> Any:
    """Run ``main`` in this process, with its datasets and its share of the machine's cores."""
    register_custom_datasets(cfg)  # a spawned process lacks those that setup() registered
    if local_size > 1 and torch.device(cfg.MODEL.DEVICE).type == "cpu":
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
        torch.set_num_threads(max(cores // local_size, 1))
    return main(cfg, args)
