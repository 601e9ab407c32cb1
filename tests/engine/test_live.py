"""Monitoring of a running training: the progress line, TensorBoard's scalars and images."""

from __future__ import annotations

import io
import logging
import math
import re
import resource
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.utils.events import EventStorage
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from asff.analysis import view_fusion
from asff.config_files import load_config
from asff.engine import Predictor
from asff.engine.progress import MIB, ProgressPrinter, max_memory, measure_throughput
from asff.engine.visualize import SIDE, VisualizationHook
from asff.visualization import draw_detections, draw_fusion
from tests.training import Run, metrics, read_checkpoint, run_apart, run_here

pytestmark = pytest.mark.usefixtures("one_thread", "clean_loggers")

LINE = re.compile(
    r"iter: (\d+)  total_loss.*images/s: ([\d.e+]+)  data_share: (\d+)%  max_rss: (\d+)M  "
    r"image_size: (\d+)$",
    re.MULTILINE,
)
# Batches of 96 and, the last two, of 64 pixels; evaluations after 2 and after 4 iterations.
OPTIONS = (
    *("INPUT.TRAIN_SIZES", "[96]", "INPUT.FINAL_SIZE", "64", "INPUT.FINAL_SIZE_ITERS", "2"),
    *("TEST.EVAL_PERIOD", "2", "SOLVER.MAX_ITER", "4"),
)
STEPS = [1, 4]  # Detectron2 gives the last evaluation the number of iterations


@pytest.fixture(scope="module")
def train(config, tmp_path_factory) -> Callable[..., tuple[Run, Path]]:
    """Return a function that trains with more options, and returns the run and OUTPUT_DIR."""

    def train(*options: object) -> tuple[Run, Path]:
        output = tmp_path_factory.mktemp("output")
        run = run_here("--config-file", config, *OPTIONS, *options, "OUTPUT_DIR", output)
        assert run.code == 0, run.output
        return run, output

    return train


@pytest.fixture(scope="module")
def plain(train) -> tuple[Run, Path]:
    return train()


@pytest.fixture(scope="module")
def with_images(train) -> tuple[Run, Path]:
    """Train with two images per evaluation."""
    return train("TEST.VIS_IMAGES", 2)


def read_events(folder: Path) -> EventAccumulator:
    return EventAccumulator(str(folder), size_guidance={"images": 0, "scalars": 0}).Reload()


def read_image(events: EventAccumulator, tag: str, step: int) -> np.ndarray:
    (event,) = (event for event in events.Images(tag) if event.step == step)
    return np.asarray(Image.open(io.BytesIO(event.encoded_image_string)))


def test_progress_line_metrics_and_tensorboard_agree(plain):
    run, output = plain
    ((step, throughput, share, memory, size),) = LINE.findall(run.output)
    (written,) = (line for line in metrics(output) if line["iteration"] == 3)
    assert (step, size, written["image_size"]) == ("3", "64", 64)  # the latest size
    assert float(throughput) == pytest.approx(written["images_per_second"], rel=1e-3)
    assert float(share) == pytest.approx(100 * written["data_time_share"], abs=0.51)
    assert float(memory) == pytest.approx(written["max_memory_mib"], abs=0.51)
    # Two steps were timed, and the writer gives the median of two, which is their mean.
    assert written["images_per_second"] == pytest.approx(4 / written["time"])
    assert LINE.search((output / "log.txt").read_text())
    events = read_events(output)
    assert events.Tags()["images"] == []  # the default
    for name in ("images_per_second", "data_time_share", "max_memory_mib", "image_size"):
        (event,) = events.Scalars(name)
        assert (event.step, event.value) == (3, pytest.approx(written[name]))


def make_storage(times: list[float | None], waits: list[float]) -> EventStorage:
    """Store what training stores at each step; None if a step was not timed."""
    storage = EventStorage()
    for storage.iter, (time, wait) in enumerate(zip(times, waits)):
        storage.put_scalar("data_time", wait)
        storage.put_scalar("image_size", 320, smoothing_hint=False)
        if time is not None:
            storage.put_scalar("time", time)
    return storage


def test_throughput_of_the_last_steps():
    """20 steps of half a second, in which one waits 1.1 s for data and the others 0.1 s."""
    waits = [5.0] * 5 + [0.1] * 19 + [1.1]
    throughput = measure_throughput(
        make_storage([10.0] * 5 + [0.5] * 20, waits), batch_size=8, window=20
    )
    assert throughput["images_per_second"] == pytest.approx(16)  # 160 images in 10 s
    assert throughput["data_time_share"] == pytest.approx(0.3)  # 3 s of them


def test_steps_that_were_not_timed_do_not_count():
    """The time in which the workers start does not count as waiting."""
    storage = make_storage([None, None, 2.0, 4.0], [100.0, 0.0, 1.0, 0.5])
    throughput = measure_throughput(storage, batch_size=3, window=20)
    assert throughput == {
        "images_per_second": pytest.approx(1),
        "data_time_share": pytest.approx(0.25),
    }
    assert measure_throughput(make_storage([None], [1.0]), batch_size=3, window=20) == {}


def print_line(storage: EventStorage, caplog: pytest.LogCaptureFixture, **options) -> str:
    """Return the line that the printer logs, or an empty string."""
    caplog.set_level(logging.INFO, "detectron2")
    caplog.clear()
    options = {"batch_size": 2, "device": torch.device("cpu"), **options}
    with storage:
        ProgressPrinter(10, **options).write()
    return caplog.messages[0] if caplog.messages else ""


