"""Compare configs: train each with several seeds, and write a table and a plot of the results.

    asff ablate FOLDER --config-files A.yaml B.yaml --seeds 1 2 3 [--jobs 2] [KEY VALUE ...]
    asff ablate FOLDER [--costs]

FOLDER gets a small JSON file for each finished run. The same command continues with missing runs,
from their last checkpoints; a longer one adds configs or seeds. The runs write to output/ablations.
Without --config-files, table and plot are made from FOLDER alone. Exit code 1: runs failed.
"""

from __future__ import annotations

import argparse
import io
import signal
import sys
from pathlib import Path

from . import VerbParser, at_least


def add_arguments(parser: VerbParser) -> None:
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="folder of the results")
    parser.add_argument("--config-files", nargs="+", default=[], metavar="FILE")
    parser.add_argument("--seeds", nargs="+", type=at_least(0), default=[], metavar="N")
    parser.add_argument("--jobs", type=at_least(1), default=1, help="simultaneous runs; default: 1")
    parser.add_argument("--threads", type=at_least(1), default=1, help="of each run; default: 1")
    parser.add_argument("--costs", action="store_true", help="measure the costs anew")
    parser.add_opts()


def run(args: argparse.Namespace) -> int:
    """Train the missing runs, measure the costs if needed, and write table and plot."""
    if bool(args.config_files) != bool(args.seeds):
        raise ValueError("--config-files and --seeds belong together: name both, or neither.")
    if not args.config_files and args.opts:
        raise ValueError(f"'{' '.join(args.opts)}' needs --config-files.")
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(line_buffering=True)  # so that a log file is up to date
    # Whoever terminates this process terminates its runs too; nohup ignores SIGHUP, and so do we.
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, signal.default_int_handler)
    try:
        return _compare(args)
    except KeyboardInterrupt:
        message = "stopped, with all its runs. The same command goes on from here."
        print(f"\nasff ablate: {message}", file=sys.stderr)
        return 1


def _compare(args: argparse.Namespace) -> int:
    """Do the work of :func:`run`, which handles signals."""
    from ..ablation import costs, plot, processes, records, runs, table

    failed, grid = [], None
    if args.config_files:
        asked = runs.Grid(args.config_files, args.seeds, args.opts, args.jobs, args.threads)
        grid = runs.extend_grid(args.folder, asked)
        # Check the settings of all runs, those not asked for now included.
        missing = [x for x in runs.plan_runs(args.folder, grid) if not runs.is_finished(x)]
        runs.write_grid(args.folder, grid)
        todo = [x for x in missing if x.config_file in args.config_files and x.seed in args.seeds]
        print(f"{len(todo)} runs to train; others are finished or not asked for.")
        failed = processes.run_all(todo, args.jobs, args.threads)
    grid = grid or runs.read_grid(args.folder)
    if args.costs or args.config_files and not failed:
        costs.update_costs(args.folder, grid, again=args.costs)

    results = records.read_records(args.folder, grid)
    content = table.make_table(args.folder, grid, results, costs.read_costs(args.folder))
    page = table.to_markdown(args.folder, content)
    runs.write_json(args.folder / "table.json", content)
    (args.folder / "table.md").write_text(page)
    plot.draw_plot(content, args.folder / "plot.png")
    print(f"\n{page}\nWritten to {args.folder}: table.md, table.json, plot.png.")
    if failed:
        print(f"asff ablate: error: these runs failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0
