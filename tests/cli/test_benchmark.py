"""`asff benchmark` runs as printed, on little data."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.training import ROOT, run_asff

AUGMENTATIONS = ["RandomColor", "RandomExpand", "RandomAffine", "RandomMinIoUCrop"]
AUGMENTATIONS += ["RandomFlip", "ResizeLongestEdge", "ResizeSquare"]


@pytest.fixture(autouse=True)
def at_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


def benchmark(*args: object) -> str:
    """Run the verb, and return what it prints."""
    done = run_asff("benchmark", *args)
    assert done.code == 0, done.output
    return done.output


def rows(printed: str, *names: str) -> list[list[float]]:
    """Return the numbers of a table's rows that begin with these names."""
    found = {name: re.findall(rf"^{name} +([\d.].*)$", printed, re.MULTILINE) for name in names}
    assert all(len(lines) == 1 for lines in found.values()), (found, printed)
    return [[float(x.strip("%")) for x in lines[0].split()] for lines in found.values()]


def test_train():
    config = ("--config-file", "configs/quickstart.yaml")
    options = ("--images", 1, "--size", 64, "--repeats", 2, "MODEL.YOLOV3.NECK.SPP", "False")
    printed = benchmark("train", *config, *options)
    assert "1 images of 64 pixels, cpu, 1 threads: one step takes 0." in printed


def test_data():
    options = ("--size", 64, "--samples", 6, "--files", 2, "--workers", 1)
    config = ("--config-file", "configs/coco/yolov3_d53_asff.yaml", "SOLVER.IMS_PER_BATCH", 2)
    printed = benchmark("data", *options, *config)
    assert "6 samples of 64 pixels from 2 JPEGs of 640x480 pixels and 1" in printed  # 1xx kB
    clock, cpu = rows(printed, "elapsed time", "CPU time")
    for per_second, mean, median, high in (clock, cpu):
        assert per_second * mean == pytest.approx(1000, rel=0.05)
        assert 0 < median <= high
    *parts, rest = rows(printed, "read and decode", "mixup", *AUGMENTATIONS, "the rest")
    # Each sample reads two images and is mixed and resized; the parts and the rest are all.
    assert all(parts[i][0] > 0 for i in (0, 1, -1)) and rest[0] > 0
    to_tensor = rows(printed, "to a tensor")
    assert sum(x[1] for x in (*parts, *to_tensor, rest)) == pytest.approx(100, abs=0.6)
    assert "Decoding one JPEG takes " in printed
    assert re.search(r"Loader, workers: 1: [1-9]\d*\.\d samples/s\.", printed)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("INPUT.SQUARE", "False"), "INPUT.SQUARE is False:"),
        (("--size", 100), "INPUT.TRAIN_SIZES is 100"),
    ],
)
def test_refusals(options: tuple, message: str):
    config = ("--config-file", "configs/coco/yolov3_d53_asff.yaml")
    done = run_asff("benchmark", "data", *config, *options)
    assert done.code == 2 and "Traceback" not in done.output and message in done.output


@pytest.mark.skipif(not Path("/proc/self/smaps_rollup").is_file(), reason="needs Linux's /proc")
def test_memory():
    printed = benchmark("memory", "--images", 20000, "--workers", 2)
    found = re.search(r"20000 dataset dicts takes (\d+) MiB of memory, serialized (\d+)", printed)
    size, serialized = map(int, found.groups())
    # Seven boxes of four floats are at least 7 x 4 x 24 bytes as a list; pickled, 7 x 4 x 9.
    assert 20000 * 7 * 4 * 9 / 2**20 < serialized
    for first, rss, pss, private in rows(printed, "worker 1", "worker 2"):
        assert 0 < private < pss < rss
        assert private - first < serialized  # none has made a copy


def test_model():
    configs = [f"configs/ablations/shapes_retinanet_{name}.yaml" for name in ("fpn", "asff_fpn")]
    printed = benchmark("model", "--config-files", *configs, "--height", 64, "--width", 96)
    assert "64 x 96 pixels" in printed
    found = re.findall(r"shapes_retinanet_(\w+) +\| ([\d.]+) +\| ([\d.]+)", printed)
    assert [name for name, *_ in found] == ["fpn", "asff_fpn"]
    (_, params, operations), (_, more_params, more_operations) = found
    # Three 3x3 convolutions of 64 channels, nine 1x1 to 16 channels, three 1x1 from 48 to 3.
    added = 3 * (9 * 64 * 64 + 64) + 9 * (64 * 16 + 16) + 3 * (48 * 3 + 3)
    assert float(more_params) - float(params) == pytest.approx(added / 1e6, abs=0.011)
    # Levels of 8 x 12, 4 x 6 and 2 x 3; of the 3x3 ones, one leads to 4 x 6, two to 2 x 3.
    added = 9 * 64 * 64 * (24 + 6 + 6) + (3 * 64 * 16 + 48 * 3) * (96 + 24 + 6)
    assert float(more_operations) - float(operations) == pytest.approx(added / 1e9, abs=0.0002)


def test_losses():
    printed = benchmark("losses", "--images", 2, "--boxes", 3, "--size", 64)
    assert "2 images of 64 pixels, 3 boxes each" in printed and "times as fast as" in printed
