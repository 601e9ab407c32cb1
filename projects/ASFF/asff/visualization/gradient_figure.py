"""Measured gradients of several detectors, before and after training, as a table and a figure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tabulate import tabulate

from ..analysis.gradients import LevelGradients
from .samples import COLORS

if TYPE_CHECKING:
    from matplotlib.axes import Axes

STAGES = ("before", "after")
# AnchorGrid of the figure: attribute of LevelGradients and what the axis says.
PANELS = {
    "share": "share of other levels' negatives",
    "cosine": "cosine with own positives",
}


@dataclass
class Measurement:
    """What was measured of a detector.

    Attributes:
        label: of the detector.
        stage: of its training, one of :data:`STAGES`.
        config_file, weights: what it was built from; no weights: a random initialisation.
        levels: coarsest first.
    """

    label: str
    stage: str
    config_file: str
    weights: str
    levels: list[LevelGradients]


def gradient_table(measurements: Sequence[Measurement]) -> str:
    """A markdown table with a row for each measurement and level."""
    strides = [level.stride for level in measurements[0].levels]
    headers = ["", "training", "stride", "positives", "own (1)", "others (2)", "share of (2)"]
    headers += ["cosine", "(2) through weights", *(f"weight at {stride}" for stride in strides)]
    rows = [
        (
            measurement.label,
            measurement.stage,
            level.stride,
            level.positives,
            *map(show, (level.own, level.others)),
            "" if level.share is None else f"{level.share:.1%}",
            *map(show, (level.cosine, level.through_weights)),
            *map(show, level.weights or [None] * len(strides)),
        )
        for measurement in measurements
        for level in measurement.levels
    ]
    align = ["left", "left", *["right"] * (len(headers) - 2)]
    return tabulate(rows, headers, tablefmt="pipe", colalign=align, disable_numparse=True)


def show(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}"


def draw_gradients(measurements: Sequence[Measurement], path: Path) -> None:
    """Write a PNG: share and cosine of what other levels' negatives bring, in bars for each level.

    Args:
        measurements: all of the same levels; each detector at the first of their stages at least.
    """
    from matplotlib.figure import Figure  # without pyplot, which would look for a screen

    stages = [stage for stage in STAGES if any(x.stage == stage for x in measurements)]
    labels = list(dict.fromkeys(x.label for x in measurements))
    figure = Figure(figsize=(1.5 + 3.5 * len(stages), 5.5), layout="constrained")
    grid = figure.subplots(len(PANELS), len(stages), sharex=True, sharey="row", squeeze=False)
    for axes_row, (attribute, title) in zip(grid, PANELS.items()):
        axes_row[0].set_ylabel(title)
        for axes, stage in zip(axes_row, stages):
            draw_bars(axes, [x for x in measurements if x.stage == stage], labels, attribute)
    for axes, stage in zip(grid[0], stages):
        axes.set_title(f"{stage} training")
    figure.legend(*grid[0][0].get_legend_handles_labels(), loc="outside upper center", ncols=4)
    figure.savefig(path, dpi=120)


def draw_bars(
    axes: Axes, measurements: Sequence[Measurement], labels: Sequence[str], attribute: str
) -> None:
    """Draw an attribute: a group of bars for each level, a bar and a colour for each label."""
    width = 0.8 / len(labels)
    for measurement in measurements:
        index = labels.index(measurement.label)
        values = [getattr(level, attribute) for level in measurement.levels]
        axes.bar(
            [level + (index - (len(labels) - 1) / 2) * width for level in range(len(values))],
            [float("nan") if value is None else value for value in values],
            width,
            label=measurement.label,
            color=[channel / 255 for channel in COLORS[index % len(COLORS)]],
            edgecolor="black",
            linewidth=0.5,
        )
    strides = [level.stride for level in measurements[0].levels]
    axes.set_xticks(range(len(strides)), [f"stride {stride}" for stride in strides])
    axes.axhline(0, color="black", linewidth=0.8)
