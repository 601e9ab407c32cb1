"""Training runs as processes: several at a time, seen while they work, and ended with us."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from datetime import timedelta
from pathlib import Path

from tqdm import tqdm

from .records import read_metrics
from .runs import ROOT, Run, can_resume, find_config, write_json

POLL_SECONDS, GRACE_SECONDS = 1.0, 30.0
LAST_LINES = 15  # of the log of a failed run


def run_all(
    runs: Sequence[Run], jobs: int, threads: int, finish: Callable[[Run], str]
) -> list[str]:
    """Run all, ``jobs`` at a time; one that fails is reported, and the others go on.

    Args:
        finish: called with each run that ended well; returns what to print of it. With a
            ValueError the run failed after all.

    Returns:
        names of the runs that failed.
    """
    waiting, running, failed = deque(runs), [], []
    with tqdm(total=len(runs), unit="run") as bar:
        try:
            while waiting or running:
                while waiting and len(running) < jobs:
                    run = waiting.popleft()
                    running.append((run, start(run, threads)))
                time.sleep(POLL_SECONDS)
                ended = [x for x in running if x[1].poll() is not None]
                running = [x for x in running if x not in ended]
                for run, process in ended:
                    if not close(run, process.returncode, finish):
                        failed.append(run.name)
                    bar.update()
                show_progress(bar, [run for run, _ in running])
        finally:
            end([process for _, process in running])
    return failed


def start(run: Run, threads: int) -> subprocess.Popen:
    """Begin a run, or go on from its last checkpoint; what it prints goes to its log file."""
    if not can_resume(run):  # what an earlier try has told of its way is no part of this run
        (run.output_dir / "metrics.json").unlink(missing_ok=True)
    place = {"folder": str(run.folder.resolve())}
    write_json(run.output_dir / "run.json", {**run.identity(), **place})
    # Options first: Detectron2's parser takes all that follows a KEY for KEY VALUE pairs.
    command = [sys.executable, ROOT / "train_net.py", "--resume"]
    command += ["--config-file", find_config(run.config_file)]
    command += [*run.opts, "SEED", run.seed, "OUTPUT_DIR", run.output_dir]
    with log_file(run).open("a") as log:
        return subprocess.Popen(
            list(map(str, command)),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env={**os.environ, "OMP_NUM_THREADS": str(threads)},
            start_new_session=True,  # so that it can be ended together with its data workers
        )


def end(processes: Sequence[subprocess.Popen]) -> None:
    """End processes and all that they have started: asked first, then forced."""
    for process in processes:
        signal_group(process, signal.SIGTERM)
    deadline = time.monotonic() + GRACE_SECONDS
    for process in processes:
        with suppress(subprocess.TimeoutExpired):
            process.wait(max(deadline - time.monotonic(), 0.0))
        signal_group(process, signal.SIGKILL)
        process.wait()


def signal_group(process: subprocess.Popen, number: signal.Signals) -> None:
    with suppress(ProcessLookupError):  # it has ended by itself
        os.killpg(process.pid, number)


def close(run: Run, code: int, finish: Callable[[Run], str]) -> bool:
    """Print how a run has ended, and return whether it ended well."""
    try:
        if code:
            raise ValueError(f"exit code {code}")
        tqdm.write(finish(run))
    except ValueError as error:
        lines = log_file(run).read_text(errors="replace").splitlines()[-LAST_LINES:]
        end_of_log = "\n".join(f"    {line}" for line in lines)
        tqdm.write(f"{run.name} failed: {error}\nThe end of {log_file(run)}:\n{end_of_log}")
        return False
    return True


def log_file(run: Run) -> Path:
    return run.output_dir.with_name(f"{run.name}.log")


def show_progress(bar: tqdm, runs: Iterable[Run]) -> None:
    """Show how far these runs are, where that is news."""
    text = " | ".join(map(describe_progress, runs))
    if text != bar.postfix:
        bar.set_postfix_str(text)


def describe_progress(run: Run) -> str:
    """Name, iteration and time left, as far as the run has told."""
    lines = [line for line in read_metrics(run) if "eta_seconds" in line]
    if not lines:
        return f"{run.name} starts"
    left = timedelta(seconds=int(lines[-1]["eta_seconds"]))
    return f"{run.name} {lines[-1]['iteration'] + 1}/{run.max_iter}, {left} left"
