"""What is kept of a finished run: a small JSON, made from what the training wrote."""

from __future__ import annotations

import json
import math
import os
import platform
from collections.abc import Sequence
from datetime import date
from pathlib import Path

import torch

from ..checkpoint.metadata import package_version
from .runs import Grid, Run, read_json, write_json

# What the table needs of a record.
RECORD_KEYS = ("config_file", "seed", "metrics", "training_seconds", "threads", "jobs")
RECORD_KEYS += ("date", "hardware")


def read_metrics(run: Run) -> list[dict]:
    """The lines of the run's metrics.json, as far as they are whole."""
    file = run.output_dir / "metrics.json"
    lines = []
    for line in file.read_text().splitlines() if file.is_file() else ():
        try:
            lines.append(json.loads(line))
        except ValueError:  # a stopped run left it half written
            continue
    return lines


def write_record(run: Run, jobs: int, threads: int) -> dict[str, float | None]:
    """Write the JSON that is kept of a finished run.

    Returns:
        metrics of the evaluation after the last iteration, in percent; None where COCO has none.

    Raises:
        ValueError: there is no such evaluation.
    """
    lines = read_metrics(run)
    # The last step is max_iter - 1: what was evaluated before then has a smaller iteration.
    if not lines or "bbox/AP" not in lines[-1] or lines[-1]["iteration"] < run.max_iter:
        raise ValueError(
            f"{run.output_dir / 'metrics.json'} does not end with a bbox/AP after iteration "
            f"{run.max_iter}: has the dataset of DATASETS.TEST annotations?"
        )
    metrics = {
        key.removeprefix("bbox/"): round(value, 4) if math.isfinite(value) else None
        for key, value in lines[-1].items()
        if key.startswith("bbox/")
    }
    content = {
        **run.identity(),
        "metrics": metrics,
        "iterations": run.max_iter,
        "training_seconds": training_seconds(lines),
        "threads": threads,
        "jobs": jobs,
        "date": date.today().isoformat(),
        "hardware": describe_hardware(run.settings.get("MODEL.DEVICE", "cuda")),
        "asff_version": package_version(),
    }
    write_json(run.record, content)
    return metrics


def read_records(folder: Path, grid: Grid) -> list[dict]:
    """The JSON of all finished runs.

    Raises:
        ValueError: one is damaged, or is of no run of the grid.
    """
    records = []
    for file in sorted((folder / "runs").glob("*.json")):
        record = read_json(file, RECORD_KEYS)
        if record["config_file"] not in grid.config_files or record["seed"] not in grid.seeds:
            raise ValueError(
                f"{file} is of {record['config_file']} with seed {record['seed']}, which are not "
                f"in {folder / 'grid.json'}: add them to the command, or remove the file."
            )
        records.append(record)
    return records


def training_seconds(lines: Sequence[dict]) -> float | None:
    """What all training steps took, without evaluations and the start; None for a few steps.

    Args:
        lines: of metrics.json; a step's time stands for those since the line before. Of lines
            that a resumed run wrote again, the last counts.
    """
    times = {line["iteration"]: line["time"] for line in lines if "time" in line}
    iterations = sorted(times)
    steps = [i - before for i, before in zip(iterations, [-1, *iterations])]
    return round(sum(n * times[i] for n, i in zip(steps, iterations)), 1) or None


def describe_hardware(device: str) -> str:
    """The processor that works where MODEL.DEVICE is this, and the version of torch."""
    if torch.device(device).type == "cuda" and torch.cuda.is_available():
        return f"{torch.cuda.get_device_name()}, torch {torch.__version__}"
    cpuinfo = Path("/proc/cpuinfo")
    text = cpuinfo.read_text() if cpuinfo.is_file() else ""
    names = [line.split(":")[1].strip() for line in text.splitlines() if "model name" in line]
    name = names[0] if names else platform.processor() or platform.machine()
    return f"{os.cpu_count()} cores of {name}, torch {torch.__version__}"
