"""Summarize the metrics.json of a training as curves."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

MAX_POINTS = 400  # per line; a screen cannot show more

Point = tuple[float, float]


def training_curves(metrics: Sequence[dict], dataset: str) -> list[dict[str, Any]]:
    """Return loss, AP, learning rate, image size and time over the iterations, as far as logged.

    Returns:
        Charts with ``title`` and ``lines``, each with ``name`` and ``points`` (iteration, value).
    """
    losses = sorted({key for line in metrics for key in line if key.startswith("loss_")})
    # Detectron2 adds the dataset as a prefix if there are several.
    several = any(f"{dataset}/bbox/AP" in line for line in metrics)
    prefix = f"{dataset}/bbox/" if several else "bbox/"
    overall, by_size = ("AP", "AP50", "AP75"), {"APs": "small", "APm": "medium", "APl": "large"}
    charts = [
        _chart("Loss", metrics, {"total_loss": "total", **{x: x[len("loss_") :] for x in losses}}),
        _chart("AP", metrics, {prefix + x: x for x in overall}),
        _chart("AP by object size", metrics, {prefix + x: name for x, name in by_size.items()}),
        _chart("Learning rate", metrics, {"lr": "learning rate"}),
        _chart("Image size (pixels)", metrics, {"image_size": "size"}),
        _chart("Seconds per iteration", metrics, {"time": "all", "data_time": "waiting for data"}),
    ]
    return [x for x in charts if x["lines"]]


def _chart(title: str, metrics: Sequence[dict], names: dict[str, str]) -> dict[str, Any]:
    """Return a chart with a named line for each key that occurs in the metrics."""
    lines = []
    for key, name in names.items():
        points = [(line["iteration"], line[key]) for line in metrics if key in line]
        points = [point for point in points if math.isfinite(point[1])]
        if points:
            lines.append({"name": name, "points": _thin(points)})
    return {"title": title, "lines": lines}


def _thin(points: Sequence[Point]) -> list[Point]:
    """Return at most MAX_POINTS points, means of neighbours, with five digits."""
    parts = np.array_split(np.array(points, float), min(MAX_POINTS, len(points)))
    return [(round(x), float(f"{y:.5g}")) for x, y in (part.mean(axis=0) for part in parts)]


def training_speed(metrics: Sequence[dict]) -> dict[str, float] | None:
    """Return the median ``iteration`` and ``data`` seconds; None without a training."""
    timed = [line for line in metrics if "time" in line]
    if not timed:
        return None
    iteration = float(np.median([line["time"] for line in timed]))
    data = float(np.median([line.get("data_time", 0.0) for line in timed]))
    return {"iteration": iteration, "data": data}
