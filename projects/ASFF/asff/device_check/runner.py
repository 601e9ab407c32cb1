"""All checks one after the other, and the report on them."""

from __future__ import annotations

import time
import traceback
from collections import Counter
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from detectron2.utils.collect_env import collect_env_info

from ..benchmark.detectors import measure_detectors
from ..benchmark.results import describe, to_markdown
from .agreement import check_agreement
from .processes import check_two_processes
from .target import ASFF, MOBILE, NARROW, STAR, Result, Target
from .training import check_training
from .waits import check_waits

CHECKS = {
    "agreement": check_agreement,
    "waits": check_waits,
    "two processes": check_two_processes,
    "training": check_training,  # it lets matrix products use TF32
}
BUDGET = 300.0  # seconds, after which no further check begins; the measurements take about 100
WORDS = {True: "pass", False: "FAIL", None: "-"}


def check_device(device: str) -> tuple[bool, str]:
    """Run all checks on a device, measure speed, and print the report line by line.

    Args:
        device: "cuda" (the first GPU) or "cpu".

    Returns:
        Whether no check failed, and the report, in Markdown.

    Raises:
        ValueError: PyTorch finds no GPU.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise ValueError(
            f"--device cuda: PyTorch {torch.__version__} finds no GPU here. Install a driver and a "
            "PyTorch for it, or check the CPU by --device cpu."
        )
    lines, start, counts = [], time.monotonic(), Counter()

    def show(line: str) -> None:
        print(line, flush=True)
        lines.append(f"{line}\n")

    show("| check | result | numbers |\n| --- | --- | --- |")
    with TemporaryDirectory(prefix="asff_check_device_") as folder:
        target = Target(torch.device(device), Path(folder))
        for result in run_checks(target):
            counts[result.passed] += 1
            show(f"| {result.name} | {WORDS[result.passed]} | {result.numbers} |")
    passed = f"{counts[True]} passed, {counts[False]} failed"
    show(f"\n{passed} in {time.monotonic() - start:.0f} s.\n")
    show(measure_speed(target))
    show(f"\n```\n{collect_env_info()}\n```")
    return not counts[False], "".join(lines)


def run_checks(target: Target) -> Iterator[Result]:
    """Yield the results of all checks; a check that raises an error has failed."""
    end = time.monotonic() + BUDGET
    for name, check in CHECKS.items():
        if time.monotonic() > end:
            yield Result(name, None, "no time left")
            continue
        try:
            for result in check(target):
                yield result
                if time.monotonic() > end:
                    yield Result(f"{name}, the rest", None, "no time left")
                    break
        except (Exception, SystemExit) as error:
            traceback.print_exc()
            if isinstance(error, SystemExit):  # user_errors() ends a training by it
                error = error.__context__ or error
            yield Result(name, False, repr(error).replace("|", "/")[:300])


def measure_speed(target: Target) -> str:
    """Measure inference and training steps of detectors in two dtypes, as a Markdown table."""
    names, size, images = ([ASFF, STAR, MOBILE], 608, 4) if target.on_gpu else ([ASFF], 96, 2)
    half = "float16" if target.on_gpu else "bfloat16"
    opts = ["MODEL.DEVICE", target.device.type, *(() if target.on_gpu else map(str, NARROW))]
    tasks = (
        ("model", {"batch": [1, images]}, f"TEST.DTYPE {half}"),
        ("train", {"images": [images], "boxes": [14]}, "SOLVER.AMP.ENABLED True"),
    )
    rows, errors = [], []
    for (task, axes, variant), name in product(tasks, names):
        # One config after the other: a GPU may not have memory for all.
        axes, threads = {"size": [(size, size)], **axes}, [torch.get_num_threads()]
        # As many objects as `asff benchmark model` has: with none, NMS would take no time.
        options = {"threads": threads, "rounds": 5, "variants": [variant], "objects": 200}
        try:
            rows += measure_detectors(task, [name], opts, axes, **options)[0]
        except RuntimeError as error:  # its process has printed why, as a lack of memory
            errors.append(f"\n\nNot measured: {name}, {task}: {error}")
    return to_markdown(describe(rows, target.device.type)) + "".join(errors)
