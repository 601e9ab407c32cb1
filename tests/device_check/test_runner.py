from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from asff.device_check import runner
from asff.device_check.target import Result, Target
from asff.engine import user_errors
from tests.training import run_asff

pytestmark = pytest.mark.usefixtures("one_thread", "clean_loggers")


@pytest.mark.slow
def test_a_cpu_passes(tmp_path: Path):
    """Everything but the waits for a GPU; the report has a row for each check and measurement."""
    run = run_asff("check-device", "--device", "cpu", "--output", tmp_path / "report.md")
    assert run.code == 0, run.output
    report = (tmp_path / "report.md").read_text()
    assert set(report.splitlines()) <= set(run.output.splitlines())
    for name in ("yolov3_d53_asff_star, float16", "two processes", "training, float16", "resume"):
        assert f"\n| {name} | pass |" in report
    assert "14 passed, 0 failed" in report
    assert "TEST.DTYPE bfloat16" in report and "PyTorch" in report


def fail(target: Target):
    yield Result("first", True, "1")
    raise RuntimeError("no kernel\nfor this device")


def end_training(target: Target):
    with user_errors():
        raise ValueError("no such dtype")
    yield


def lack_memory(*args: object, objects: int, **options: object):
    raise RuntimeError(f"no memory for {objects} objects")


def test_errors_fail(monkeypatch, tmp_path: Path):
    """They end neither the further checks nor the report."""
    monkeypatch.setattr(runner, "CHECKS", {"broken": fail, "training": end_training})
    monkeypatch.setattr(runner, "measure_detectors", lack_memory)
    output = tmp_path / "new" / "report.md"
    run = run_asff("check-device", "--device", "cpu", "--output", output)
    assert run.code == 1
    report = output.read_text()
    assert "| broken | FAIL | RuntimeError('no kernel" in report
    assert "| training | FAIL | ValueError('no such dtype')" in report
    assert "1 passed, 2 failed" in report
    assert "Not measured: coco/yolov3_d53_asff.yaml, train: no memory for 200 objects" in report


def test_nothing_begins_after_the_budget(monkeypatch, tmp_path: Path):
    now = [0.0]

    def take_long(target: Target):
        now[0] += 2 * runner.BUDGET
        yield from fail(target)

    monkeypatch.setattr(runner, "time", SimpleNamespace(monotonic=lambda: now[0]))
    monkeypatch.setattr(runner, "CHECKS", {"long": take_long, "broken": fail})
    found = [(x.name, x.passed) for x in runner.run_checks(Target(torch.device("cpu"), tmp_path))]
    assert found == [("first", True), ("long, the rest", None), ("broken", None)]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu():
    message = run_asff("check-device").error
    assert "--device cuda" in message and "--device cpu" in message
