"""Costs of the configs of an ablation: parameters, multiply-adds and latency."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from datetime import date
from functools import partial
from pathlib import Path

import torch
from detectron2.config import CfgNode
from torch import nn
from tqdm import tqdm, trange

from ..analysis.cost import count_operations, measure_seconds
from ..config_files import load_config
from ..data import build_test_loader
from ..engine import Trainer
from ..engine.setup import resolve_device, resolve_sync_norm, setup_datasets
from .records import describe_hardware
from .runs import Grid, read_json, write_json

WARM_UP, ROUNDS = 3, 50


def measure_costs(grid: Grid) -> dict:
    """Measure the costs of all configs for the first image of the test set.

    The weights are random: NMS has fewer boxes to suppress than with trained ones.

    Returns:
        ``configs``: for each config file its ``image`` (height and width in pixels),
        ``parameters``, ``multiply_adds``, the operations ``not_counted``, ``latency_ms`` and
        ``latency_ratio`` to the first config; and what the latency depends on.
    """
    torch.set_num_threads(grid.threads)
    cfgs = [_build_cfg(file, grid.opts) for file in grid.config_files]
    models = [Trainer.build_model(cfg).eval() for cfg in tqdm(cfgs, desc="building")]
    inputs = [next(iter(build_test_loader(cfg, cfg.DATASETS.TEST[0]))) for cfg in cfgs]
    costs = [count_operations(model, x) for model, x in zip(models, inputs)]
    times = _time_interleaved(models, inputs)
    for cost, x, seconds in zip(costs, inputs, times):
        # Ratios within a round cancel the load of the machine.
        ratios = [own / first for own, first in zip(seconds, times[0])]
        cost["image"] = list(x[0]["image"].shape[1:])
        cost["latency_ms"] = round(1e3 * statistics.median(seconds), 2)
        cost["latency_ratio"] = round(statistics.median(ratios), 3)
    return {
        "configs": dict(zip(grid.config_files, costs)),
        "hardware": describe_hardware(cfgs[0].MODEL.DEVICE),
        "threads": grid.threads,
        "rounds": ROUNDS,
        "date": date.today().isoformat(),
    }


def update_costs(folder: Path, grid: Grid, *, again: bool = False) -> None:
    """Measure and write the costs of a grid if they are not known, or ``again``."""
    if again or not set(grid.config_files) <= set(read_costs(folder).get("configs", {})):
        write_json(folder / "costs.json", measure_costs(grid))


def read_costs(folder: Path) -> dict:
    """Read the costs of a folder of results; empty if they were not measured."""
    file = folder / "costs.json"
    keys = ("configs", "hardware", "threads", "rounds", "date")
    return read_json(file, keys) if file.is_file() else {}


def _build_cfg(config_file: str, opts: Sequence[str]) -> CfgNode:
    """Return a config as train_net.py resolves it for one process."""
    cfg = load_config(config_file, list(opts))
    cfg.DATALOADER.NUM_WORKERS = 0  # for a single image
    setup_datasets(cfg, config_file, cfg.DATASETS.TEST)
    resolve_device(cfg, num_gpus=1)
    resolve_sync_norm(cfg, world_size=1)
    return cfg


@torch.no_grad()
def _time_interleaved(
    models: Sequence[nn.Module], inputs: Sequence[list[dict]]
) -> list[list[float]]:
    """Measure seconds of forward passes, by model and round; each round runs every model once."""
    times = [[] for _ in models]
    for step in trange(WARM_UP + ROUNDS, desc="latency", unit="round"):
        for model, x, seconds in zip(models, inputs, times):
            elapsed = measure_seconds(partial(model, x))
            if step >= WARM_UP:
                seconds.append(elapsed)
    return times
