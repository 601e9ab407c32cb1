"""The demo on files of all kinds: what it writes, skips and refuses."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from detectron2.evaluation.coco_evaluation import instances_to_coco_json
from PIL import Image
from pycocotools.coco import COCO

import asff
from tests.training import CLASSES, ROOT, run_script, write_checkpoint

pytestmark = pytest.mark.usefixtures("one_thread", "clean_loggers")

Demo = Callable[..., SimpleNamespace]


@pytest.fixture(scope="module")
def weights(config, tmp_path_factory) -> Path:
    """Of an untrained detector, whose best detections have scores of about 0.02."""
    folder = tmp_path_factory.mktemp("weights")
    return write_checkpoint(config, folder, "MODEL.YOLOV3.SCORE_THRESH_TEST", 0.0)


@pytest.fixture
def demo(weights, tmp_path) -> Demo:
    """Runs the demo in this process: its exit code, what it printed, and what it wrote."""
    output = tmp_path / "output"

    def run(*args: object) -> SimpleNamespace:
        done = run_script("tools/demo.py", *args, "--weights", weights, "--output", output)
        path = output / "detections.json"
        return SimpleNamespace(
            code=done.code,
            printed=done.output,
            errors=[x for x in done.output.splitlines() if x.startswith("demo.py: error: ")],
            names=sorted(x.name for x in output.iterdir()) if output.is_dir() else [],
            found=json.loads(path.read_text()) if path.is_file() else None,
            output=output,
        )

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


def test_folder_with_an_unreadable_file(demo, tmp_path):
    for i in range(5):
        write_image(tmp_path / "in" / f"{i}.png", seed=i)
    broken = tmp_path / "in" / "2.png"
    broken.write_bytes(broken.read_bytes()[:-50])
    (tmp_path / "in" / "notes.txt").write_text("not looked at")
    run = demo(tmp_path / "in", "--min-score", 0, "--batch-size", 2)
    assert run.code == 0
    assert run.names == ["0.jpg", "1.jpg", "3.jpg", "4.jpg", "detections.json"]
    images = [x["file_name"] for x in run.found["images"]]
    assert images == [str(tmp_path / "in" / f"{i}.png") for i in (0, 1, 3, 4)]
    first, second, third = run.printed.splitlines()[-3:]
    assert " in 4 images (" in first and " images/s)" in first
    assert second == "1 of 5 files cannot be read:"
    assert third.startswith(f"  {broken}: ")
    assert "5/5" in run.printed and " images/s]" in run.printed


def test_all_inputs_together(demo, tmp_path, monkeypatch):
    """Each file once; those of one name get numbers."""
    write_image(tmp_path / "a" / "x.png")
    write_image(tmp_path / "a" / "X.jpg")
    write_image(tmp_path / "b" / "c" / "x.png")
    write_image(tmp_path / "b[1].png")
    monkeypatch.chdir(tmp_path)
    run = demo("a/x.png", "a", "b/**/*.png", "b[1].png")
    assert run.code == 0
    names = [x["file_name"] for x in run.found["images"]]
    assert names == ["a/x.png", "a/X.jpg", "b/c/x.png", "b[1].png"]
    assert run.names == ["X_2.jpg", "b[1].jpg", "detections.json", "x.jpg", "x_3.jpg"]


def test_detections_in_the_format_of_coco(demo, weights, datasets):
    """All that the predictor finds, in batches of the same size."""
    folder = datasets / "shapes" / "images"
    files = [str(folder / f"val_{i}.png") for i in range(3)]
    run = demo(*files, "--min-score", 0, "--batch-size", 2)
    expected = []
    for image_id, found in enumerate(asff.Predictor(None, weights, batch_size=2)(files), start=1):
        expected += instances_to_coco_json(found, image_id)
    assert len(expected) > 20
    assert [x["id"] for x in run.found["annotations"]] == list(range(1, len(expected) + 1))
    for x, other in zip(run.found["annotations"], expected):
        assert (x["image_id"], x["bbox"], x["score"]) == tuple(
            other[key] for key in ("image_id", "bbox", "score")
        )
        assert x["category_id"] == other["category_id"] + 1
        assert x["area"] == x["bbox"][2] * x["bbox"][3] and x["iscrowd"] == 0
    names = [{"id": i, "name": name} for i, name in enumerate(CLASSES, start=1)]
    assert run.found["categories"] == names
    assert run.found["images"][1] == {"id": 2, "file_name": files[1], "width": 80, "height": 80}
    coco = COCO(str(run.output / "detections.json"))
    assert len(coco.getAnnIds(imgIds=[2])) == sum(x["image_id"] == 2 for x in expected)


def test_least_score(demo, weights, tmp_path):
    """Also without detections there is a picture, and it shows the image alone."""
    file = tmp_path / "x.png"
    Image.new("RGB", (640, 480), (128, 128, 128)).save(file)
    middle = float(asff.Predictor(None, weights)(file).scores.median())
    counts = []
    for score in (0.0, middle, 1.0):
        run = demo(file, "--min-score", score)
        assert run.code == 0 and len(run.found["images"]) == 1
        scores = [x["score"] for x in run.found["annotations"]]
        assert all(x >= score for x in scores)
        assert f"{len(scores)} objects of a score of at least {score:g} in 1 images" in run.printed
        drawn = (np.asarray(Image.open(run.output / "x.jpg")) != 128).any()
        assert drawn == bool(scores)
        counts.append(len(scores))
    assert counts[0] > counts[1] > counts[2] == 0


def test_pictures_of_all_kinds(demo, tmp_path):
    image = Image.open(write_image(tmp_path / "in" / "colour.png", 300, 500))
    exif = Image.Exif()
    exif[274] = 6  # to be turned by 90 degrees
    image.save(tmp_path / "in" / "turned.jpg", exif=exif)
    image.convert("L").save(tmp_path / "in" / "grey.png")
    image.convert("RGBA").save(tmp_path / "in" / "alpha.png")
    image.resize((20000, 30)).save(tmp_path / "in" / "wide.png")
    image.resize((1, 1)).save(tmp_path / "in" / "dot.png")
    run = demo(tmp_path / "in", "--min-score", 0)
    assert run.code == 0
    sizes = {Path(x["file_name"]).stem: (x["width"], x["height"]) for x in run.found["images"]}
    assert sizes == {
        **dict.fromkeys(("colour", "grey", "alpha"), (500, 300)),
        "turned": (300, 500),
        "wide": (20000, 30),
        "dot": (1, 1),
    }
    pictures = {name: Image.open(run.output / f"{name}.jpg").size for name in sizes}
    # The huge one is made smaller, the tiny one larger.
    assert pictures == {**sizes, "wide": (4096, 6), "dot": (480, 480)}


def test_batches_of_huge_images_are_small(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "tools")
    from demo_inputs import MAX_PIXELS, batches

    huge = np.broadcast_to(np.uint8(0), (MAX_PIXELS // 2, 1, 3))
    images = [({"file_name": str(i)}, huge) for i in range(7)]
    assert [len(x) for x in batches(images, 8)] == [3, 3, 1]
    assert [len(x) for x in batches(images, 2)] == [2, 2, 2, 1]
    assert list(batches([], 8)) == []


def test_video(demo, tmp_path):
    run = demo(write_video(tmp_path / "clip.mp4"), "--batch-size", 4, "--min-score", 1)
    assert run.code == 0 and run.names == ["clip.mp4", "detections.json"]
    assert [x["frame"] for x in run.found["images"]] == list(range(11))
    assert {x["file_name"] for x in run.found["images"]} == {str(tmp_path / "clip.mp4")}
    assert "11/11" in run.printed
    first, second = (cv2.VideoCapture(str(x / "clip.mp4")) for x in (tmp_path, run.output))
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
def test_corrupt_video(demo, tmp_path, content, message):
    """One sentence and exit code 2; what can be done is."""
    video = write_video(tmp_path / "clip.avi", codec="MJPG")
    whole = video.read_bytes()
    video.write_bytes(whole[: len(whole) // 2] if content is None else content)
    run = demo(video)
    assert run.code == 2
    (error,) = run.errors
    assert error.startswith(f"demo.py: error: {video}: {message}")
    assert "Traceback" not in run.printed
    frames = len(run.found["images"])
    if content is None:
        assert 0 < frames < 0.9 * 11 and error.endswith(f"after {frames / 10:.1f} of 1.1 seconds.")
    else:
        assert frames == 0
    run = demo(write_image(tmp_path / "x.png"), video)
    assert run.code == 2 and "x.jpg" in run.names
    assert run.errors == ["demo.py: error: 1 of 2 files cannot be read:"]


class ScreenRecording:
    """Stands for OpenCV's view of frames that come as the screen changes: it reckons with 30/s."""

    times = (0, 33, 500, 533, 2400, 4966)  # in milliseconds

    def __init__(self, path: str):
        self.num_read = 0
        self.num_frames = int(path)

    def isOpened(self) -> bool:
        return True

    def get(self, key: int) -> float:
        fixed = {cv2.CAP_PROP_FPS: 30.0, cv2.CAP_PROP_FRAME_COUNT: 150.0}
        return fixed[key] if key in fixed else self.times[self.num_read - 1]

    def read(self) -> tuple[bool, np.ndarray | None]:
        if self.num_read == self.num_frames:
            return False, None
        self.num_read += 1
        return True, np.zeros((48, 64, 3), np.uint8)


