"""The results of an ablation: statistics of each config over the seeds, as JSON and Markdown."""

from __future__ import annotations

import math
import os
import shlex
import statistics
from collections.abc import Sequence
from pathlib import Path

from tabulate import tabulate

from .runs import Grid

METRICS = ("AP", "AP50", "APs", "APm", "APl")
COMPARED = ("AP", "AP50")
CONFIDENCE = 0.95

# None: unknown, such as the AP of a size of which COCO has no objects; so is all computed from it.
Values = Sequence["float | None"]


def mean(values: Values) -> float | None:
    return statistics.mean(values) if values and None not in values else None


def deviation(values: Values) -> float | None:
    """Compute the standard deviation of a sample (n - 1)."""
    return statistics.stdev(values) if len(values) > 1 and None not in values else None


def margin(values: Values) -> float | None:
    """Compute half the width of the confidence interval of the mean, by Student's t."""
    from scipy.stats import t

    spread = deviation(values)
    if spread is None:
        return None
    quantile = float(t.ppf((1 + CONFIDENCE) / 2, len(values) - 1))
    return quantile * spread / math.sqrt(len(values))


def make_table(folder: Path, grid: Grid, records: Sequence[dict], costs: dict) -> dict:
    """Collect the contents of the table.

    Args:
        records: those of the finished runs; see :func:`write_record`.
        costs: see :func:`measure_costs`; may be empty.

    Returns:
        The command, its hardware, and ``rows``, one per config; see :func:`make_row`.
    """
    by_config = {file: {} for file in grid.config_files}
    for record in records:
        by_config[record["config_file"]][record["seed"]] = record["metrics"]
    baseline = by_config[grid.config_files[0]]
    rows = []
    for file, metrics in by_config.items():
        again = Path("output", f"{folder.resolve().name}_again")
        row = {"config_file": file, "command": _command(again, grid, [file])}
        row.update(make_row(metrics, baseline if metrics is not baseline else {}))
        row.update(costs.get("configs", {}).get(file, {}))
        rows.append(row)
    return {
        "command": _command(folder, grid, grid.config_files),
        "seeds": grid.seeds,
        "dates": sorted({record["date"] for record in records}),
        **{
            key: sorted({record[key] for record in records})
            for key in ("hardware", "threads", "jobs")
        },
        "training_seconds": [x["training_seconds"] for x in records if x["training_seconds"]],
        "costs": {key: value for key, value in costs.items() if key != "configs"},
        "rows": rows,
    }


def make_row(metrics: dict[int, dict], baseline: dict[int, dict]) -> dict:
    """Compute the statistics of a config.

    Args:
        metrics: those of its runs, by seed.
        baseline: those of the config to compare with, by seed.

    Returns:
        ``seeds``; by name of metric, ``values`` in their order, ``mean`` and ``std``; and the
        ``differences`` to the baseline of the same seeds: ``seeds``, ``mean``, ``low``, ``high``.
    """
    seeds = sorted(metrics)
    row = {"seeds": seeds, "differences": {}}
    for name in METRICS:
        values = [metrics[seed].get(name) for seed in seeds]
        row[name] = {"values": values, "mean": mean(values), "std": deviation(values)}
    common = [seed for seed in seeds if seed in baseline]
    for name in COMPARED if common else ():
        pairs = [(metrics[seed].get(name), baseline[seed].get(name)) for seed in common]
        values = [None if None in pair else pair[0] - pair[1] for pair in pairs]
        middle, half = mean(values), margin(values)
        low, high = (None, None) if half is None else (middle - half, middle + half)
        row["differences"][name] = {"seeds": common, "mean": middle, "low": low, "high": high}
    return row


def _command(folder: Path, grid: Grid, config_files: Sequence[str]) -> str:
    """Return the command that makes these results."""
    parts = ["asff", "ablate", str(folder)]
    parts += ["--config-files", *config_files, "--seeds", *map(str, grid.seeds)]
    parts += ["--jobs", str(grid.jobs), "--threads", str(grid.threads)]
    return shlex.join([*parts, *grid.opts])


