"""`asff predict` on files of all kinds: what it writes, skips and refuses."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pytest
from detectron2.evaluation.coco_evaluation import instances_to_coco_json
from PIL import Image
from pycocotools.coco import COCO

import asff
from tests.training import CLASSES, Run, run_asff, write_checkpoint

pytestmark = pytest.mark.usefixtures("one_thread", "clean_loggers")

Predict = Callable[..., "Prediction"]


@dataclass
class Prediction(Run):
    """A run of the verb and its output folder."""

    folder: Path

    @property
    def names(self) -> list[str]:
        return sorted(x.name for x in self.folder.iterdir())

    @property
    def coco(self) -> dict:
        return json.loads((self.folder / "detections.json").read_text())


@pytest.fixture(scope="module")
def weights(config, tmp_path_factory) -> Path:
    """A checkpoint of an untrained detector, whose best detections have scores of about 0.02."""
    folder = tmp_path_factory.mktemp("weights")
    return write_checkpoint(config, folder, "MODEL.YOLOV3.SCORE_THRESH_TEST", 0.0)


@pytest.fixture
def predict(weights, tmp_path) -> Predict:
    folder = tmp_path / "output"

    def run(*args: object) -> Prediction:
        first = next((i for i, x in enumerate(args) if str(x).startswith("--")), len(args))
        options = ("--weights", weights, "--output", folder, *args[first:])
        done = run_asff("predict", *args[:first], *options)
        return Prediction(**vars(done), folder=folder)

    return run


def write_image(path: Path, height: int = 48, width: int = 64, seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def write_video(path: Path, num_frames: int = 11, codec: str = "mp4v") -> Path:
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*codec), 10, (640, 480))
    assert writer.isOpened()
    for i in range(num_frames):
        frame = np.random.default_rng(i).integers(0, 256, (480, 640, 3), np.uint8)
        writer.write(frame)
    writer.release()
    return path


def test_folder_with_an_unreadable_file(predict, tmp_path):
    for i in range(5):
        write_image(tmp_path / "in" / f"{i}.png", seed=i)
    broken = tmp_path / "in" / "2.png"
    broken.write_bytes(broken.read_bytes()[:-50])
    (tmp_path / "in" / "notes.txt").write_text("not looked at")
    run = predict(tmp_path / "in", "--min-score", 0, "--batch-size", 2)
    assert run.code == 0
    assert run.names == ["0.jpg", "1.jpg", "3.jpg", "4.jpg", "detections.json"]
    images = [x["file_name"] for x in run.coco["images"]]
    assert images == [str(tmp_path / "in" / f"{i}.png") for i in (0, 1, 3, 4)]
    first, second, third = run.output.splitlines()[-3:]
    assert " in 4 images (" in first and " images/s)" in first
    assert second == "1 of 5 files cannot be read:"
    assert third.startswith(f"  {broken}: ")
    assert "5/5" in run.output and " images/s]" in run.output


def test_all_inputs_together(predict, tmp_path, monkeypatch):
    """Each file once; those of one name get numbers."""
    write_image(tmp_path / "a" / "x.png")
    write_image(tmp_path / "a" / "X.jpg")
    write_image(tmp_path / "b" / "c" / "x.png")
    write_image(tmp_path / "b[1].png")
    monkeypatch.chdir(tmp_path)
    run = predict("a/x.png", "a", "b/**/*.png", "b[1].png")
    assert run.code == 0
    names = [x["file_name"] for x in run.coco["images"]]
    assert names == ["a/x.png", "a/X.jpg", "b/c/x.png", "b[1].png"]
    assert run.names == ["X_2.jpg", "b[1].jpg", "detections.json", "x.jpg", "x_3.jpg"]


def test_detections_in_coco_format(predict, weights, datasets):
    """All that the predictor finds, in batches of the same size."""
    folder = datasets / "shapes" / "images"
    files = [str(folder / f"val_{i}.png") for i in range(3)]
    run = predict(*files, "--min-score", 0, "--batch-size", 2)
    expected = []
    for image_id, found in enumerate(asff.Predictor(None, weights, batch_size=2)(files), start=1):
        expected += instances_to_coco_json(found, image_id)
    assert len(expected) > 20
    assert [x["id"] for x in run.coco["annotations"]] == list(range(1, len(expected) + 1))
    for x, other in zip(run.coco["annotations"], expected):
        assert (x["image_id"], x["bbox"], x["score"]) == tuple(
            other[key] for key in ("image_id", "bbox", "score")
        )
        assert x["category_id"] == other["category_id"] + 1
        assert x["area"] == x["bbox"][2] * x["bbox"][3] and x["iscrowd"] == 0
    names = [{"id": i, "name": name} for i, name in enumerate(CLASSES, start=1)]
    assert run.coco["categories"] == names
    assert run.coco["images"][1] == {"id": 2, "file_name": files[1], "width": 80, "height": 80}
    coco = COCO(str(run.folder / "detections.json"))
    assert len(coco.getAnnIds(imgIds=[2])) == sum(x["image_id"] == 2 for x in expected)


def test_min_score(predict, weights, tmp_path):
    """Without detections, too, the image is written."""
    file = tmp_path / "x.png"
    Image.new("RGB", (640, 480), (128, 128, 128)).save(file)
    middle = float(asff.Predictor(None, weights)(file).scores.median())
    counts = []
    for score in (0.0, middle, 1.0):
        run = predict(file, "--min-score", score)
        assert run.code == 0 and len(run.coco["images"]) == 1
        scores = [x["score"] for x in run.coco["annotations"]]
        assert all(x >= score for x in scores)
        assert f"{len(scores)} objects of a score of at least {score:g} in 1 images" in run.output
        drawn = (np.asarray(Image.open(run.folder / "x.jpg")) != 128).any()
        assert drawn == bool(scores)
        counts.append(len(scores))
    assert counts[0] > counts[1] > counts[2] == 0


def test_video(predict, tmp_path):
    run = predict(write_video(tmp_path / "clip.mp4"), "--batch-size", 4, "--min-score", 1)
    assert run.code == 0 and run.names == ["clip.mp4", "detections.json"]
    assert [x["frame"] for x in run.coco["images"]] == list(range(11))
    assert {x["file_name"] for x in run.coco["images"]} == {str(tmp_path / "clip.mp4")}
    assert "11/11" in run.output
    first, second = (cv2.VideoCapture(str(x / "clip.mp4")) for x in (tmp_path, run.folder))
    assert second.get(cv2.CAP_PROP_FPS) == 10
    for _ in range(11):
        (_, frame), (there, written) = first.read(), second.read()
        # Its colours in their order, after one more compression.
        assert there and written.shape == (480, 640, 3)
        difference = frame.mean(axis=(0, 1)) - written.mean(axis=(0, 1))
        assert np.abs(difference).max() < 5
    assert not second.read()[0]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not a video that OpenCV can read."),
        (b"no video" * 1000, "not a video that OpenCV can read."),
        (None, "breaks off after "),
    ],
    ids=["empty", "another", "truncated"],
)
def test_corrupt_video(predict, tmp_path, content, message):
    """One sentence and exit code 2; what can be done is."""
    video = write_video(tmp_path / "clip.avi", codec="MJPG")
    whole = video.read_bytes()
    video.write_bytes(whole[: len(whole) // 2] if content is None else content)
    run = predict(video)
    assert run.error.startswith(f"asff predict: error: {video}: {message}")
    frames = len(run.coco["images"])
    if content is None:
        assert 0 < frames < 0.9 * 11 and f"after {frames / 10:.1f} of 1.1 seconds" in run.error
    else:
        assert frames == 0
    run = predict(write_image(tmp_path / "x.png"), video)
    assert "1 of 2 files cannot be read" in run.error and "x.jpg" in run.names


class Camera:
    """Stands for OpenCV's camera: three frames, or none at all, then somebody presses Ctrl-C."""

    def __init__(self, number: int):
        self.number, self.left = number, 3

    def isOpened(self) -> bool:
        return self.number == 1

    def get(self, key: int) -> float:
        return -1.0

    def read(self) -> tuple[bool, np.ndarray]:
        if not self.left:
            raise KeyboardInterrupt
        self.left -= 1
        return True, np.full((480, 640, 3), 100, np.uint8)


