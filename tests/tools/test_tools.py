"""The tools run as printed, on little data."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

ROOT = Path(__file__).parents[2]


def run_tool(name: str, *args: str, **env: str) -> str:
    """What a tool prints; fails where it does."""
    command = [sys.executable, str(ROOT / "tools" / name), *args]
    paths = {"PYTHONPATH": str(ROOT / "projects" / "ASFF")}
    done = subprocess.run(
        command, env={**os.environ, **paths, **env}, cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


@pytest.mark.slow
def test_shortened_quick_start(tmp_path: Path):
    output = tmp_path / "output"
    printed = run_tool(
        "quickstart.py",
        *("--images", "16", "OUTPUT_DIR", str(output), "DATALOADER.NUM_WORKERS", "0"),
        *("SOLVER.MAX_ITER", "4", "TEST.EVAL_PERIOD", "4", "SOLVER.WARMUP_ITERS", "2"),
        *("MODEL.YOLOV3.SCORE_THRESH_TEST", "0.0"),  # nothing is sure after four steps
        DETECTRON2_DATASETS=str(tmp_path),
        OMP_NUM_THREADS="1",
    )
    assert "Evaluation results for bbox" in printed and str(output) in printed
    assert len(list((tmp_path / "shapes" / "images").iterdir())) == 16 + 2
    assert (output / "model_final.pth").is_file()
    pictures = sorted((output / "pictures").iterdir())
    assert len(pictures) == 2
    # Truth and detections of 192 pixels each, twice as large, side by side.
    assert Image.open(pictures[0]).size == (2 * 2 * 192, 2 * 192)


def test_benchmark_of_a_step():
    printed = run_tool(
        "benchmark.py",
        *("step", "--config-file", "configs/quickstart.yaml", "--images", "1"),
        *("--size", "64", "--repeats", "2"),
        OMP_NUM_THREADS="1",
    )
    assert "1 images of 64 pixels, cpu, 1 threads: one step takes 0." in printed