def test_line_before_a_step_was_timed(caplog):
    line = print_line(make_storage([None], [1.0]), caplog)
    assert re.search(r"lr: N/A  (max_mem: 0M  )?max_rss: \d+M  image_size: 320$", line)
    # The writers run also where a training failed at once: their error would hide its error.
    storage = EventStorage()
    assert "image_size" not in print_line(storage, caplog)
    assert not storage.latest()


@pytest.mark.parametrize("step", [10, 11])  # 11: of a training that was already finished
def test_nothing_is_measured_after_the_end(caplog, step):
    storage = make_storage([1.0], [0.5])
    storage.iter = step
    assert "images/s" not in print_line(storage, caplog)
    assert storage.latest().keys() - {"eta_seconds"} == {"data_time", "image_size", "time"}


def test_memory_of_a_gpu(monkeypatch, caplog):
    """Detectron2's line contains it already."""
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda *device: 3 * MIB)
    storage = make_storage([1.0], [0.5])
    line = print_line(storage, caplog, device=torch.device("cuda"))
    assert line.endswith("images/s: 2  data_share: 50%  image_size: 320") and "max_rss" not in line
    assert storage.latest()["max_memory_mib"][0] == 3


@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="needs Linux' /proc")
def test_memory_is_the_peak_of_this_process():
    peak = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert max_memory(torch.device("cpu")) == pytest.approx(1024 * int(peak[1]), rel=0.01)


def test_memory_in_the_unit_of_a_mac(monkeypatch):
    usage = SimpleNamespace(ru_maxrss=5000)
    monkeypatch.setattr(resource, "getrusage", lambda who: usage)
    for platform, factor in (("linux", 1024), ("darwin", 1)):
        monkeypatch.setattr(sys, "platform", platform)
        assert max_memory(torch.device("cpu")) == 5000 * factor


def test_images_of_every_evaluation(with_images):
    _, output = with_images
    events = read_events(output)
    tags = {f"{kind}/{index}" for kind in ("detections", "fusion") for index in (0, 1)}
    assert set(events.Tags()["images"]) == tags
    for tag in tags:
        assert [event.step for event in events.Images(tag)] == STEPS
    # The network was trained between them.
    first, last = (read_image(events, "fusion/1", step) for step in STEPS)
    assert (first != last).any()


def test_images_are_those_of_the_trained_network(with_images, config):
    _, output = with_images
    events = read_events(output)
    predictor = Predictor(str(config), output / "model_final.pth")
    metadata = MetadataCatalog.get("shapes_val")
    for index, dataset_dict in enumerate(DatasetCatalog.get("shapes_val")[:2]):
        image = predictor.read(dataset_dict["file_name"])
        (view,) = view_fusion(predictor.model, [predictor.map_pixels(image)])
        scale = SIDE / max(image.shape)
        expected = draw_detections(dataset_dict, view.instances, metadata, scale=scale)
        assert expected.shape[1] == 2 * SIDE
        drawn = read_image(events, f"detections/{index}", STEPS[-1])
        np.testing.assert_array_equal(drawn, expected)
        figure = read_image(events, f"fusion/{index}", STEPS[-1])
        np.testing.assert_array_equal(figure, draw_fusion(image, view, metadata.thing_classes))


def check_same_training(output: Path, other: Path) -> None:
    found, expected = (read_checkpoint(x / "model_final.pth")["model"] for x in (output, other))
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_images_do_not_change_a_training(plain, with_images):
    check_same_training(with_images[1], plain[1])


def test_failure_to_draw_is_logged_once_and_does_not_end_the_training(train, plain, monkeypatch):
    def fail(*args: object, **options: object) -> None:
        raise OSError("no font")

    monkeypatch.setattr("asff.engine.visualize.draw_fusion", fail)
    run, output = train("TEST.VIS_IMAGES", 2)
    message = "TEST.VIS_IMAGES: the images of iteration 1 could not be drawn (OSError: no font)"
    assert run.output.count(message) == run.output.count("could not be drawn") == 1
    check_same_training(output, plain[1])  # the model went back to training mode


def test_other_processes_do_not_draw(config, monkeypatch):
    monkeypatch.setattr("detectron2.utils.comm.is_main_process", lambda: False)
    hook = VisualizationHook(load_config(str(config), ["TEST.VIS_IMAGES", 1]))
    hook.trainer = SimpleNamespace(iter=0)  # has no model: to draw would fail
    hook.try_to_draw()
    assert not hook.failed


def test_letterbox_has_no_maps(train):
    """They could not be laid over the image."""
    options = ("INPUT.SQUARE", False, "INPUT.MIN_SIZE_TRAIN", "(64,)", "INPUT.MIN_SIZE_TEST", 64)
    options += ("INPUT.MIXUP.PROB", 0.0, "MODEL.YOLOV3.LETTERBOX_TEST", True)
    run, output = train(*options, "TEST.VIS_IMAGES", 1)
    assert read_events(output).Tags()["images"] == ["detections/0"]
    # The longest side of the last batch.
    (written,) = (line for line in metrics(output) if line["iteration"] == 3)
    assert 64 <= written["image_size"] <= 128 and math.isfinite(written["images_per_second"])


def test_two_processes(config, tmp_path):
    """One draws and the other waits: there is one set of images and lines."""
    spawn = ("--num-gpus", 2, "--dist-url", "auto", "--config-file", config)
    run = run_apart(*spawn, *OPTIONS, "TEST.VIS_IMAGES", 1, "OUTPUT_DIR", tmp_path)
    assert run.code == 0, run.output
    assert len(LINE.findall(run.output)) == 1
    events = read_events(tmp_path)
    for tag in ("detections/0", "fusion/0"):
        assert [event.step for event in events.Images(tag)] == STEPS
