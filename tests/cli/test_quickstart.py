"""The quick start, on little data."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from tests.training import ROOT


@pytest.mark.slow
def test_short_quick_start(tmp_path: Path):
    # In a process of its own: the names of datasets mean folders that are fixed at import.
    env = {**os.environ, "PYTHONPATH": str(ROOT / "projects" / "ASFF"), "OMP_NUM_THREADS": "1"}
    env.pop("DETECTRON2_DATASETS", None)
    command = [sys.executable, "-m", "asff", "quickstart", "--iterations", "4", "--images", "16"]
    command += ["--output", "here", "DATALOADER.NUM_WORKERS", "0"]
    command += ["MODEL.YOLOV3.SCORE_THRESH_TEST", "0.0"]  # no score is high after four steps
    done = subprocess.run(command, env=env, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert done.stdout.count("Evaluation results for bbox") == 1
    assert "Next: asff report here" in done.stdout
    assert len(list((tmp_path / "datasets/shapes/images").iterdir())) == 16 + 2
    assert (tmp_path / "here/model_final.pth").is_file()
    images = sorted((tmp_path / "here/detections").iterdir())
    assert len(images) == 2
    # Ground truth and detections of 192 pixels each, twice as large, side by side.
    assert Image.open(images[0]).size == (2 * 2 * 192, 2 * 192)
