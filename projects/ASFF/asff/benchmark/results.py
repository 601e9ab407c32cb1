"""Results of measurements: what they depend on, as a Markdown table, as curves."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from datetime import date
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from tabulate import tabulate

from ..analysis.timing import describe_hardware

RUNTIMES = ("torchvision", "onnxruntime", "openvino", "hotcoco", "pycocotools")
# By the ending of a key of a row.
UNITS = {"_mib": " (MiB)", "_m": " (M)", "_g": " (G)", "_per_s": " per s"}
POWERS = {"size": 2, "threads": -1}  # work is the input to this power; of other inputs to 1


def describe(rows: list[dict], device: str) -> dict:
    """Return rows together with their date, hardware and versions."""
    versions = {"python": platform.python_version()}
    for name in RUNTIMES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    return {
        "date": date.today().isoformat(),
        "hardware": describe_hardware(device),
        "versions": versions,
        "rows": rows,
    }


def to_markdown(result: dict, stage: str = "total") -> str:
    """Format a result: a line, and a table with a row for each candidate.

    Args:
        stage: whose percentiles and ratio are shown; of the others there are medians.
    """
    stages = dict.fromkeys(x for row in result["rows"] for x in row["stages"] if x != "total")
    table = []
    for row in result["rows"]:
        line = {_title(key): value for key, value in row.items() if key != "stages"}
        for name in (*stages, "total"):
            if times := row["stages"].get(name):
                line[f"{name} (ms)"] = _format(times, "ms", percentiles=name == stage)
        if "ratio" in (times := row["stages"].get(stage, {})):
            line[f"ratio of {stage}"] = _format(times, "ratio", percentiles=True)
        table.append(line)
    versions = (f"{name} {number}" for name, number in result["versions"].items())
    head = ", ".join((result["date"], result["hardware"], *versions))
    cells = tabulate(table, headers="keys", tablefmt="pipe", disable_numparse=True)
    return f"{head}. In brackets: 10th to 90th percentile.\n\n{cells}"


def _title(key: str) -> str:
    for ending, unit in UNITS.items():
        if key.endswith(ending):
            key = key.removesuffix(ending) + unit
    return key.replace("_", " ")


def _format(values: dict[str, float], key: str, *, percentiles: bool) -> str:
    low, median, high = (
        f"{x:.2f}" if key == "ratio" else f"{x:.1f}" if x < 100 else f"{x:.0f}"
        for x in (values[key + suffix] for suffix in ("_p10", "", "_p90"))
    )
    return f"{median} ({low} to {high})" if percentiles else median


def draw_curves(results: Sequence[dict], file: Path) -> None:
    """Draw time and memory over the input that the rows of a result differ in, for each result.

    All scales are logarithmic. Dotted lines are proportional to the work, and start at the first
    point: a curve that is nowhere steeper grows linearly at most.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(3.2 * len(results), 5.6), layout="constrained")
    panels = figure.subplots(2, len(results), squeeze=False)
    for result, (above, below) in zip(results, panels.T):
        rows = result["rows"]
        key = next(key for key in rows[0] if key != "name" and rows[0][key] != rows[-1][key])
        power = POWERS.get(key, 1)
        times = [row["stages"]["total"] for row in rows]
        for panel, label, values, slope in (
            (above, "s", [x["ms"] / 1e3 for x in times], power),
            (below, "memory (MiB)", [row.get("memory_mib") for row in rows], max(power, 0)),
        ):
            if None in values:
                continue
            x = [row[key] for row in rows]
            panel.loglog(x, [values[0] * (v / x[0]) ** slope for v in x], ":", color="grey")
            panel.loglog(x, values, "o-", color="#0072B2")
            panel.set_xticks(x, x, rotation=45)
            panel.minorticks_off()
            panel.set(xlabel=_title(key), ylabel=label)
            panel.grid(alpha=0.3)
        above.fill_between(
            x, *([t[p] / 1e3 for t in times] for p in ("ms_p10", "ms_p90")), alpha=0.3
        )
        above.set_title(rows[0]["name"], fontsize="small")
    figure.savefig(file, dpi=80)
