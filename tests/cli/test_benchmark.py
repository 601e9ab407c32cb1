"""The tools run as printed, on little data."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from tests.training import ROOT, run_script

AUGMENTATIONS = ["RandomColor", "RandomExpand", "RandomAffine", "RandomMinIoUCrop"]
AUGMENTATIONS += ["RandomFlip", "ResizeLongestEdge", "ResizeSquare"]


def run_tool(name: str, *args: str, **env: str) -> str:
    """What a tool prints; fails where it does."""
    command = [sys.executable, str(ROOT / "tools" / name), *args]
    paths = {"PYTHONPATH": str(ROOT / "projects" / "ASFF")}
    done = subprocess.run(
        command, env={**os.environ, **paths, **env}, cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


def rows(printed: str, *names: str) -> list[list[float]]:
    """The numbers of a table's rows that begin with these names."""
    found = {name: re.findall(rf"^{name} +([\d.].*)$", printed, re.MULTILINE) for name in names}
    assert all(len(lines) == 1 for lines in found.values()), (found, printed)
    return [[float(x.strip("%")) for x in lines[0].split()] for lines in found.values()]


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
        *("--size", "64", "--repeats", "2", "MODEL.YOLOV3.NECK.SPP", "False"),
        OMP_NUM_THREADS="1",
    )
    assert "1 images of 64 pixels, cpu, 1 threads: one step takes 0." in printed


def test_benchmark_of_the_data(tmp_path: Path):
    printed = run_tool(
        "benchmark.py",
        *("data", "--config-file", "configs/coco/yolov3_d53_asff.yaml", "--size", "64"),
        *("--samples", "6", "--files", "2", "--workers", "1", "SOLVER.IMS_PER_BATCH", "2"),
        OMP_NUM_THREADS="1",
        TMPDIR=str(tmp_path),
    )
    assert "6 samples of 64 pixels from 2 JPEGs of 640x480 pixels and 1" in printed  # 1xx kB
    clock, cpu = rows(printed, "by the clock", "CPU time")
    for per_second, mean, median, high in (clock, cpu):
        assert per_second * mean == pytest.approx(1000, rel=0.05)
        assert 0 < median <= high
    *parts, rest = rows(printed, "read and decode", "mixup", *AUGMENTATIONS, "the rest")
    # Each sample reads two images and is mixed and resized; the parts and the rest are all.
    assert all(parts[i][0] > 0 for i in (0, 1, -1)) and rest[0] > 0
    to_tensor = rows(printed, "to a tensor")
    assert sum(x[1] for x in (*parts, *to_tensor, rest)) == pytest.approx(100, abs=0.6)
    decoding, loader = printed.splitlines()[-2:]
    assert decoding.startswith("Decoding one JPEG takes ")
    assert re.fullmatch(r"Loader, workers: 1: [1-9]\d*\.\d samples/s by the clock\.", loader)
    assert not list(tmp_path.glob("asff_benchmark_*"))


@pytest.mark.parametrize(
    "option, message",
    [
        (
            ("--config-file", "configs/Base-YOLOv3.yaml", "INPUT.SQUARE", "False"),
            "SQUARE is False:",
        ),
        (("--size", "100"), "error: INPUT.TRAIN_SIZES is 100, which is not a positive multiple"),
        (("--samples", "0"), "argument --samples: 0 is not a whole number of at least 1"),
        (("--workers", "-1"), "argument --workers: -1 is not a whole number of at least 0"),
    ],
    ids=["another mapper", "size", "samples", "workers"],
)
def test_benchmark_refuses(option: tuple, message: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(ROOT)
    # Of two --config-file the last one counts.
    config = ("--config-file", "configs/coco/yolov3_d53_asff.yaml")
    done = run_script("tools/benchmark.py", "data", *config, *option)
    assert done.code != 0 and "Traceback" not in done.output and message in done.output


@pytest.mark.skipif(not Path("/proc/self/smaps_rollup").is_file(), reason="needs Linux's /proc")
def test_benchmark_of_memory():
    printed = run_tool(
        "benchmark.py", "memory", "--images", "20000", "--workers", "2", OMP_NUM_THREADS="1"
    )
    (size,) = re.findall(r"A list of 20000 dataset dicts takes (\d+) MiB", printed)
    (serialized,) = re.findall(r"Serialised, they take (\d+) MiB", printed)
    # Seven boxes of four floats are at least 7 x 4 x 24 bytes as a list; pickled, 7 x 4 x 9.
    assert int(size) > 20000 * 7 * 4 * 24 / 2**20
    assert 20000 * 7 * 4 * 9 / 2**20 < int(serialized) < int(size)
    for first, rss, pss, private in rows(printed, "worker 1", "worker 2"):
        assert 0 < private < pss < rss
        assert private - first < int(serialized)  # none has made a copy


def test_benchmark_of_costs():
    configs = [f"configs/ablations/shapes_retinanet_{name}.yaml" for name in ("fpn", "asff_fpn")]
    size = ("--height", "64", "--width", "96")
    printed = run_tool("benchmark.py", "cost", "--config-files", *configs, *size)
    assert "64 x 96 pixels" in printed
    found = re.findall(r"shapes_retinanet_(\w+) +\| ([\d.]+) +\| ([\d.]+)", printed)
    assert [name for name, *_ in found] == ["fpn", "asff_fpn"]
    (_, params, operations), (_, more_params, more_operations) = found
    # Three 3x3 convolutions of 64 channels, nine 1x1 to 16 channels, three 1x1 from 48 to 3.
    added = 3 * (9 * 64 * 64 + 64) + 9 * (64 * 16 + 16) + 3 * (48 * 3 + 3)
    assert float(more_params) - float(params) == pytest.approx(added / 1e6, abs=0.011)
    # At 8 x 12, 4 x 6 and 2 x 3 places; of the 3x3 ones, one leads to 4 x 6, two to 2 x 3.
    added = 9 * 64 * 64 * (24 + 6 + 6) + (3 * 64 * 16 + 48 * 3) * (96 + 24 + 6)
    assert float(more_operations) - float(operations) == pytest.approx(added / 1e9, abs=0.0002)
