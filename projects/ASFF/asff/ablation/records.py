"""Records of finished runs: small JSON files with their metrics and settings."""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import date
from pathlib import Path

from ..analysis.timing import describe_hardware
from ..checkpoint.metadata import package_version
from ..report.run_folder import read_metrics
from .runs import Grid, Run, read_json, write_json

# The keys that the table needs.
RECORD_KEYS = ("config_file", "seed", "metrics", "training_seconds", "threads", "jobs")
RECORD_KEYS += ("date", "hardware")


def write_record(run: Run, jobs: int, threads: int) -> dict[str, float | None]:
    """Write the record of a finished run.

    Returns:
        Metrics of the evaluation after the last iteration, in percent; None if COCO has none.

    Raises:
        ValueError: there is no such evaluation.
    """
    file = run.output_dir / "metrics.json"
    lines = read_metrics(file)
    # The last step is max_iter - 1: earlier evaluations have a smaller iteration than max_iter.
    if not lines or "bbox/AP" not in lines[-1] or lines[-1]["iteration"] < run.max_iter:
        raise ValueError(
            f"{file} does not end with a bbox/AP after iteration {run.max_iter}: has the dataset "
            "of DATASETS.TEST annotations?"
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
    """Read the records of all finished runs.

    Raises:
        ValueError: one is damaged, or belongs to no run of the grid.
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
    """Compute the time of all training steps, without evaluations and the start.

    Args:
        lines: entries of metrics.json; the time of a step applies to all since the entry before.

    Returns:
        Seconds; None if no step was timed.
    """
    seconds, previous = 0.0, -1
    for line in lines:
        if "time" in line:
            seconds += (line["iteration"] - previous) * line["time"]
            previous = line["iteration"]
    return round(seconds, 1) or None
