"""Candidates of a measurement, in processes that take turns; also of another version of the code.

A process has the memory, the threads and the version of its candidates alone.
"""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from ..analysis.timing import interleave, summarize

PACKAGE = Path(__file__).parents[1]
WORKER = Path(__file__).with_name("worker.py")


class Worker:
    """A process that builds what a spec says, and runs it at requests; see worker.py.

    Args:
        spec: the first request.
        threads: of the process.
        code: folder that the package is imported from; None: this one's.
    """

    def __init__(self, spec: Mapping, *, threads: int, code: Path | None = None):
        self.spec = {**spec, "threads": threads}
        self.environment = {
            **os.environ,
            "PYTHONPATH": str(code or PACKAGE.parent),
            "PYTHONWARNINGS": "ignore",
            "OMP_NUM_THREADS": str(threads),
        }
        if spec.get("device") == "cpu":
            self.environment["CUDA_VISIBLE_DEVICES"] = ""
        self.process: subprocess.Popen | None = None

    def ask(self, request: Mapping) -> dict:
        """Send a request, and return the answer; the first one starts the process.

        Raises:
            ValueError: what the process finds wrong with the spec.
        """
        if self.process is None:
            self.process = subprocess.Popen(
                [sys.executable, WORKER],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                env=self.environment,
            )
            self.ask(self.spec)
        print(json.dumps(request), file=self.process.stdin, flush=True)
        answer = json.loads(self.process.stdout.readline() or "null")
        if answer is None:
            raise RuntimeError(f"A process that was to be measured ended at the request {request}.")
        if "error" in answer:
            raise ValueError(answer["error"])
        return answer

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *error: object) -> None:
        if self.process is not None:
            self.process.stdin.close()
            self.process.wait()


@dataclass
class Candidate:
    """What is measured.

    Attributes:
        name: of the network or path.
        worker: the process that it is in.
        inputs: of a run.
        axes: what candidates of one name differ in, as ``size``; ratios are to the first candidate
            with the same axes.
        facts: further keys of its row.
        memory: peak bytes of weights and activations; None where the system does not tell.
    """

    name: str
    worker: Worker
    inputs: dict
    axes: dict
    facts: dict = field(default_factory=dict)
    memory: int | None = 0

    def run(self) -> dict[str, float]:
        """Run once, and return the seconds of each stage."""
        answer = self.worker.ask(self.inputs)
        self.memory = answer["memory"] and max(self.memory, answer["memory"])
        return answer["stages"]


def measure(candidates: Sequence[Candidate], rounds: int, warm_up: int = 2) -> list[dict]:
    """Measure candidates that take turns.

    Returns:
        For each its ``name``, axes and facts, the peak of ``memory_mib`` and, by name, its
        ``stages``; see :func:`summarize`.
    """
    calls = [candidate.run for candidate in candidates]
    times = interleave(calls, rounds, warm_up) if rounds else [{}] * len(calls)
    rows = []
    for candidate, seconds in zip(candidates, times):
        first = next(i for i, x in enumerate(candidates) if x.axes == candidate.axes)
        row = {"name": candidate.name, **candidate.axes, **candidate.facts}
        if candidate.memory:
            row["memory_mib"] = round(candidate.memory / 2**20)
        rows.append({**row, "stages": summarize(seconds, times[first])})
    return rows


@contextmanager
def checkout(version: str) -> Iterator[Path]:
    """Yield the folder from which to import the package as a version has it.

    Args:
        version: a checkout, or a revision of the repository that this package is in.

    Raises:
        ValueError: it is neither.
    """
    if Path(version).is_dir():
        nested = Path(version, "projects/ASFF").absolute()
        yield nested if nested.is_dir() else Path(version).absolute()
        return
    top = subprocess.run(
        ["git", "-C", PACKAGE, "rev-parse", "--show-toplevel"], capture_output=True, text=True
    ).stdout.strip()
    archive = subprocess.run(
        ["git", "-C", top or ".", "archive", f"{version}:projects/ASFF"], capture_output=True
    )
    if archive.returncode:
        raise ValueError(
            f"--against {version} is neither a folder nor a revision of the repository: "
            f"{archive.stderr.decode().strip()}. Name a commit, or a folder with another checkout."
        )
    with tempfile.TemporaryDirectory(prefix="asff_against_") as folder:
        tarfile.open(fileobj=io.BytesIO(archive.stdout)).extractall(folder)
        yield Path(folder)
