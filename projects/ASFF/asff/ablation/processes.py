"""Training runs as processes: several at a time, with their progress, terminated with this one."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterable, Sequence
from contextlib import suppress
from datetime import timedelta
from pathlib import Path

from tqdm import tqdm

from ..report.run_folder import read_metrics
from .records import write_record
from .runs import Run, write_json
from .table import show

TRAIN = (sys.executable, "-m", "asff", "train")
POLL_SECONDS, GRACE_SECONDS = 1.0, 30.0
LAST_LINES = 15  # of the log of a failed run


def run_all(runs: Sequence[Run], jobs: int, threads: int) -> list[str]:
    """Train all runs, ``jobs`` at a time, and write their records; go on after one that fails.

    Returns:
        Names of the runs that failed.
    """
    waiting, running, failed = deque(runs), [], []
    with tqdm(total=len(runs), unit="run") as bar:
        try:
            while waiting or running:
                while waiting and len(running) < jobs:
                    run = waiting.popleft()
                    running.append((run, _start(run, threads)))
                time.sleep(POLL_SECONDS)
                ended = [x for x in running if x[1].poll() is not None]
                running = [x for x in running if x not in ended]
                for run, process in ended:
                    if not _finish(run, process.returncode, jobs, threads):
                        failed.append(run.name)
                    bar.update()
                _show_progress(bar, [run for run, _ in running])
        finally:
            _terminate([process for _, process in running])
    return failed


def _start(run: Run, threads: int) -> subprocess.Popen:
    """Start a run, or resume it from its last checkpoint; what it prints goes to its log file."""
    if not run.can_resume:  # metrics of an earlier attempt are no part of this run
        (run.output_dir / "metrics.json").unlink(missing_ok=True)
    folder = str(run.folder.resolve())
    write_json(run.output_dir / "run.json", {**run.identity(), "folder": folder})
    command = [*TRAIN, "--resume", "--config-file", run.config_file]
    command += [*run.opts, "SEED", run.seed, "OUTPUT_DIR", run.output_dir]
    with _log_file(run).open("a") as log:
        return subprocess.Popen(
            list(map(str, command)),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env={**os.environ, "OMP_NUM_THREADS": str(threads)},
            start_new_session=True,  # so that it can be terminated together with its data workers
        )


def _terminate(processes: Sequence[subprocess.Popen]) -> None:
    """Terminate processes and their children, by force after a while."""
    for process in processes:
        _signal_group(process, signal.SIGTERM)
    deadline = time.monotonic() + GRACE_SECONDS
    for process in processes:
        with suppress(subprocess.TimeoutExpired):
            process.wait(max(deadline - time.monotonic(), 0.0))
        _signal_group(process, signal.SIGKILL)
        process.wait()


def _signal_group(process: subprocess.Popen, number: signal.Signals) -> None:
    with suppress(ProcessLookupError):  # it has ended
        os.killpg(process.pid, number)


def _finish(run: Run, code: int, jobs: int, threads: int) -> bool:
    """Write the record of a run that has ended and print its AP; return whether it succeeded."""
    try:
        if code:
            raise ValueError(f"exit code {code}")
        metrics = write_record(run, jobs, threads)
        tqdm.write(f"{run.name}: AP {show(metrics['AP'])}, AP50 {show(metrics['AP50'])}")
    except ValueError as error:
        lines = _log_file(run).read_text(errors="replace").splitlines()[-LAST_LINES:]
        end_of_log = "\n".join(f"    {line}" for line in lines)
        tqdm.write(f"{run.name} failed: {error}\nThe end of {_log_file(run)}:\n{end_of_log}")
        return False
    return True


def _log_file(run: Run) -> Path:
    return run.output_dir.with_name(f"{run.name}.log")


def _show_progress(bar: tqdm, runs: Iterable[Run]) -> None:
    """Show the progress of runs if it has changed."""
    text = " | ".join(map(_describe_progress, runs))
    if text != bar.postfix:
        bar.set_postfix_str(text)


def _describe_progress(run: Run) -> str:
    """Return name, iteration and remaining time, as far as the run has logged them."""
    lines = [x for x in read_metrics(run.output_dir / "metrics.json") if "eta_seconds" in x]
    if not lines:
        return f"{run.name} starts"
    left = timedelta(seconds=int(lines[-1]["eta_seconds"]))
    return f"{run.name} {lines[-1]['iteration'] + 1}/{run.max_iter}, {left} left"
