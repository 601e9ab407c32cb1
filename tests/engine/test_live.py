"""What can be seen while a training runs: the log's line, TensorBoard's scalars and images."""

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
from detectron2.structures import Boxes, Instances
from detectron2.utils.events import EventStorage
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn

from asff.analysis import view_fusion
from asff.config_files import load_config
from asff.engine import Predictor
from asff.engine.progress import MIB, ProgressPrinter, max_memory, measure_pace
from asff.engine.visualize import SIDE, VisualizationHook
from asff.visualization import draw_detections, draw_fusion
from asff.visualization.overlay import COLORS
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
    """Train with more options; how that ended, and OUTPUT_DIR."""

    def train(*options: object) -> tuple[Run, Path]:
        output = tmp_path_factory.mktemp("output")
        run = run_here("--config-file", config, *OPTIONS, *options, "OUTPUT_DIR", output)
        assert run.code == 0, run.output
        return run, output

    return train


@pytest.fixture(scope="module")
def plain(train) -> tuple[Run, Path]:
    """Without images."""
    return train()


@pytest.fixture(scope="module")
def with_images(train) -> tuple[Run, Path]:
    """With two images per evaluation."""
    return train("TEST.VIS_IMAGES", 2)


def read_events(folder: Path) -> EventAccumulator:
    """All that TensorBoard sees."""
    return EventAccumulator(str(folder), size_guidance={"images": 0, "scalars": 0}).Reload()


def read_image(events: EventAccumulator, tag: str, step: int) -> np.ndarray:
    (event,) = (event for event in events.Images(tag) if event.step == step)
    return np.asarray(Image.open(io.BytesIO(event.encoded_image_string)))


def test_line_of_the_log_and_scalars_agree(plain):
    run, output = plain
    ((step, pace, share, memory, size),) = LINE.findall(run.output)
    (written,) = (entry for entry in metrics(output) if entry["iteration"] == 3)
    assert (step, size, written["image_size"]) == ("3", "64", 64)  # of now, not of the beginning
    assert float(pace) == pytest.approx(written["images_per_second"], rel=1e-3)
    assert float(share) == pytest.approx(100 * written["data_time_share"], abs=0.51)
    assert float(memory) == pytest.approx(written["max_memory_mib"], abs=0.51)
    # Two steps were timed, and the writer gives the median of two, which is their mean.
    assert written["images_per_second"] == pytest.approx(4 / written["time"])
    assert LINE.search((output / "log.txt").read_text())


def test_scalars_reach_tensorboard(plain):
    _, output = plain
    events = read_events(output)
    (written,) = (entry for entry in metrics(output) if entry["iteration"] == 3)
    for name in ("images_per_second", "data_time_share", "max_memory_mib", "image_size"):
        (event,) = events.Scalars(name)
        assert (event.step, event.value) == (3, pytest.approx(written[name]))


def make_storage(times: list[float | None], waits: list[float]) -> EventStorage:
    """What training stores, step by step; None where a step was not timed."""
    storage = EventStorage()
    for storage.iter, (time, wait) in enumerate(zip(times, waits)):
        storage.put_scalar("data_time", wait)
        storage.put_scalar("image_size", 320, smoothing_hint=False)
        if time is not None:
            storage.put_scalar("time", time)
    return storage


def test_pace_is_that_of_the_last_steps():
    """20 steps of half a second, in which one waits 1.1 s for data and the others 0.1 s."""
    waits = [5.0] * 5 + [0.1] * 19 + [1.1]
    pace = measure_pace(make_storage([10.0] * 5 + [0.5] * 20, waits), batch_size=8, window=20)
    assert pace["images_per_second"] == pytest.approx(16)  # 160 images in 10 s
    assert pace["data_time_share"] == pytest.approx(0.3)  # 3 s of them


def test_steps_that_were_not_timed_do_not_count():
    """The start of the workers is no share of what comes after it."""
    storage = make_storage([None, None, 2.0, 4.0], [100.0, 0.0, 1.0, 0.5])
    pace = measure_pace(storage, batch_size=3, window=20)
    assert pace == {"images_per_second": pytest.approx(1), "data_time_share": pytest.approx(0.25)}
    assert measure_pace(make_storage([None], [1.0]), batch_size=3, window=20) == {}


