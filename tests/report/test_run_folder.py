"""Reading of a run's folder: metrics, environment, speed and detections."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from asff.report import RunFolder, read_metrics
from asff.report.curves import MAX_POINTS, training_curves, training_speed
from asff.report.run_folder import environment, inference_speed
from tests.reports import LOG, inference_log, write_run


@pytest.fixture
def run(tmp_path: Path, config: Path) -> RunFolder:
    write_run(tmp_path / "run", config)
    return RunFolder(tmp_path / "run")


def lines_of(charts: list[dict], title: str) -> dict[str, list]:
    (chart,) = (chart for chart in charts if chart["title"] == title)
    return {line["name"]: line["points"] for line in chart["lines"]}


def test_curves(run: RunFolder):
    charts = training_curves(read_metrics(run.path / "metrics.json"), "shapes_val")
    titles = ["Loss", "AP", "Learning rate", "Seconds per iteration"]
    assert [chart["title"] for chart in charts] == titles
    assert lines_of(charts, "Loss")["total"][:3] == [(1, 9.0), (2, 4.5), (3, 3.0)]
    assert list(lines_of(charts, "Loss")) == ["total", "box"]
    # AP75 is NaN.
    assert lines_of(charts, "AP") == {"AP": [(9, 12.5)], "AP50": [(9, 30.0)]}


@pytest.mark.parametrize(
    ("metrics", "title", "expected"),
    [
        (
            {"first/bbox/AP": 1.0, "second/bbox/AP": 2.0, "bbox/AP50": 3.0},
            "AP",
            {"AP": [(5, 2.0)]},
        ),
        ({"image_size": 320}, "Image size (pixels)", {"size": [(5, 320.0)]}),
    ],
    ids=["one of several datasets", "image size"],
)
def test_curves_that_are_not_always_logged(metrics: dict, title: str, expected: dict):
    charts = training_curves([{"iteration": 5, **metrics}], "second")
    assert lines_of(charts, title) == expected


def test_long_curves_are_thinned_by_means():
    metrics = [{"iteration": i, "lr": float(i % 2)} for i in range(2 * MAX_POINTS)]
    points = lines_of(training_curves(metrics, "x"), "Learning rate")["learning rate"]
    assert len(points) == MAX_POINTS and {y for _, y in points} == {0.5}
    few = training_curves(metrics[:3], "x")
    assert lines_of(few, "Learning rate")["learning rate"] == [(0, 0.0), (1, 1.0), (2, 0.0)]


def test_repeated_iterations_of_a_resumed_training_count_once(run: RunFolder):
    """Killed at 5 while it wrote, resumed from 3; AP at 4 was that of the old weights."""
    old = [{"iteration": i, "lr": 1.0} for i in range(5)] + [{"iteration": 4, "bbox/AP": 1.0}]
    new = [{"iteration": i, "lr": 2.0} for i in range(3, 6)]
    text = [json.dumps(line) for line in old] + ['{"iteration": 5, "l']
    text += [json.dumps(line) for line in new]
    (run.path / "metrics.json").write_text("\n".join(text))
    found = [
        (line["iteration"], line.get("lr")) for line in read_metrics(run.path / "metrics.json")
    ]
    assert found == [(0, 1.0), (1, 1.0), (2, 1.0), (3, 2.0), (4, 2.0), (5, 2.0)]


def test_damaged_metrics_are_left_out(run: RunFolder):
    """Bytes that are not UTF-8, and JSON that no training writes."""
    lines = [b"\xff\xfe\x00", b"5", b"[1]", b'{"lr": 1.0}', b'{"iteration": 1, "lr": 1.0}']
    (run.path / "metrics.json").write_bytes(b"\n".join(lines))
    assert read_metrics(run.path / "metrics.json") == [{"iteration": 1, "lr": 1.0}]


def test_training_speed():
    metrics = [
        {"iteration": i, "time": time, "data_time": 0.1} for i, time in enumerate((9.0, 0.5, 0.4))
    ]
    assert training_speed(metrics) == {"iteration": 0.5, "data": 0.1}
    assert training_speed([{"iteration": 1, "bbox/AP": 1.0}]) is None


def test_a_folder_without_training(run: RunFolder):
    (run.path / "metrics.json").unlink()
    (run.path / "log.txt").unlink()
    assert read_metrics(run.path / "metrics.json") == [] and run.read_log() == ""
    assert training_curves([], "shapes_val") == [] and training_speed([]) is None


def test_environment():
    expected = [
        ("sys.platform", "linux"),
        ("PyTorch", "2.14.1+cu130"),
        ("Compiler ($CXX)", "c++ (Debian 12.2.0-14+deb12u1) 12.2.0"),
    ]
    assert environment(LOG) == expected
    later = LOG.replace("2.14.1+cu130", "2.15.0")
    assert dict(environment(LOG + later))["PyTorch"] == "2.15.0"
    assert environment("nothing of it") == []


def test_inference_speed():
    """The last evaluation of the dataset counts; 50 batches on each of two devices, 200 images."""
    log = (
        inference_log("shapes_val", batches=9, total=9.0, compute=9.0)
        + inference_log("shapes_val", batches=50, total=0.4, compute=0.2, devices=2)
        + inference_log("other", batches=7, total=7.0, compute=7.0)
    )
    expected = {"compute": pytest.approx(0.1), "total": pytest.approx(0.2), "devices": 2}
    assert inference_speed(log, "shapes_val", 200) == expected
    assert inference_speed(log, "third", 200) is None


def test_choice_of_the_dataset(run: RunFolder):
    for name in ("a_val", "z_val"):
        (run.path / "inference" / name).mkdir()
        (run.path / "inference" / name / "coco_instances_results.json").write_text("[]")
    run = RunFolder(run.path)
    assert run.choose_dataset(["absent", "z_val", "a_val"]) == "z_val"
    assert run.choose_dataset(["absent"]) == "a_val"
    assert run.choose_dataset(["z_val"], "shapes_val") == "shapes_val"
    with pytest.raises(ValueError, match="--dataset b_val .* but a_val, shapes_val, z_val"):
        run.choose_dataset(["z_val"], "b_val")


@pytest.mark.parametrize(
    "content, message",
    [
        ('[{"image_id": 1', "is not JSON"),
        ('{"image_id": 1}', "not a list of detections"),
        ('[{"image_id": 1, "score": 0.5}]', "not a list of detections with bbox, category_id"),
        ("[7]", "not a list of detections"),
    ],
    ids=["cut", "no list", "lacks keys", "numbers"],
)
def test_damaged_results_are_refused(run: RunFolder, content: str, message: str):
    run.results_file("shapes_val").write_text(content)
    with pytest.raises(ValueError, match=message):
        run.read_results("shapes_val")
