"""Parameters and multiply-adds of detectors, which no machine changes."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from detectron2.config import CfgNode
from tabulate import tabulate
from torch import nn
from tqdm import tqdm

from ..analysis.cost import count_operations
from ..engine import Trainer
from ..engine.setup import resolve_device, resolve_sync_norm


def measure_models(cfgs: Mapping[str, CfgNode], height: int, width: int) -> str:
    """Count the parameters and multiply-adds of detectors for one image, as a Markdown table.

    Args:
        cfgs: configs by the name of their row in the table.
        height, width: of the image in pixels.
    """
    inputs = [{"image": torch.zeros(3, height, width, dtype=torch.uint8)}]
    rows = []
    for name, cfg in tqdm(cfgs.items(), desc="counting"):
        cost = count_operations(build_random_model(cfg).eval(), inputs)
        parameters, multiply_adds = cost["parameters"] / 1e6, cost["multiply_adds"] / 1e9
        rows.append((name, f"{parameters:.2f}", f"{multiply_adds:.4g}"))
    headers = ["config", "parameters (M)", "multiply-adds (G)"]
    table = tabulate(rows, headers, tablefmt="pipe", disable_numparse=True)
    return f"One image of {height} x {width} pixels (height x width).\n{table}"


def build_random_model(cfg: CfgNode) -> nn.Module:
    """Build a detector with random weights for a single process."""
    cfg = cfg.clone()
    cfg.MODEL.WEIGHTS = ""
    resolve_device(cfg, num_gpus=1)
    resolve_sync_norm(cfg, world_size=1)
    return Trainer.build_model(cfg)
