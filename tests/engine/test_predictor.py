"""The predictor finds what an evaluation finds, in files and arrays, and says what is wrong."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.evaluation.coco_evaluation import instances_to_coco_json
from detectron2.structures import Instances
from PIL import Image

import asff
from asff.config_files import load_config
from asff.data.image_io import UnreadableImage
from asff.engine import Predictor
from tests.engine.test_detectors import COMMON, DETECTORS, REST
from tests.training import CLASSES, CONFIG, NUM_VAL, ROOT, run_here, truncated, write_checkpoint

pytestmark = pytest.mark.usefixtures("one_thread", "clean_loggers")

# Nothing is sure without training.
LOW = {
    "YOLOv3": ("MODEL.YOLOV3.SCORE_THRESH_TEST", 0.0),
    # Of another order of channels, another mapper, and with boxes on several levels.
    "RetinaNet": (
        *("MODEL.BACKBONE.NAME", "build_retinanet_resnet_asff_fpn_backbone"),
        *("MODEL.RETINANET.SCORE_THRESH_TEST", 0.0, "MODEL.RETINANET.PRIOR_PROB", 0.3),
        *("MODEL.FPN.OUT_CHANNELS", 16),
    ),
}


@pytest.fixture(scope="module")
def detectors(datasets, tmp_path_factory) -> dict[str, tuple[Path, Path]]:
    """Config file and checkpoint of both."""
    found = {}
    for name, text in (("YOLOv3", CONFIG), ("RetinaNet", COMMON + DETECTORS["RetinaNet"] + REST)):
        folder = tmp_path_factory.mktemp(name)
        config = folder / "config.yaml"
        config.write_text(text)
        found[name] = config, write_checkpoint(config, folder, *LOW[name])
    return found


@pytest.fixture
def weights(detectors) -> Path:
    return detectors["YOLOv3"][1]


@pytest.fixture
def files(datasets) -> list[str]:
    """The test images, of several sizes."""
    return [str(datasets / "shapes" / "images" / f"val_{i}.png") for i in range(NUM_VAL)]


def save(weights: Path, path: Path, **changes: object) -> Path:
    """A copy of a checkpoint; None takes something out."""
    content = {**torch.load(weights, weights_only=True), **changes}
    torch.save({key: value for key, value in content.items() if value is not None}, path)
    return path


def all_fields(detections: list[Instances]) -> list[list]:
    return [instances_to_coco_json(x, i) for i, x in enumerate(detections)]


@pytest.mark.parametrize("name", LOW)
def test_equals_an_evaluation(detectors, files, tmp_path, name):
    """To the bit: an evaluation has batches of one image."""
    config, weights = detectors[name]
    options = ("--eval-only", "MODEL.WEIGHTS", weights, "OUTPUT_DIR", tmp_path, *LOW[name])
    run = run_here("--config-file", config, *options)
    assert run.code == 0, run.output
    path = tmp_path / "inference" / "shapes_val" / "coco_instances_results.json"
    predictor = Predictor(None, weights, batch_size=1)
    found = []
    for image_id, instances in enumerate(predictor(files), start=1):
        for result in instances_to_coco_json(instances, image_id):
            found.append({**result, "category_id": result["category_id"] + 1})
    assert found == json.loads(path.read_text())
    assert len(found) > 10 * NUM_VAL


@pytest.mark.parametrize("name", LOW)
def test_arrays_paths_one_and_many(detectors, files, name):
    predictor = Predictor(None, detectors[name][1], batch_size=1)
    expected = all_fields(predictor(files))
    arrays = [np.asarray(Image.open(file)) for file in files]
    arrays[2] = arrays[2].repeat(2, axis=0)[::2]  # a view of a larger one
    assert all_fields(predictor(arrays)) == expected
    assert all_fields([predictor(arrays[0]), predictor(Path(files[1]))]) == expected[:2]
    assert predictor([]) == []


@pytest.mark.parametrize("name", LOW)
def test_batches(detectors, files, name):
    """Sums of a batch may run in another order. Images of other shapes change nothing."""
    one, many = (Predictor(None, detectors[name][1], batch_size=x) for x in (1, 5))
    sizes = []
    many.model.register_forward_pre_hook(lambda _, args: sizes.append(len(args[0])))
    for single, other in zip(one(files), many(files)):
        assert torch.allclose(single.scores, other.scores, rtol=0, atol=1e-4)
        close = torch.isclose(single.pred_boxes.tensor, other.pred_boxes.tensor, atol=1e-2)
        # Detections of equal scores may change places.
        assert close.all(dim=1).float().mean() > 0.9
    assert sum(sizes) == NUM_VAL and max(sizes) <= 5
    assert sizes == [5, 2] or name == "RetinaNet"


def test_instances_are_in_pixels_of_the_image_and_plain(weights, files):
    predictor = Predictor(None, weights)
    assert not predictor.model.training
    for file, found in zip(files, predictor(files)):
        width, height = Image.open(file).size
        boxes = found.pred_boxes.tensor
        assert found.image_size == (height, width)
        assert boxes.device.type == "cpu" and not boxes.requires_grad
        assert (boxes >= 0).all() and (boxes <= torch.tensor([width, height] * 2)).all()
        assert (found.scores.diff() <= 0).all()


@pytest.mark.parametrize("name", LOW)
def test_files_are_upright_colour_images(detectors, files, tmp_path, name):
    predictor = Predictor(None, detectors[name][1])
    image = Image.open(files[0])
    exif = Image.Exif()
    exif[274] = 6  # to be rotated by 90 degrees to the right
    image.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "rotated.png", exif=exif)
    image.convert("RGBA").save(tmp_path / "alpha.png")
    image.convert("L").save(tmp_path / "grey.png")
    grey = np.asarray(image.convert("L"))[..., None].repeat(3, axis=2)
    for file, expected in (("rotated", image), ("alpha", image), ("grey", grey)):
        pixels = predictor.read(str(tmp_path / f"{file}.png"))
        assert np.array_equal(pixels, np.asarray(expected))


def test_class_names(detectors, files, tmp_path):
    """From the checkpoint; else from the datasets; else there are none."""
    config, weights = detectors["YOLOv3"]
    other = ["a", "b", "c", "d"]
    assert Predictor(None, weights).class_names == list(CLASSES)
    named = save(weights, tmp_path / "named.pth", class_names=other)
    assert Predictor(None, named).class_names == other
    old = save(weights, tmp_path / "old.pth", class_names=None, config=None)
    assert Predictor(config, old).class_names == list(CLASSES)
    cfg = load_config(str(config), ["DATASETS.TRAIN", "()", "DATASETS.TEST", "()"])
    assert Predictor(cfg, old).class_names == ["0", "1", "2", "3"]


def test_data_of_the_training_need_not_be_there(weights, tmp_path):
    """Neither for the checkpoint's own config, nor where the checkpoint has the class names."""
    entry = {"name": "mine", "format": "coco", "annotations": "gone.json", "images": "gone"}
    options = ["DATASETS.CUSTOM", [entry], "DATASETS.TRAIN", ("mine",), "DATASETS.TEST", ("mine",)]
    options += ["MODEL.YOLOV3.NUM_CLASSES", 80]
    config = tmp_path / "mine.yaml"
    config.write_text(CONFIG)
    cfg = load_config(str(config), options)
    predictor = Predictor(cfg, weights)
    assert predictor.class_names == list(CLASSES)
    assert predictor.cfg.MODEL.YOLOV3.NUM_CLASSES == len(CLASSES)  # as the checkpoint has
    own = save(weights, tmp_path / "own.pth", config=predictor.cfg.dump())
    assert Predictor(None, own).class_names == list(CLASSES)
    unnamed = save(weights, tmp_path / "unnamed.pth", class_names=None)
    with pytest.raises(ValueError, match=r"'gone\.json', which does not exist"):
        Predictor(cfg, unnamed)


