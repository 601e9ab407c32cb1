"""What detectors cost whatever the machine: parameters and multiply-adds."""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from tabulate import tabulate
from tqdm import tqdm

from ..ablation.costs import count_operations
from ..engine import Trainer
from ..engine.setup import load_config, resolve_device, resolve_sync_norm


def report_cost(args: argparse.Namespace) -> None:
    """Print a row for every config file."""
    rows = []
    for file in tqdm(args.config_files, desc="counting"):
        cfg = load_config(file, args.opts)
        cfg.MODEL.WEIGHTS = ""
        resolve_device(cfg, num_gpus=1)
        resolve_sync_norm(cfg, world_size=1)
        image = torch.zeros(3, args.height, args.width, dtype=torch.uint8)
        cost = count_operations(Trainer.build_model(cfg).eval(), [{"image": image}])
        count, operations = cost["parameters"], cost["multiply_adds"]
        rows.append([Path(file).stem, f"{count / 1e6:.2f}", f"{operations / 1e9:.4g}"])
    print(f"One image of {args.height} x {args.width} pixels (height x width).")
    headers = ["config", "parameters (M)", "multiply-adds (G)"]
    print(tabulate(rows, headers, tablefmt="pipe", disable_numparse=True))