def test_webcam(predict, monkeypatch):
    capture = cv2.VideoCapture
    monkeypatch.setattr(cv2, "VideoCapture", Camera)
    run = predict("--webcam", 1)
    assert run.code == 0 and "Stopped." in run.output
    assert [x["frame"] for x in run.coco["images"]] == [0, 1, 2]
    assert capture(str(run.folder / "webcam1.mp4")).get(cv2.CAP_PROP_FRAME_COUNT) == 3
    assert "--webcam 0: there is no such camera" in predict("--webcam").error


def test_window(predict, tmp_path, monkeypatch):
    """Pressing q at the second image ends it."""
    for i in range(3):
        write_image(tmp_path / "in" / f"{i}.png")
    shown, keys = [], iter([ord(" "), ord("q")])
    monkeypatch.setenv("DISPLAY", ":0")
    monkeypatch.setattr(cv2, "namedWindow", lambda *args: None)
    monkeypatch.setattr(cv2, "imshow", lambda name, image: shown.append(image.shape))
    monkeypatch.setattr(cv2, "waitKey", lambda delay: next(keys))
    run = predict(tmp_path / "in", "--show")
    assert run.code == 0 and "Stopped." in run.output
    assert len(shown) == 2 and "1.jpg" in run.names and "2.jpg" not in run.names


