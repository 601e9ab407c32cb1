"""Plot the results of an ablation."""

from __future__ import annotations

from pathlib import Path

from .table import CONFIDENCE, margin

DOTS, MEANS = "#0072B2", "#D55E00"  # blue and vermillion, distinct for the colour-blind


def draw_plot(table: dict, file: Path) -> None:
    """Plot the AP of each config: every seed, and the mean with its confidence interval.

    Args:
        table: see :func:`make_table`.
    """
    from matplotlib.figure import Figure

    rows = table["rows"]
    figure = Figure(figsize=(7, 1.2 + 0.5 * len(rows)), layout="constrained")
    axes = figure.subplots()
    for y, row in enumerate(rows):
        values, mean = row["AP"]["values"], row["AP"]["mean"]
        if mean is None:
            continue
        axes.plot(values, [y + 0.12] * len(values), "o", color=DOTS, alpha=0.7, label="a seed")
        axes.errorbar(
            mean,
            y - 0.12,
            xerr=margin(values),
            fmt="D",
            color=MEANS,
            capsize=4,
            label=f"mean, {CONFIDENCE:.0%} interval",
        )
    axes.set_yticks(range(len(rows)), [Path(row["config_file"]).stem for row in rows])
    axes.set_ylim(len(rows) - 0.5, -0.5)  # the first row at the top
    axes.set_xlabel("AP (%)")
    axes.grid(axis="x", alpha=0.3)
    # All rows have the same two labels.
    handles, labels = axes.get_legend_handles_labels()
    if labels:
        unique = dict(zip(labels, handles))
        figure.legend(unique.values(), unique.keys(), loc="outside upper right", ncols=2)
    figure.savefig(file, dpi=120)
