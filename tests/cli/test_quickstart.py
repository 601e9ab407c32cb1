"""The quick start, on little data."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from tests.training import run_asff


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DETECTRON2_DATASETS", raising=False)
    return tmp_path


@pytest.mark.slow
def test_short_quick_start(folder):
    done = run_asff(
        *("quickstart", "--iterations", 4, "--images", 16, "--output", "here"),
        *("DATALOADER.NUM_WORKERS", 0, "MODEL.YOLOV3.SCORE_THRESH_TEST", "0.0"),
    )
    assert done.code == 0, done.output
    assert done.output.count("Evaluation results for bbox") == 1
    assert "Next: asff report here" in done.output
    assert len(list((folder / "datasets" / "shapes" / "images").iterdir())) == 16 + 2
    assert (folder / "here" / "model_final.pth").is_file()
    images = sorted((folder / "here" / "detections").iterdir())
    assert len(images) == 2
    # Ground truth and detections of 192 pixels each, twice as large, side by side.
    assert Image.open(images[0]).size == (2 * 2 * 192, 2 * 192)
