"""Draw and tabulate the gradients of several detectors, before and after training."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tabulate import tabulate

from ..analysis import Measurement
from ..analysis.gradients import STAGES
from .overlay import COLORS

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Rows of the figure: attribute of LevelGradients and label of the axis.
PANELS = {"share": "share of other levels' negatives", "cosine": "cosine with own positives"}


def gradient_table(measurements: Sequence[Measurement]) -> str:
    """Format measurements as a markdown table with a row for each level."""
    strides = [level.stride for level in measurements[0].levels]
    headers = ["", "training", "stride", "positives", "own (1)", "others (2)", "share of (2)"]
    headers += ["cosine", "(2) through weights", *(f"weight at {stride}" for stride in strides)]
    rows = [
        (
            measurement.label,
            measurement.stage,
            level.stride,
            level.positives,
            *map(_format, (level.own, level.others)),
            "" if level.share is None else f"{level.share:.1%}",
            *map(_format, (level.cosine, level.through_weights)),
            *map(_format, level.weights or [None] * len(strides)),
        )
        for measurement in measurements
        for level in measurement.levels
    ]
    align = ["left", "left", *["right"] * (len(headers) - 2)]
    return tabulate(rows, headers, tablefmt="pipe", colalign=align, disable_numparse=True)


def _format(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}"


def draw_gradients(measurements: Sequence[Measurement], path: Path) -> None:
    """Write a PNG of the share and cosine of the other levels' negatives, in bars for each level.

    Args:
        measurements: of the same levels; each detector at least at the first of the stages.
    """
    from matplotlib.figure import Figure  # pyplot would look for a display

    stages = [stage for stage in STAGES if any(x.stage == stage for x in measurements)]
    labels = list(dict.fromkeys(x.label for x in measurements))
    figure = Figure(figsize=(1.5 + 3.5 * len(stages), 5.5), layout="constrained")
    grid = figure.subplots(len(PANELS), len(stages), sharex=True, sharey="row", squeeze=False)
    for axes_row, (attribute, title) in zip(grid, PANELS.items()):
        axes_row[0].set_ylabel(title)
        for axes, stage in zip(axes_row, stages):
            _draw_bars(axes, [x for x in measurements if x.stage == stage], labels, attribute)
    for axes, stage in zip(grid[0], stages):
        axes.set_title(f"{stage} training")
    figure.legend(*grid[0][0].get_legend_handles_labels(), loc="outside upper center", ncols=4)
    figure.savefig(path, dpi=120)


def _draw_bars(
    axes: Axes, measurements: Sequence[Measurement], labels: Sequence[str], attribute: str
) -> None:
    """Draw an attribute as a group of bars for each level, with a colour for each label."""
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
