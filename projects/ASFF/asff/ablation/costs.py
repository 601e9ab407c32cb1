"""Costs of the configs of an ablation: parameters, multiply-adds and latency."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date
from functools import partial
from pathlib import Path

import torch
from detectron2.config import CfgNode
from torch import nn
from tqdm import tqdm

from ..analysis.cost import count_operations
from ..analysis.timing import describe_hardware, interleave, measure_seconds, summarize
from ..config_files import load_config
from ..data import build_test_loader
from ..engine import Trainer
from ..engine.setup import resolve_device, resolve_sync_norm, setup_datasets
from .runs import Grid, read_json, write_json

ROUNDS = 50


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
    calls = [partial(_time_call, model, x) for model, x in zip(models, inputs)]
    times = interleave(calls, ROUNDS)
    for cost, x, seconds in zip(costs, inputs, times):
        latency = summarize(seconds, times[0])["forward"]
        cost["image"] = list(x[0]["image"].shape[1:])
        cost["latency_ms"] = round(latency["ms"], 2)
        cost["latency_ratio"] = round(latency["ratio"], 3)
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
def _time_call(model: nn.Module, inputs: list[dict]) -> dict[str, float]:
    return {"forward": measure_seconds(partial(model, inputs))}
