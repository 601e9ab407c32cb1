"""Times of candidates that take turns, so that the load of the machine cancels in their ratios."""

from __future__ import annotations

import os
import platform
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from tqdm import trange

PERCENTILES = (10, 50, 90)


def measure_seconds(function: Callable[[], object]) -> float:
    """Call a function, and return the seconds that it and its work on the GPU take."""
    synchronize()
    start = time.perf_counter()
    function()
    synchronize()
    return time.perf_counter() - start


def synchronize() -> None:
    """Wait for the GPU, if there is one: its kernels run asynchronously."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def interleave(
    candidates: Sequence[Callable[[], Mapping[str, float]]], rounds: int, warm_up: int = 3
) -> list[dict[str, np.ndarray]]:
    """Run every candidate once a round.

    Args:
        candidates: each returns the seconds of its stages.
        warm_up: first rounds that do not count.

    Returns:
        For each candidate the seconds (rounds,) of its stages and, if it has several, ``total``.
    """
    times = [defaultdict(list) for _ in candidates]
    for step in trange(warm_up + rounds, desc="measuring", unit="round"):
        for candidate, own in zip(candidates, times):
            stages = candidate()
            if step >= warm_up:
                total = {"total": sum(stages.values())} if len(stages) > 1 else {}
                for stage, seconds in {**stages, **total}.items():
                    own[stage].append(seconds)
    return [{stage: np.array(x) for stage, x in own.items()} for own in times]


def summarize(
    seconds: Mapping[str, np.ndarray], first: Mapping[str, np.ndarray]
) -> dict[str, dict[str, float]]:
    """Summarize the times of a candidate.

    Args:
        seconds: (rounds,) by stage; see :func:`interleave`.
        first: those of the candidate that ratios refer to.

    Returns:
        By stage ``ms``, the median, with the percentiles ``ms_p10`` and ``ms_p90``; where ``first``
        has the stage, the same of the ratios within each round: ``ratio``, ``ratio_p10``, ...
    """
    stages = {}
    for stage, own in seconds.items():
        values = {"ms": 1e3 * own}
        if stage in first:
            values["ratio"] = own / first[stage]
        stages[stage] = {
            key + suffix: round(float(x), 4)
            for key, numbers in values.items()
            for suffix, x in zip(("_p10", "", "_p90"), np.percentile(numbers, PERCENTILES))
        }
    return stages


def describe_hardware(device: str) -> str:
    """Return the processor that MODEL.DEVICE names on this machine, and the version of torch."""
    if torch.device(device).type == "cuda" and torch.cuda.is_available():
        return f"{torch.cuda.get_device_name()}, torch {torch.__version__}"
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.is_file() else ()
    names = [line.split(":")[1].strip() for line in lines if "model name" in line]
    name = names[0] if names else platform.processor() or platform.machine()
    return f"{os.cpu_count()} cores of {name}, torch {torch.__version__}"
