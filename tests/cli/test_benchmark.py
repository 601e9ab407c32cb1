"""`asff benchmark` runs as printed, on little data."""

from __future__ import annotations

import json
import re
from pathlib import Path

import cv2
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


def rows(output: Path) -> dict[str, dict]:
    """Return the rows that a command wrote, by name."""
    return {row["name"]: row for row in json.loads(output.read_bytes())["rows"]}


def test_train_against_a_checkout(tmp_path: Path):
    output = tmp_path / "result.json"
    options = ("--images", 1, "--sizes", 64, "--rounds", 1, "--boxes", 0, 3, "--output", output)
    config = ("--config-files", "configs/quickstart.yaml", "--against", ".")
    printed = benchmark("train", *config, *options, "MODEL.YOLOV3.NECK.SPP", "False")
    found = json.loads(output.read_bytes())["rows"]
    assert [(x["name"], x["boxes"]) for x in found] == [
        (name, boxes) for boxes in (0, 3) for name in ("quickstart (.)", "quickstart")
    ]
    for row in found:
        assert list(row["stages"]) == ["forward", "targets, losses", "backward, update", "total"]
        assert row["size"] == 64 and row["memory_mib"] > 0
    assert printed.count("| quickstart ") == 4


def test_unknown_version():
    config = ("--config-files", "configs/quickstart.yaml", "--sizes", 64)
    done = run_asff("benchmark", "train", *config, "--against", "nowhere")
    assert done.code == 2 and "--against nowhere is neither a folder" in done.output


def test_data(tmp_path: Path):
    output = tmp_path / "result.json"
    options = ("--size", 64, "--samples", 6, "--files", 2, "--workers", 1, "--output", output)
    config = ("--config-file", "configs/coco/yolov3_d53_asff.yaml", "SOLVER.IMS_PER_BATCH", 2)
    benchmark("data", *options, *config)
    found = rows(output)
    assert 100 <= found["CPU time"]["file_kb"] < 200
    per_second = {name: row.pop("samples_per_s") for name, row in found.items()}
    del found["elapsed time"], found["loader, 1 workers"]
    # Each sample reads two images and is mixed and resized; the parts and the rest are all.
    assert set(found) <= {
        "CPU time",
        "read and decode",
        "mixup",
        "to a tensor",
        "the rest",
        *AUGMENTATIONS,
    }
    parts = sum(1 / per_second[name] for name in found if name != "CPU time" and per_second[name])
    assert parts == pytest.approx(1 / per_second["CPU time"], rel=0.02)


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
def test_memory(tmp_path: Path):
    output = tmp_path / "new" / "result.json"
    benchmark("memory", "--images", 20000, "--workers", 2, "--output", output)
    dataset, *workers = rows(output).values()
    # Seven boxes of four floats are at least 7 x 4 x 24 bytes as a list; pickled, 7 x 4 x 9.
    assert 20000 * 7 * 4 * 9 / 2**20 < dataset["serialized_mib"] < dataset["list_mib"]
    assert len(workers) == 2
    for row in workers:
        assert 0 < row["private_mib"] < row["pss_mib"] < row["rss_mib"]
        # None has made a copy.
        assert row["private_mib"] - row["private_at_first_mib"] < dataset["serialized_mib"]


def test_start_and_plot(tmp_path: Path):
    output, figure = tmp_path / "start.json", tmp_path / "figure.webp"
    config = ("--config-file", "configs/coco/yolov3_d53_asff.yaml")
    benchmark("start", *config, "--images", 10, 1000, "--boxes", 2, "--output", output)
    few, many = json.loads(output.read_bytes())["rows"]
    assert (few["dataset_images"], many["dataset_images"]) == (10, 1000)
    assert list(many["stages"]) == ["check", "load", "build the loader", "total"]
    benchmark("plot", output, "--output", figure)
    height, width = cv2.imread(str(figure)).shape[:2]
    assert height > width > 100  # one column of two panels


def test_model_counts():
    configs = [f"configs/ablations/shapes_retinanet_{name}.yaml" for name in ("fpn", "asff_fpn")]
    options = ("--sizes", "64x96", "--rounds", 0)
    printed = benchmark("model", "--config-files", *configs, *options)
    found = re.findall(
        r"shapes_retinanet_(\w+) +\| 64x96 +\| 1 +\| 1 +\| ([\d.]+) +\| ([\d.]+)", printed
    )
    assert [name for name, *_ in found] == ["fpn", "asff_fpn"]
    (_, params, operations), (_, more_params, more_operations) = found
    # Three 3x3 convolutions of 64 channels, nine 1x1 to 16 channels, three 1x1 from 48 to 3.
    added = 3 * (9 * 64 * 64 + 64) + 9 * (64 * 16 + 16) + 3 * (48 * 3 + 3)
    assert float(more_params) - float(params) == pytest.approx(added / 1e6, abs=0.011)
    # Levels of 8 x 12, 4 x 6 and 2 x 3; of the 3x3 ones, one leads to 4 x 6, two to 2 x 3.
    added = 9 * 64 * 64 * (24 + 6 + 6) + (3 * 64 * 16 + 48 * 3) * (96 + 24 + 6)
    assert float(more_operations) - float(operations) == pytest.approx(added / 1e9, abs=0.0002)


def test_model_stages(tmp_path: Path):
    output = tmp_path / "result.json"
    options = ("--sizes", 64, "--batches", 2, "--rounds", 1, "--output", output)
    variant = ("--variants", "MODEL.YOLOV3.MULTI_LABEL_TEST True")
    benchmark("model", "--config-files", "configs/quickstart.yaml", *options, *variant)
    found = rows(output)
    assert list(found) == ["quickstart", "quickstart MODEL.YOLOV3.MULTI_LABEL_TEST True"]
    for row in found.values():
        assert list(row["stages"]) == ["read", "preprocess", "forward", "decode, NMS", "total"]
        assert row["batch"] == 2 and row["memory_mib"] > 0
