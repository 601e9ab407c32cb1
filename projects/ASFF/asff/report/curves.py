"""Curves of a training, from the lines of its metrics.json."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

MAX_POINTS = 400  # of a line: more cannot be told apart on a screen

Point = tuple[float, float]


def training_curves(metrics: Sequence[dict], dataset: str) -> list[dict[str, Any]]:
    """Loss, learning rate, image size and AP over the iterations, as far as they were written.

    Returns:
        Charts with ``title`` and ``lines``, each with ``name`` and ``points`` (iteration, value).
    """
    losses = sorted({key for entry in metrics for key in entry if key.startswith("loss_")})
    # Several datasets are told apart by a prefix, a single one has none.
    several = any(f"{dataset}/bbox/AP" in entry for entry in metrics)
    prefix = f"{dataset}/bbox/" if several else "bbox/"
    overall, by_size = ("AP", "AP50", "AP75"), {"APs": "small", "APm": "medium", "APl": "large"}
    charts = [
        chart("Loss", metrics, {"total_loss": "total", **{x: x[len("loss_") :] for x in losses}}),
        chart("AP", metrics, {prefix + x: x for x in overall}),
        chart("AP by object size", metrics, {prefix + x: name for x, name in by_size.items()}),
        chart("Learning rate", metrics, {"lr": "learning rate"}),
        chart("Image size (pixels)", metrics, {"image_size": "size"}),
        chart("Seconds per iteration", metrics, {"time": "all", "data_time": "waiting for data"}),
    ]
    return [x for x in charts if x["lines"]]


def chart(title: str, metrics: Sequence[dict], names: dict[str, str]) -> dict[str, Any]:
    """A chart of some keys, by the names given to them; those without a value are left out."""
    lines = []
    for key, name in names.items():
        points = [(entry["iteration"], entry[key]) for entry in metrics if key in entry]
        points = [point for point in points if math.isfinite(point[1])]
        if points:
            lines.append({"name": name, "points": thin(points)})
    return {"title": title, "lines": lines}


def thin(points: Sequence[Point]) -> list[Point]:
    """At most MAX_POINTS points: means of runs of neighbours, with five digits."""
    parts = np.array_split(np.array(points, float), min(MAX_POINTS, len(points)))
    return [(round(x), float(f"{y:.5g}")) for x, y in (part.mean(axis=0) for part in parts)]


def training_speed(metrics: Sequence[dict]) -> dict[str, float] | None:
    """Medians of ``iteration`` and ``data`` seconds; None where nothing was trained."""
    timed = [entry for entry in metrics if "time" in entry]
    if not timed:
        return None
    iteration = float(np.median([entry["time"] for entry in timed]))
    data = float(np.median([entry.get("data_time", 0.0) for entry in timed]))
    return {"iteration": iteration, "data": data}
