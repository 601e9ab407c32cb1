"""`asff fusion-maps`: files and refusals."""

from __future__ import annotations

import json
import shutil
from functools import partial
from pathlib import Path

import pytest
from PIL import Image

from asff.checkpoint import Checkpointer, model_metadata
from asff.config_files import load_config
from asff.engine import Trainer
from tests.training import run_asff, truncated

ROOT = Path(__file__).resolve().parents[2]
LEVELS = ["p5", "p4", "p3"]
LETTERBOX = ("MODEL.YOLOV3.LETTERBOX_TEST", "True", "INPUT.SQUARE", "False")
run = partial(run_asff, "fusion-maps")


def save_model(config: Path, folder: Path, *options: object) -> Path:
    """Save a checkpoint of an untrained detector that has detections everywhere."""
    defaults = ["MODEL.YOLOV3.FEATURE_ADAPTION", False, "MODEL.YOLOV3.SCORE_THRESH_TEST", 0.0]
    cfg = load_config(str(config), [*defaults, *options])
    checkpointer = Checkpointer(Trainer.build_model(cfg), str(folder))
    checkpointer.metadata = model_metadata(cfg)
    checkpointer.save("model")
    return folder / "model.pth"


@pytest.fixture(scope="module")
def weights(config: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(config, tmp_path_factory.mktemp("asff"))


@pytest.fixture
def images(datasets: Path) -> Path:
    return datasets / "shapes" / "images"


def test_figures(images, weights, tmp_path):
    """Draw a file, those of a pattern, and one with a name that is taken."""
    other = tmp_path / "other" / "val_0.png"
    other.parent.mkdir()
    shutil.copy(images / "val_4.png", other)
    output = tmp_path / "new" / "figures"
    end = run(
        *(images / "val_0.png", images / "val_[12].png", other),
        *("--weights", weights, "--output", output, "--min-score", 0),
    )
    assert end.code == 0, end.output
    assert f"4 figures: {output}" in end.output
    names = sorted(file.name for file in output.iterdir())
    assert names == ["val_0.webp", "val_0_2.webp", "val_1.webp", "val_2.webp"]
    for name in names:
        assert (output / name).stat().st_size < 300_000
        with Image.open(output / name) as figure:
            assert figure.width > figure.height > 300


def test_numbers_over_a_dataset(weights, config, tmp_path):
    end = run("--dataset", "shapes_val", "--weights", weights, "--output", tmp_path / "new")
    assert end.code == 0, end.output
    table = (tmp_path / "new" / "shapes_val_fusion.md").read_text()
    found = json.loads((tmp_path / "new" / "shapes_val_fusion.json").read_text())
    assert table.split("\n\n", 1)[1].strip() in end.output
    assert found["images"] == 7 and found["never_used"] == []
    for level in LEVELS:
        means = found["levels"][level]["regions"]["everywhere"]["weights"]
        assert list(means) == LEVELS and sum(means.values()) == pytest.approx(1)
    assert f"small ({found['objects']['small']})" in table


def test_images_and_custom_dataset_of_another_config(images, weights, config, tmp_path):
    """The dataset is only in DATASETS.CUSTOM."""
    dataset = {"name": "mine", "format": "coco", "images": str(images)}
    dataset["annotations"] = str(images.parent / "val.json")
    end = run(
        *(images / "val_0.png", "--dataset", "mine", "--weights", weights),
        *("--config-file", config, "--output", tmp_path),
        *("MODEL.YOLOV3.FEATURE_ADAPTION", False, "INPUT.TEST_SIZE", 96),
        *("DATASETS.CUSTOM", [dataset]),
    )
    assert end.code == 0, end.output
    names = sorted(file.name for file in tmp_path.iterdir())
    assert names == ["mine_fusion.json", "mine_fusion.md", "val_0.webp"]
    assert json.loads((tmp_path / "mine_fusion.json").read_text())["images"] == 7


def test_model_without_asff(images, config, tmp_path):
    weights = save_model(config, tmp_path, "MODEL.YOLOV3.FUSION.NAME", "sum")
    end = run(images / "val_0.png", "--weights", weights, "--output", tmp_path / "new")
    assert end.code == 2
    start = "asff fusion-maps: error: The model does not fuse its levels by ASFF"
    assert end.error.startswith(start) and end.error.count("\n") == 1
    assert not list((tmp_path / "new").glob("*"))


@pytest.mark.parametrize("inputs", [("val_0.png",), ("--dataset", "shapes_val")])
def test_unreadable_image(images, weights, tmp_path, monkeypatch, inputs):
    monkeypatch.chdir(images)
    with truncated(images / "val_0.png"):
        end = run(*inputs, "--weights", weights, "--output", tmp_path)
    assert end.code == 2 and end.error.startswith("asff fusion-maps: error: ")
    assert "val_0.png: " in end.error and not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "args, message",
    [
        ((), "name an IMAGE, or --dataset"),
        (("missing.png",), "error: missing.png: there is no such file."),
        (("clip.mp4",), "clip.mp4: a video cannot be drawn; name images, such as its frames."),
        (("--dataset", "shape_val"), "--dataset names the dataset 'shape_val', which is not"),
        (("--dataset", "shapes_val", "--weights", "missing.pth"), "missing.pth: there is no such"),
        (("--dataset", "shapes_val", *LETTERBOX), "LETTERBOX_TEST is True, but maps can be laid"),
        (("--dataset", "shapes_val", "--output", "clip.mp4"), "--output clip.mp4: File exists."),
        (("--dataset", "bccd_val"), "--dataset names the dataset 'bccd_val', but '"),
    ],
)
def test_refusals(weights, tmp_path, monkeypatch, args, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "clip.mp4").touch()
    num_inputs = int(args[:1] in (("missing.png",), ("clip.mp4",)))
    done = run(*args[:num_inputs], "--weights", weights, *args[num_inputs:])
    assert message in done.error
