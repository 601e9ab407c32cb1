from __future__ import annotations

from pathlib import Path

import pytest
import torch

from asff.device_check import runner
from asff.device_check.target import Result, Target
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


def lack_memory(*args: object, **options: object):
    raise RuntimeError("no memory")


@pytest.mark.parametrize(("budget", "code"), [(100.0, 1), (-1.0, 0)])
def test_errors_fail_and_time_ends(monkeypatch, tmp_path: Path, budget: float, code: int):
    """Once the time is over nothing more begins, and nothing fails."""
    monkeypatch.setattr(runner, "CHECKS", {"broken": fail})
    monkeypatch.setattr(runner, "BUDGET", budget)
    monkeypatch.setattr(runner, "measure_detectors", lack_memory)
    run = run_asff("check-device", "--device", "cpu", "--output", tmp_path / "report.md")
    assert run.code == code
    report = (tmp_path / "report.md").read_text()
    assert ("| broken | FAIL | RuntimeError('no kernel" in report) == bool(code)
    assert ("| broken, the rest | - |" in report) == (not code)
    assert f"1 passed, {code} failed" in report
    assert "Not measured: coco/yolov3_d53_asff.yaml, train: no memory" in report


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu():
    message = run_asff("check-device").error
    assert "--device cuda" in message and "--device cpu" in message
