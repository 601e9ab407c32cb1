"""The predictor finds what an evaluation finds, in files and arrays, and says what is wrong."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.evaluation.coco_evaluation import instances_to_coco_json
from detectron2.structures import Instances
from PIL import Image

import asff
from asff.config_files import load_config
from asff.engine import Predictor
from tests.engine.test_detectors import COMMON, DETECTORS, REST
from tests.training import CLASSES, CONFIG, NUM_VAL, run_here, write_checkpoint

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
    """Save a copy of a checkpoint with changes; None removes a key."""
    content = {**torch.load(weights, weights_only=True), **changes}
    torch.save({key: value for key, value in content.items() if value is not None}, path)
    return path


def all_fields(detections: list[Instances]) -> list[list]:
    return [instances_to_coco_json(x, i) for i, x in enumerate(detections)]


@pytest.mark.parametrize(
    ("name", "batch_size", "keys"),
    [
        ("YOLOv3", 1, ()),
        ("YOLOv3", 3, ("TEST.DTYPE", "bfloat16")),
        ("RetinaNet", 1, ("TEST.DTYPE", "bfloat16")),
        ("RetinaNet", 3, ()),
    ],
    ids=str,
)
def test_equals_an_evaluation(detectors, files, tmp_path, name, batch_size, keys):
    """To the bit, with the same batch size."""
    config, weights = detectors[name]
    options = ("--eval-only", "MODEL.WEIGHTS", weights, "OUTPUT_DIR", tmp_path, *LOW[name])
    options += ("TEST.IMS_PER_BATCH", batch_size)
    run = run_here("--config-file", config, *options, *keys)
    assert run.code == 0, run.output
    path = tmp_path / "inference" / "shapes_val" / "coco_instances_results.json"
    predictor = Predictor(None, weights, batch_size=batch_size, opts=keys)
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
    dataset = {"name": "mine", "format": "coco", "annotations": "gone.json", "images": "gone"}
    options = ["DATASETS.CUSTOM", [dataset], "DATASETS.TRAIN", ("mine",)]
    options += ["DATASETS.TEST", ("mine",), "MODEL.YOLOV3.NUM_CLASSES", 80]
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


NO_DATA = ("DATASETS.TRAIN", (), "DATASETS.TEST", ())
# Changes of the checkpoint, options of the predictor, and the message.
REFUSED = {
    "class count": (
        {"class_names": ["a", "b"]},
        {},
        r"NUM_CLASSES is 4, but .* 2 classes \(a, b\)",
    ),
    "no key for the classes": (
        {"class_names": None},
        {"opts": [*NO_DATA, "MODEL.META_ARCHITECTURE", "SemanticSegmentor"]},
        "Name a dataset that has them in DATASETS.TEST",
    ),
    "no config": ({"config": None}, {}, "x.pth holds no config"),
    "another program's": ({"config": {"lr": 1}}, {}, "x.pth holds no config"),
    "config": (
        {"config": "VERSION: 2\nMODEL: {YOLOV9: 1}"},
        {},
        "inside .*x.pth: there is no config",
    ),
    "no tensors": ({"model": {}}, {}, "None of the 0 tensors"),
    "shapes": ({}, {"opts": ["MODEL.DARKNET.WIDTH", 0.25]}, r"not fit the .*\d+ of another shape"),
    "batch size": ({}, {"batch_size": 0}, "batch_size is 0"),
    "test batch": ({}, {"opts": ["TEST.IMS_PER_BATCH", 0]}, "TEST.IMS_PER_BATCH is 0"),
    "dtype": ({}, {"opts": ["TEST.DTYPE", "half"]}, "TEST.DTYPE is 'half'.* bfloat16, float16"),
}


@pytest.mark.parametrize(("changes", "options", "message"), REFUSED.values(), ids=REFUSED)
def test_refuses(weights, tmp_path, changes, options, message):
    with pytest.raises(ValueError, match=message):
        Predictor(None, save(weights, tmp_path / "x.pth", **changes), **options)


def test_refuses_files_that_do_not_fit(detectors, weights, tmp_path):
    def refuses(config: Path | str | None, path: Path, message: str) -> None:
        with pytest.raises(ValueError, match=message):
            Predictor(config, path)

    config, _ = detectors["YOLOv3"]
    other = save(weights, tmp_path / "other.pth", class_names=["a", "b", "c", "d"])
    refuses(config, other, r"other\.pth was .* classes a, b, c, d, but .* dataset 'shapes_")
    tensors = torch.load(weights, weights_only=True)["model"]
    lacking = {key: x for key, x in tensors.items() if not key.startswith("head.")}
    lacking = save(weights, tmp_path / "lacking.pth", model=lacking)
    refuses(None, lacking, r"do not fit the config: \d+ missing .*head\.")
    refuses("nothing.yaml", weights, r"nothing\.yaml: there is no such file")
    refuses(None, tmp_path / "nothing.pth", r"nothing\.pth: there is no such file")
    broken = tmp_path / "broken.pth"
    broken.write_bytes(weights.read_bytes()[:-1000])
    refuses(None, broken, r"broken\.pth holds no config: it is older, damaged, or")
    refuses(config, broken, r"broken\.pth' cannot be read\. It is damaged")
    torch.save([1, 2], broken)
    refuses(None, broken, r"broken\.pth holds no config")


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((40, 60), np.uint8),
        np.zeros((40, 60, 4), np.uint8),
        np.zeros((40, 60, 3), np.float32),
        np.zeros((0, 60, 3), np.uint8),
    ],
    ids=["grey", "alpha", "floats", "empty"],
)
def test_arrays_that_are_no_images(weights, array):
    with pytest.raises(ValueError, match=r"an array \(height, width, 3\) of uint8, in the order"):
        Predictor(None, weights)(array)


def test_the_package_has_it_when_asked():
    assert asff.Predictor is Predictor
    with pytest.raises(AttributeError, match="module 'asff' has no attribute 'Predicter'"):
        asff.Predicter  # noqa: B018