def print_line(storage: EventStorage, caplog: pytest.LogCaptureFixture, **options) -> str:
    """The line that the printer logs; none where it is empty."""
    caplog.set_level(logging.INFO, "detectron2")
    caplog.clear()
    options = {"batch_size": 2, "device": torch.device("cpu"), **options}
    with storage:
        ProgressPrinter(10, **options).write()
    return caplog.messages[0] if caplog.messages else ""


def test_line_before_a_step_was_timed(caplog):
    line = print_line(make_storage([None], [1.0]), caplog)
    assert re.search(r"lr: N/A  (max_mem: 0M  )?max_rss: \d+M  image_size: 320$", line)
    assert "images/s" not in line


def test_training_that_failed_at_once_says_why_and_no_more(caplog):
    """The writers run then, too: an error of theirs would hide the one that matters."""
    storage = EventStorage()
    assert "image_size" not in print_line(storage, caplog)
    assert not storage.latest()


@pytest.mark.parametrize("step", [10, 11])  # Detectron2 counts on where nothing was left to do
def test_nothing_is_measured_after_the_end(caplog, step):
    storage = make_storage([1.0], [0.5])
    storage.iter = step
    assert "images/s" not in print_line(storage, caplog)
    assert storage.latest().keys() - {"eta_seconds"} == {"data_time", "image_size", "time"}


def test_memory_of_a_gpu(monkeypatch, caplog):
    """Where Detectron2's line has it already."""
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


def test_images_are_off_by_default(plain):
    _, output = plain
    assert read_events(output).Tags()["images"] == []


def test_images_of_every_evaluation(with_images):
    _, output = with_images
    events = read_events(output)
    tags = {f"{kind}/{index}" for kind in ("detections", "fusion") for index in (0, 1)}
    assert set(events.Tags()["images"]) == tags
    for tag in tags:
        assert [event.step for event in events.Images(tag)] == STEPS
    # The network that drew them had changed between.
    first, last = (read_image(events, "fusion/1", step) for step in STEPS)
    assert (first != last).any()


def test_images_are_those_of_the_trained_network(with_images, config):
    _, output = with_images
    events = read_events(output)
    predictor = Predictor(str(config), output / "model_final.pth")
    metadata = MetadataCatalog.get("shapes_val")
    for index, record in enumerate(DatasetCatalog.get("shapes_val")[:2]):
        image = predictor.read(record["file_name"])
        (view,) = view_fusion(predictor.model, [predictor.map_pixels(image)])
        scale = SIDE / max(image.shape)
        expected = draw_detections(record, view.instances, metadata, scale=scale)
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


def test_failure_to_draw_is_said_once_and_ends_nothing(train, plain, monkeypatch):
    def fail(*args: object, **options: object) -> None:
        raise OSError("no font")

    monkeypatch.setattr("asff.engine.visualize.draw_fusion", fail)
    run, output = train("TEST.VIS_IMAGES", 2)
    said = "TEST.VIS_IMAGES: the images of iteration 1 could not be drawn (OSError: no font)."
    assert run.output.count(said) == run.output.count("could not be drawn") == 1
    check_same_training(output, plain[1])


class Finder(nn.Module):
    """A detector without ASFF that finds one object, or fails."""

    def __init__(self, found: Instances | None):
        super().__init__()
        self.found = found

    def forward(self, inputs: list[dict]) -> list[dict]:
        assert not self.training and not torch.is_grad_enabled()
        if self.found is None:
            raise RuntimeError("out of memory")
        return [{"instances": self.found}]


def make_hook(config: Path, model: nn.Module) -> tuple[VisualizationHook, EventStorage]:
    """The hook in a training of this model, and the storage of its images."""
    hook, storage = (
        VisualizationHook(load_config(str(config), ["TEST.VIS_IMAGES", 1])),
        EventStorage(),
    )
    checkpointer = SimpleNamespace(model=model)
    hook.trainer = SimpleNamespace(checkpointer=checkpointer, storage=storage, iter=0)
    return hook, storage