def to_markdown(folder: Path, table: dict) -> str:
    """Format the table as a page, with the commands that reproduce it."""
    rows = table["rows"]
    parts = [
        f"# {folder.resolve().name}",
        f"```bash\n{table['command']}\n```",
        _describe_runs(table),
        _format_rows(folder, rows, len(table["seeds"])),
        f"Mean ± standard deviation over the seeds. Δ: difference to the first row for the same "
        f"seeds, with its {CONFIDENCE:.0%} confidence interval (Student's t). n/a: too few seeds, "
        "or a run without such objects.",
        *(_describe_costs(table["costs"], rows) if table["costs"] else ()),
        "![AP of each config](plot.png)",
        "To repeat one row:",
        "```bash\n" + "\n".join(row["command"] for row in rows) + "\n```",
    ]
    return "\n\n".join(parts) + "\n"


def _describe_runs(table: dict) -> str:
    """Describe when and where the runs were made, and how long they took."""
    facts = {"Seeds": "seeds", "dates": "dates", "hardware": "hardware"}
    facts |= {"threads of a run": "threads", "runs at a time": "jobs"}
    known = {name: ", ".join(map(str, table[key])) for name, key in facts.items() if table[key]}
    texts = [f"{name}: {values}" for name, values in known.items()]
    minutes = [seconds / 60 for seconds in table["training_seconds"]]
    if minutes:
        texts.append(f"training steps of a run: {min(minutes):.1f} to {max(minutes):.1f} minutes")
    return "; ".join(texts) + "."


def _describe_costs(costs: dict, rows: Sequence[dict]) -> list[str]:
    """Describe how the costs were measured."""
    names = sorted({name for row in rows for name in row.get("not_counted", ())})
    return [
        "Multiply-adds are those that fvcore counts, for the first test image. Not counted: "
        "elementwise operations" + "".join(f", `{name}`" for name in names) + ".",
        "Latency ratio: time of a forward pass of that image relative to the first row, median of "
        f"{costs['rounds']} rounds that run every network once; random weights; "
        f"{costs['hardware']}; threads: {costs['threads']}; {costs['date']}.",
    ]


def _format_rows(folder: Path, rows: Sequence[dict], num_seeds: int) -> str:
    headers = ["config", "seeds", *METRICS, *(f"Δ {name}" for name in COMPARED)]
    headers += ["parameters (M)", "multiply-adds (G)", "latency ratio"]
    lines = []
    for row in rows:
        seeds = f"{len(row['seeds'])} of {num_seeds}"
        differences = (row["differences"].get(name) for name in COMPARED)
        lines.append(
            [
                _link(row["config_file"], folder),
                seeds if len(row["seeds"]) < num_seeds else num_seeds,
                *(_show_estimate(row[name]) for name in METRICS),
                *("" if row is rows[0] else _show_difference(x) for x in differences),
                show(row.get("parameters"), "{:.2f}", 1e6),
                show(row.get("multiply_adds"), "{:.3f}", 1e9),
                show(row.get("latency_ratio"), "{:.2f}"),
            ]
        )
    align = ("left", *["right"] * (len(headers) - 1))
    return tabulate(lines, headers, tablefmt="pipe", disable_numparse=True, colalign=align)


def _link(config_file: str, folder: Path) -> str:
    """Return the name of a config, with a link from the folder if the file exists."""
    path = Path(config_file)
    if not path.is_file():
        return path.stem
    return f"[{path.stem}]({os.path.relpath(path.resolve(), folder.resolve())})"


def _show_estimate(estimate: dict) -> str:
    text = show(estimate["mean"])
    return text if estimate["std"] is None else f"{text} ± {estimate['std']:.1f}"


def _show_difference(difference: dict | None) -> str:
    if difference is None or difference["mean"] is None:
        return "n/a"
    interval = [show(difference[end], "{:+.1f}") for end in ("low", "high")]
    interval = "n/a" if difference["low"] is None else f"[{', '.join(interval)}]"
    return f"{difference['mean']:+.1f} {interval}"


def show(value: float | None, form: str = "{:.1f}", unit: float = 1.0) -> str:
    return "n/a" if value is None else form.format(value / unit)