def test_video_of_a_changing_frame_rate(monkeypatch):
    """It is whole where its last frame is at its end, however few there are."""
    monkeypatch.syspath_prepend(ROOT / "tools")
    from demo_inputs import UnreadableVideo, Video

    monkeypatch.setattr(cv2, "VideoCapture", ScreenRecording)
    whole, broken = Video("6"), Video("5")
    assert len(list(whole)) == 6 and len(list(broken)) == 5
    whole.check_end()
    with pytest.raises(UnreadableVideo, match=r"5: breaks off after 2\.4 of 5\.0 seconds\."):
        broken.check_end()


def test_nothing_can_be_read(demo, tmp_path):
    (tmp_path / "x.png").write_text("no image")
    run = demo(tmp_path / "x.png")
    assert run.code == 2 and run.found["images"] == []
    assert run.errors == [
        f"demo.py: error: {tmp_path / 'x.png'}: not an image that OpenCV can read"
    ]


class Camera:
    """Stands for OpenCV's camera: three pictures, or none at all, then somebody presses Ctrl-C."""

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


def test_webcam(demo, monkeypatch):
    capture = cv2.VideoCapture
    monkeypatch.setattr(cv2, "VideoCapture", Camera)
    run = demo("--webcam", 1)
    assert run.code == 0 and "Stopped." in run.printed
    assert [x["frame"] for x in run.found["images"]] == [0, 1, 2]
    assert capture(str(run.output / "webcam1.mp4")).get(cv2.CAP_PROP_FRAME_COUNT) == 3
    run = demo("--webcam")
    assert run.code == 2
    assert run.errors == ["demo.py: error: --webcam 0: there is no such camera."]