def test_config_file_config_and_checkpoint_agree(detectors, files):
    config, weights = detectors["YOLOv3"]
    cfg = load_config(str(config), LOW["YOLOv3"])
    expected = all_fields(Predictor(None, weights)(files[:2]))
    assert all_fields(Predictor(config, weights, opts=LOW["YOLOv3"])(files[:2])) == expected
    assert all_fields(Predictor(cfg, weights)(files[:2])) == expected
    assert not cfg.is_frozen()
    strict = Predictor(None, weights, opts=["MODEL.YOLOV3.SCORE_THRESH_TEST", "1.0"])
    assert [len(x) for x in strict(files)] == [0] * NUM_VAL


def test_refuses_other_classes(detectors, tmp_path):
    config, weights = detectors["YOLOv3"]
    other = save(weights, tmp_path / "other.pth", class_names=["a", "b", "c", "d"])
    message = r"other\.pth was trained on the classes a, b, c, d, but the config's dataset 'shapes_"
    with pytest.raises(ValueError, match=message):
        Predictor(config, other)
    fewer = save(weights, tmp_path / "fewer.pth", class_names=["a", "b"])
    with pytest.raises(ValueError, match=r"NUM_CLASSES is 4, but .* 2 classes \(a, b\)"):
        Predictor(None, fewer)


