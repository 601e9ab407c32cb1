#!/usr/bin/env python
"""Compares configs: trains each with several seeds, and writes a table and a plot of them all.

    python tools/ablate.py FOLDER --config-files A.yaml B.yaml --seeds 1 2 3 [--jobs 2] \\
        [--threads 1] [--opts KEY VALUE ...]
    python tools/ablate.py FOLDER [--costs]

FOLDER gets a small JSON of each run, which marks it as finished: the same command goes on with
what is missing, from the last checkpoint on, and a longer one adds configs or seeds. The runs
themselves write to output/ablations. Without --config-files table and plot are made from FOLDER.
"""

from __future__ import annotations

import argparse
import signal
import sys
from dataclasses import asdict
from pathlib import Path

# First, for it says what is not installed.
from ..engine import user_errors

# isort: split
from ..ablation.costs import measure_costs, read_costs
from ..ablation.plot import draw_plot
from ..ablation.processes import run_all
from ..ablation.records import read_records, write_record
from ..ablation.runs import (
    Run,
    is_finished,
    plan_runs,
    read_grid,
    relative_to_root,
    update_grid,
    write_json,
)
from ..ablation.table import make_table, show, to_markdown


def train(args: argparse.Namespace) -> list[str]:
    """Train what is asked for and not finished; return the names of runs that failed."""
    grid = update_grid(args)
    # Also of those not asked for now the settings must be the same.
    missing = [run for run in plan_runs(args.folder, grid) if not is_finished(run)]
    write_json(args.folder / "grid.json", asdict(grid))
    files = [relative_to_root(file) for file in args.config_files]
    asked = [run for run in missing if run.config_file in files and run.seed in args.seeds]
    print(f"{len(asked)} runs to train; others are finished or not asked for.")

    def finish(run: Run) -> str:
        metrics = write_record(run, args.jobs, args.threads)
        return f"{run.name}: AP {show(metrics['AP'])}, AP50 {show(metrics['AP50'])}"

    return run_all(asked, args.jobs, args.threads, finish)


def update_costs(folder: Path, *, again: bool) -> None:
    """Measure what the configs cost, where that is not known or is asked for again."""
    grid, known = read_grid(folder), read_costs(folder).get("configs", {})
    if again or not set(grid.config_files) <= set(known):
        write_json(folder / "costs.json", measure_costs(grid))


def report(folder: Path) -> None:
    """Write the table and the plot of what is finished."""
    grid = read_grid(folder)
    table = make_table(folder, grid, read_records(folder, grid), read_costs(folder))
    page = to_markdown(folder, table)
    write_json(folder / "table.json", table)
    (folder / "table.md").write_text(page)
    draw_plot(table, folder / "plot.png")
    print(f"\n{page}\nWritten to {folder}: table.md, table.json, plot.png.")


def count(text: str) -> int:
    """Reads a positive number of the command line."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a whole number of at least 1")
    return int(text)


def seed(text: str) -> int:
    """Reads a seed of the command line."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text} is not a whole number of at least 0")
    return int(text)


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0],
        usage="%(prog)s FOLDER [--config-files FILE ... --seeds N ...] [--opts KEY VALUE ...] "
        "[--jobs N] [--threads N] [--costs]",
    )
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="of the results")
    parser.add_argument("--config-files", nargs="+", default=[], metavar="FILE")
    parser.add_argument("--seeds", nargs="+", type=seed, default=[], metavar="N")
    parser.add_argument("--jobs", type=count, default=1, help="runs at a time")
    parser.add_argument("--threads", type=count, default=1, help="of each run")
    parser.add_argument("--opts", nargs="+", default=[], metavar="KEY VALUE", help="of all runs")
    parser.add_argument("--costs", action="store_true", help="measure speed and size anew")
    args = parser.parse_args()
    if bool(args.config_files) != bool(args.seeds):
        parser.error("--config-files and --seeds belong together")
    if not args.config_files and args.opts:
        parser.error("--opts needs --config-files")
    return args


def main() -> None:
    args = parse_args()
    sys.stdout.reconfigure(line_buffering=True)  # a log file tells at once what has happened
    # Whoever ends this tool ends its runs too; under nohup nobody does by a hang-up.
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, signal.default_int_handler)
    try:
        with user_errors():
            failed = train(args) if args.config_files else []
            if args.costs or args.config_files and not failed:
                update_costs(args.folder, again=args.costs)
            report(args.folder)
    except KeyboardInterrupt:
        sys.exit("\nablate.py: stopped, with all its runs. The same command goes on from here.")
    if failed:
        sys.exit(f"ablate.py: error: these runs failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