def test_window(demo, tmp_path, monkeypatch):
    """With the second picture somebody presses q."""
    for i in range(3):
        write_image(tmp_path / "in" / f"{i}.png")
    shown, keys = [], iter([ord(" "), ord("q")])
    monkeypatch.setenv("DISPLAY", ":0")
    monkeypatch.setattr(cv2, "namedWindow", lambda *args: None)
    monkeypatch.setattr(cv2, "imshow", lambda name, picture: shown.append(picture.shape))
    monkeypatch.setattr(cv2, "waitKey", lambda delay: next(keys))
    run = demo(tmp_path / "in", "--show")
    assert run.code == 0 and "Stopped." in run.printed
    assert len(shown) == 2 and "1.jpg" in run.names and "2.jpg" not in run.names


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="elsewhere there is a display")
def test_no_display(demo, tmp_path, monkeypatch):
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    run = demo(write_image(tmp_path / "x.png"), "--show")
    assert run.code == 2 and "there is no display here" in run.errors[0]


def test_opencv_without_windows(demo, tmp_path, monkeypatch):
    def refuse(*args: object) -> None:
        raise cv2.error("The function is not implemented")

    monkeypatch.setenv("DISPLAY", ":0")
    monkeypatch.setattr(cv2, "namedWindow", refuse)
    run = demo(write_image(tmp_path / "x.png"), "--show")
    assert run.code == 2 and "Install opencv-python in place of" in run.errors[0]


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ((), "name an INPUT, or --webcam"),
        (("nothing.jpg",), "nothing.jpg: there is no such file."),
        (("*.bmp",), "*.bmp: no file is like that."),
        (("empty",), "empty: the folder holds no images or videos (.jpg, "),
        (("x.png", "--min-score", "1.5"), "argument --min-score: 1.5 is not from 0 to 1"),
        (("x.png", "--batch-size", "0"), "--batch-size is 0, but must be at least 1"),
        (("output",), "output: this folder holds images that are to be read"),
        (("x.png", "--output", "x.png"), "--output x.png: File exists."),
        (("x.png", "--output", "/sys"), "--output /sys: "),  # even root must not write there
        (("x.png", "--weights", "nothing.pth"), "'nothing.pth' cannot be read"),
        (("x.png", "--config-file", "nothing.yaml"), "nothing.yaml: there is no such file."),
        (("x.png", "--opts", "MODEL.X", "1"), "there is no config key 'MODEL.X'."),
    ],
)
def test_refusals(weights, tmp_path, monkeypatch, args, message):
    monkeypatch.chdir(tmp_path)
    write_image(tmp_path / "x.png")
    write_image(tmp_path / "output" / "x.jpg")
    (tmp_path / "empty").mkdir()
    done = run_script("tools/demo.py", "--weights", weights, "--output", "output", *args)
    assert done.code == 2 and message in done.error.splitlines()[0]


@pytest.mark.skipif(not Path("/proc/self/statm").is_file(), reason="needs Linux's /proc")
def test_memory_stays_flat(demo, tmp_path, monkeypatch, report):
    """500 images of 192 kB each, or their pictures, four times as large, would be seen."""
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
    run = demo(tmp_path / "in", "--min-score", 0, "--opts", "TEST.DETECTIONS_PER_IMAGE", 5)
    assert run.code == 0 and len(run.found["images"]) == 500 and len(sizes) == 63
    assert len(run.found["annotations"]) == 5 * 500
    # From the 100th image on; the images alone would be 75 MiB.
    growth = max(sizes[13:]) - min(sizes[13:])
    report(f"demo: over 400 images the memory of the process varied by {growth:.1f} MiB")
    assert growth < 20