def test_model_without_asff(config, datasets):
    """What it detects in the first image is in the right half of the drawing."""
    record = DatasetCatalog.get("shapes_val")[0]
    found = Instances((record["height"], record["width"]))
    found.pred_boxes = Boxes(torch.tensor([[30.0, 12.0, 75.0, 54.0]]))
    found.scores, found.pred_classes = torch.tensor([0.9]), torch.tensor([2])
    model = Finder(found)
    hook, storage = make_hook(config, model)
    hook.try_to_draw()
    assert not hook.failed and model.training
    ((name, drawn, step),) = storage._vis_data
    assert (name, step) == ("detections/0", 0)
    scale = SIDE / record["width"]
    assert drawn.shape == (3, round(scale * record["height"]), 2 * SIDE)
    x, y = SIDE + round(scale * 52), round(scale * 54)  # on the box's lower side
    strip = drawn[:, y - 3 : y + 3, x]
    assert (strip.T == COLORS[2]).all(axis=1).any()


def test_images_without_ground_truth(config, datasets, monkeypatch):
    """Their left half is the image alone."""
    record = DatasetCatalog.get("shapes_val")[0]
    del record["annotations"]
    monkeypatch.setattr(DatasetCatalog, "get", lambda name: [record])
    found = Instances((record["height"], record["width"]))
    found.pred_boxes, found.scores = Boxes(torch.zeros(0, 4)), torch.zeros(0)
    found.pred_classes = torch.zeros(0, dtype=torch.int64)
    hook, storage = make_hook(config, Finder(found))
    hook.try_to_draw()
    ((name, drawn, _),) = storage._vis_data
    assert name == "detections/0"
    np.testing.assert_array_equal(*np.split(drawn, 2, axis=2))


def test_failure_leaves_the_model_in_training(config, datasets, caplog):
    caplog.set_level(logging.WARNING, "asff")
    model = Finder(None)
    hook, _ = make_hook(config, model)
    for hook.trainer.iter in (0, 1):
        hook.try_to_draw()
    assert model.training
    assert len(caplog.messages) == 1
    assert "iteration 0 could not be drawn (RuntimeError: out of memory)" in caplog.messages[0]


def test_other_processes_do_not_draw(config, monkeypatch):
    monkeypatch.setattr("detectron2.utils.comm.is_main_process", lambda: False)
    hook, storage = make_hook(config, Finder(None))
    hook.try_to_draw()
    assert not hook.failed and not storage._vis_data


def test_letterbox_has_no_maps(train):
    """They would not lie where the image does."""
    options = ("INPUT.SQUARE", False, "INPUT.MIN_SIZE_TRAIN", "(64,)", "INPUT.MIN_SIZE_TEST", 64)
    options += ("INPUT.MIXUP.PROB", 0.0, "MODEL.YOLOV3.LETTERBOX_TEST", True)
    run, output = train(*options, "TEST.VIS_IMAGES", 1)
    assert read_events(output).Tags()["images"] == ["detections/0"]
    # Images that keep their shapes: the longest side of the last batch, of 96 x 64 at least.
    (written,) = (entry for entry in metrics(output) if entry["iteration"] == 3)
    assert 64 <= written["image_size"] <= 128 and math.isfinite(written["images_per_second"])


def test_number_of_images_is_checked(config):
    run = run_here("--config-file", config, "TEST.VIS_IMAGES", -1)
    assert run.error.strip().endswith("TEST.VIS_IMAGES is -1, but must be 0 (none) or more.")


def test_two_processes(config, tmp_path):
    """One draws and the other waits: neither hangs, and there is one set of images and lines."""
    spawn = ("--num-gpus", 2, "--dist-url", "auto", "--config-file", config)
    run = run_apart(*spawn, *OPTIONS, "TEST.VIS_IMAGES", 1, "OUTPUT_DIR", tmp_path)
    assert run.code == 0, run.output
    assert len(LINE.findall(run.output)) == 1
    events = read_events(tmp_path)
    for tag in ("detections/0", "fusion/0"):
        assert [event.step for event in events.Images(tag)] == STEPS