def test_refuses_what_it_cannot_know(detectors, tmp_path):
    """A meta-architecture of which no key tells the number of classes."""
    weights = save(detectors["YOLOv3"][1], tmp_path / "old.pth", class_names=None)
    empty = ["DATASETS.TRAIN", (), "DATASETS.TEST", ()]
    with pytest.raises(ValueError, match="Name a dataset that has them in DATASETS.TEST"):
        Predictor(None, weights, opts=[*empty, "MODEL.META_ARCHITECTURE", "SemanticSegmentor"])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"config": None}, "changed.pth holds no config"),
        ({"config": {"lr": 1}}, "changed.pth holds no config"),  # another program's
        ({"config": "VERSION: 2\nMODEL: {YOLOV9: 1}"}, "inside .*changed.pth: there is no config"),
        ({"model": {}}, "None of the 0 tensors"),
    ],
)
def test_refuses_checkpoints(weights, tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        Predictor(None, save(weights, tmp_path / "changed.pth", **changes))


def test_refuses_weights_that_leave_gaps(weights, tmp_path):
    tensors = torch.load(weights, weights_only=True)["model"]
    lacking = {key: x for key, x in tensors.items() if not key.startswith("head.")}
    path = save(weights, tmp_path / "lacking.pth", model=lacking)
    with pytest.raises(ValueError, match=r"do not fit the config: \d+ missing .*head\."):
        Predictor(None, path)
    with pytest.raises(ValueError, match=r"do not fit the config: .*\d+ of another shape"):
        Predictor(None, weights, opts=["MODEL.DARKNET.WIDTH", 0.25])


def test_refuses_files_that_are_no_checkpoints(detectors, weights, tmp_path):
    config, _ = detectors["YOLOv3"]
    with pytest.raises(ValueError, match=r"nothing\.pth: there is no such file"):
        Predictor(None, tmp_path / "nothing.pth")
    broken = tmp_path / "broken.pth"
    broken.write_bytes(weights.read_bytes()[:-1000])
    with pytest.raises(ValueError, match=r"broken\.pth holds no config: it is older, damaged, or"):
        Predictor(None, broken)
    with pytest.raises(ValueError, match=r"broken\.pth' cannot be read\. It is damaged"):
        Predictor(config, broken)
    torch.save([1, 2], broken)
    with pytest.raises(ValueError, match=r"broken\.pth holds no config"):
        Predictor(None, broken)


@pytest.mark.parametrize(
    ("opts", "message"),
    [
        (["INPUT.TEST_SIZE", 100], "INPUT.TEST_SIZE is 100"),
        (["MODEL.META_ARCHITECTURE", "YOLOv4"], "MODEL.META_ARCHITECTURE is 'YOLOv4'"),
        (["MODEL.YOLOV3.NUM_CLASES", 4], "Did you mean MODEL.YOLOV3.NUM_CLASSES"),
        (["INPUT.SQUARE", False, "INPUT.FORMAT", "L"], "INPUT.FORMAT is 'L'"),
    ],
)
def test_refuses_configs(weights, opts, message):
    with pytest.raises(ValueError, match=message):
        Predictor(None, weights, opts=opts)


def test_refuses_other_arguments(weights):
    with pytest.raises(ValueError, match=r"nothing\.yaml: there is no such file"):
        Predictor("nothing.yaml", weights)
    with pytest.raises(ValueError, match="batch_size is 0"):
        Predictor(None, weights, batch_size=0)


@pytest.mark.parametrize("name", LOW)
def test_unreadable_files(detectors, files, tmp_path, name):
    predictor = Predictor(None, detectors[name][1])
    other = tmp_path / "other.png"
    other.write_text("no image")
    with truncated(Path(files[3])) as broken:
        for path in (broken, str(other), str(tmp_path / "nothing.png"), str(tmp_path)):
            with pytest.raises(UnreadableImage) as error:
                predictor([files[0], path])
            assert path in str(error.value)


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((40, 60), np.uint8),
        np.zeros((40, 60, 4), np.uint8),
        np.zeros((40, 60, 3), np.float32),
        np.zeros((0, 60, 3), np.uint8),
        np.zeros((2, 40, 60, 3), np.uint8),
    ],
    ids=["grey", "alpha", "floats", "empty", "stack"],
)
def test_arrays_that_are_no_images(weights, array):
    with pytest.raises(ValueError, match=r"an array \(height, width, 3\) of uint8, in the order"):
        Predictor(None, weights)(array)


def test_the_package_has_it_when_asked():
    code = """
import sys, asff
assert "asff.engine" not in sys.modules
assert asff.Predictor.__module__ == "asff.engine.predictor"
from asff import Predictor
try:
    asff.Predicter
except AttributeError as error:
    print(error)
"""
    env = {**os.environ, "PYTHONPATH": str(ROOT / "projects" / "ASFF")}
    command = [sys.executable, "-W", "ignore", "-c", code]
    run = subprocess.run(command, env=env, capture_output=True, text=True)
    assert run.stdout == "module 'asff' has no attribute 'Predicter'\n", run.stderr
    assert asff.Predictor is Predictor