@pytest.mark.parametrize("display", [":0", None])
def test_no_window(predict, tmp_path, monkeypatch, display):
    """There is no display, or OpenCV was built without windows."""

    def refuse(*args: object) -> None:
        raise cv2.error("The function is not implemented")

    monkeypatch.setattr(sys, "platform", "linux")
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    if display:
        monkeypatch.setenv("DISPLAY", display)
    monkeypatch.setattr(cv2, "namedWindow", refuse)
    message = "Install opencv-python" if display else "no display"
    assert message in predict(write_image(tmp_path / "x.png"), "--show").error


@pytest.mark.parametrize(
    ("inputs", "options", "message"),
    [
        ([], [], "name an INPUT, or --webcam"),
        (["nothing.jpg"], [], "nothing.jpg: there is no such file"),
        (["*.bmp"], [], "*.bmp: no file"),
        (["empty"], [], "empty: the folder holds no images or videos (.jpg, "),
        (["x.png"], ["--min-score", "1.5"], "argument --min-score: 1.5 is not from 0 to 1"),
        (["x.png"], ["--batch-size", "0"], "--batch-size: 0 is not a whole number of at least 1"),
        (["output"], [], "output: this folder holds images that are to be read"),
        (["x.png"], ["--output", "x.png"], "--output x.png: File exists"),
        (["x.png"], ["--output", "/sys"], "--output /sys: "),  # even root must not write there
        (["x.png"], ["--weights", "nothing.pth"], "nothing.pth: there is no such file"),
    ],
)
def test_refusals(weights, tmp_path, monkeypatch, inputs, options, message):
    monkeypatch.chdir(tmp_path)
    write_image(tmp_path / "x.png")
    write_image(tmp_path / "output" / "x.jpg")
    (tmp_path / "empty").mkdir()
    run = run_asff("predict", *inputs, "--weights", weights, "--output", "output", *options)
    assert message in run.error


@pytest.mark.skipif(not Path("/proc/self/statm").is_file(), reason="needs Linux's /proc")
def test_memory_stays_flat(predict, tmp_path, monkeypatch, report):
    """500 images of 192 kB each, or the drawn ones, four times as large, would be seen."""
    data = write_image(tmp_path / "x.jpg", 256, 256).read_bytes()
    (tmp_path / "in").mkdir()
    for i in range(500):
        (tmp_path / "in" / f"{i:03}.jpg").write_bytes(data)
    sizes, detect = [], asff.Predictor.detect

    def record(self: asff.Predictor, inputs: list[dict]) -> list:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        sizes.append(pages * os.sysconf("SC_PAGE_SIZE") / 2**20)
        return detect(self, inputs)

    monkeypatch.setattr(asff.Predictor, "detect", record)
    run = predict(tmp_path / "in", "--min-score", 0, "TEST.DETECTIONS_PER_IMAGE", 5)
    assert run.code == 0 and len(run.coco["images"]) == 500 and len(sizes) == 63
    assert len(run.coco["annotations"]) == 5 * 500
    # From the 100th image on; the images alone would be 75 MiB.
    growth = max(sizes[13:]) - min(sizes[13:])
    report(f"predict: over 400 images the memory of the process varied by {growth:.1f} MiB")
    assert growth < 20
