"""Exported detectors detect what they do in PyTorch, in batches and sizes that were not traced."""

from __future__ import annotations

import json
import re
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.structures import Boxes, Instances
from PIL import Image
from torch import Tensor, nn

import asff
from asff.config_files import parse_config
from asff.engine import Predictor
from asff.export import (
    FORMATS,
    RUNTIMES,
    Agreement,
    Options,
    Source,
    Thresholds,
    Tolerance,
    build_graph,
    check_options,
    compare,
    default_deformable,
    formats,
    load_model,
)
from tests.engine.test_detectors import ASFF_RETINANET, COMMON, DETECTORS, REST
from tests.training import CLASSES, CONFIG, NUM_VAL, run_asff, write_checkpoint

onnxruntime = pytest.importorskip("onnxruntime")
pytestmark = pytest.mark.usefixtures("clean_loggers")

CONFIGS = {
    "YOLOv3": CONFIG,  # with feature adaption
    "RetinaNet": COMMON + DETECTORS["RetinaNet"] + REST,
}
# ASFF*; and ASFF-FPN.
OPTIONS = {"YOLOv3": ("MODEL.YOLOV3.RFB", True), "RetinaNet": ASFF_RETINANET}


def write_spread_checkpoint(name: str, folder: Path) -> Path:
    """Write a detector whose boxes and scores differ from anchor to anchor, without training."""
    config = folder / "config.yaml"
    config.write_text(CONFIGS[name])
    path = write_checkpoint(config, folder, *OPTIONS[name])
    model = Predictor(None, path, opts=["TEST.FUSE", False]).model

    def spread(layer: nn.Conv2d, inputs: tuple[Tensor]) -> None:
        inputs_of_output = inputs[0].square().sum(dim=1).mean() * layer.kernel_size[0] ** 2
        nn.init.normal_(layer.weight, std=0.5 * inputs_of_output.item() ** -0.5)
        nn.init.zeros_(layer.bias)

    for key, layer in model.named_modules():
        if key.endswith(("predict", "cls_score", "bbox_pred")):
            layer.register_forward_pre_hook(spread)
    torch.manual_seed(0)
    model([{"image": torch.randint(256, (3, 96, 64))}])
    torch.save({**torch.load(path, weights_only=True), "model": model.state_dict()}, path)
    return path


@pytest.fixture
def files(datasets) -> list[str]:
    """The test images, of several sizes."""
    return [str(datasets / "shapes" / "images" / f"val_{i}.png") for i in range(NUM_VAL)]


@pytest.fixture(
    scope="module", params=[pytest.param(name, marks=pytest.mark.slow) for name in CONFIGS]
)
def exported(request, datasets, tmp_path_factory) -> tuple[str, Path, Path]:
    """Name, checkpoint and ONNX file of a detector."""
    folder = tmp_path_factory.mktemp(request.param)
    weights = write_spread_checkpoint(request.param, folder)
    run = run_asff("export", "--weights", weights, "--dataset", "shapes_val")
    assert run.code == 0, run.output
    return request.param, weights, weights.with_suffix(".onnx")


def agree(
    expected: list[Instances], found: list[Instances], limit: int = 100, least: float = 0.0
) -> Agreement:
    """Compare the detections of images; ``limit`` and ``least`` are the thresholds of both."""
    outputs = [[{"instances": x} for x in detections] for detections in (expected, found)]
    thresholds = Thresholds(least, 0.6, 1000, per_level=False, detections=limit, best_class=True)
    return compare(*(lambda _, x=x: x for x in outputs), [[]], thresholds, Tolerance(0.01, 1e-3))


def test_outputs(exported):
    """Of batches and sizes that were not traced."""
    _, weights, path = exported
    _, run = load_model(path)
    graph = build_graph(Predictor(None, weights, opts=["TEST.FUSE", False]).model)
    for shape in ((1, 3, 64, 64), (3, 3, 96, 160)):
        images = torch.rand(shape) * 255
        with torch.no_grad():
            expected_boxes, expected_scores = graph(images)
        boxes, scores = run(images)
        assert expected_scores.std() > 0.01
        assert torch.allclose(scores, expected_scores, rtol=0, atol=1e-3)
        assert torch.allclose(boxes, expected_boxes, rtol=1e-3, atol=0.05)


def test_predictor(exported, files, tmp_path):
    """The face of the predictor, without config or checkpoint; thresholds can be changed."""
    name, weights, path = exported
    predictor, onnx_predictor = Predictor(None, weights), asff.OnnxPredictor(path)
    assert onnx_predictor.class_names == list(CLASSES)
    expected = predictor(files)
    agreement = agree(expected, onnx_predictor(files))
    assert agreement.matched > 30 and not agreement.unmatched
    array = np.asarray(Image.open(files[0]))
    single = asff.OnnxPredictor(path, batch_size=1)(files[0])
    assert not agree(expected[:1], [single]).unmatched
    assert not agree([single], [onnx_predictor(array)]).unmatched
    least = float(expected[0].scores[3])
    opts = [f"MODEL.{name.upper()}.SCORE_THRESH_TEST", least, "TEST.DETECTIONS_PER_IMAGE", 3]
    few = asff.OnnxPredictor(path, opts=opts)(files)
    assert len(few[0]) == 3 and min(x.scores.min() for x in few if len(x)) >= least
    assert not agree(Predictor(None, weights, opts=opts)(files), few, 3, least).unmatched
    run = run_asff("predict", files[0], "--weights", path, "--output", tmp_path)
    assert run.code == 0 and "objects of a score" in run.output, run.output


def test_metadata(exported):
    name, _, path = exported
    metadata, _ = load_model(path)
    taken = json.loads(metadata["input"])
    assert json.loads(metadata["class_names"]) == list(CLASSES)
    assert metadata["asff_version"]
    assert taken["channels"] == ("RGB" if name == "YOLOv3" else "BGR")
    assert taken["shape"] == ["N", 3, "H", "W"] and taken["divisor"] == 32
    assert parse_config(metadata["config"], "").MODEL.META_ARCHITECTURE == name
    assert json.loads(metadata["thresholds"])["per_level"] == (name == "RetinaNet")


def detections(*found: tuple[float, float, int]) -> list[Instances]:
    """Make the detections of an image: x1, score and class of boxes of 10 x 10 pixels."""
    boxes = Boxes(torch.tensor([[x, 0.0, x + 10, 10.0] for x, *_ in found]).view(-1, 4))
    scores = torch.tensor([score for _, score, _ in found])
    classes = torch.tensor([c for *_, c in found], dtype=torch.int64)
    return [Instances((64, 64), pred_boxes=boxes, scores=scores, pred_classes=classes)]


def test_compare():
    """Boxes within 0.01 pixels, scores within 1e-3, of the same class, one to one."""
    expected = detections((0, 0.9, 0), (20, 0.8, 1))
    same = agree(expected, detections((20.008, 0.8005, 1), (0, 0.9, 0)), least=0.3)
    assert (same.matched, same.unmatched) == (2, 0)
    assert same.box == pytest.approx(0.008, abs=1e-4)
    assert same.score == pytest.approx(5e-4, abs=1e-6)
    for other in ((20, 0.8, 0), (20.02, 0.8, 1), (20, 0.797, 1), (0, 0.9, 0)):
        differs = agree(expected, detections((0, 0.9, 0), other), least=0.3)
        assert (differs.matched, differs.unmatched) == (1, 2), other
    nothing = agree(expected, detections(), least=0.3)
    assert (nothing.matched, nothing.unmatched) == (0, 2)
    # A score at the threshold, and the last detection where there is room for no more.
    assert agree(detections((0, 0.3005, 0)), detections(), least=0.3).unmatched == 0
    full = detections((0, 0.9, 0), (40, 0.8, 0))
    assert agree(expected, full, least=0.3).unmatched == 2
    assert agree(expected, full, limit=2, least=0.3).unmatched == 0


@pytest.mark.parametrize(
    "options, message",
    [
        (("--size", 64, "INPUT.SQUARE", False), "INPUT.SQUARE is False: .* without --size"),
        (("--size", 65), "divisible by 32"),
        (("--output", "model.xml"), r"--output is model.xml, but .* is \*.onnx"),
        (("--dataset", "nothing"), "nothing"),
        (("--int8",), "--dataset NAME to measure its AP"),
        (("--nms", "--format", "aoti", "--output", "x.pt2"), "--nms is not possible"),
        (("--format", "openvino", "--deformable", "operator"), "needs --deformable samplings"),
        (("MODEL.YOLOV3.SCORE_THRESH_TEST", 1.0), "finds nothing in 8 images"),
    ],
)
def test_refusals(untraced, options, message):
    assert re.search(message, run_asff("export", "--weights", untraced, *options).error)
    left = {x.name for x in untraced.parent.iterdir()}
    assert left == {"config.yaml", "last_checkpoint", "model.pth"}


@pytest.mark.parametrize(
    ("export_format", "missing", "message"),
    [
        ("onnx", "onnxscript", "needs onnxscript, .*: pip install 'asff\\[export\\]'"),
        ("openvino", "openvino", "needs openvino, .*: pip install openvino"),
        ("torch-export", "onnx", None),
    ],
)
def test_missing_packages(monkeypatch, export_format, missing, message):
    monkeypatch.setattr(formats, "find_spec", lambda name: None if name == missing else name)
    refused = pytest.raises(ValueError, match=message) if message else nullcontext()
    with refused:
        check_options(export_format, Options())


@pytest.mark.parametrize("version, method", [("1.23.2", "samplings"), ("1.32.0", "operator")])
def test_default_deformable(monkeypatch, version, method):
    monkeypatch.setattr(onnxruntime, "__version__", version)
    assert default_deformable("onnx") == method
    assert default_deformable("openvino") == "samplings"
    assert default_deformable("aoti") == "operator"


def test_a_fixed_size_with_a_letterbox(untraced):
    """It makes squares of images of any shape."""
    options = ("INPUT.SQUARE", False, "MODEL.YOLOV3.LETTERBOX_TEST", True)
    run = run_asff("export", "--weights", untraced, "--size", 128, *options)
    assert run.code == 0, run.output
    predictor = asff.OnnxPredictor(untraced.with_suffix(".onnx"))
    image = np.full((60, 40, 3), 200, np.uint8)
    inputs = predictor.load(image)[1]["image"]
    assert predictor.model.preprocess([inputs]).shape == (1, 3, 128, 128)
    expected = Predictor(
        None, untraced, opts=[*options, *("INPUT.MIN_SIZE_TEST", 128, "INPUT.MAX_SIZE_TEST", 128)]
    )
    assert not agree([expected(image)], [predictor(image)]).unmatched


@pytest.fixture
def untraced(datasets, tmp_path, monkeypatch) -> Path:
    """A checkpoint; tracing is replaced by the graph itself."""
    weights = write_spread_checkpoint("YOLOv3", tmp_path)

    def write(source: Source, path: Path) -> None:
        torch.save({"graph": source.graph, "metadata": source.metadata}, path)

    def load(path: Path) -> tuple:
        content = torch.load(path, weights_only=False)
        return content["metadata"], torch.no_grad()(content["graph"])

    monkeypatch.setitem(FORMATS, "onnx", (".onnx", write))
    monkeypatch.setitem(RUNTIMES, ".onnx", load)
    return weights


def test_a_wrecked_model_is_refused(untraced, monkeypatch):
    """Of boxes moved by 0.6 pixels; nothing is left."""
    load = RUNTIMES[".onnx"]

    def wreck(path: Path) -> tuple:
        metadata, run = load(path)
        return metadata, lambda images: (run(images)[0] + 0.6, run(images)[1])

    assert run_asff("export", "--weights", untraced).code == 0
    untraced.with_suffix(".onnx").unlink()
    monkeypatch.setitem(RUNTIMES, ".onnx", wreck)
    error = run_asff("export", "--weights", untraced).error
    assert re.search(r"not detect what the detector does: .*, [1-9]\d* do not", error)
    assert not untraced.with_suffix(".onnx").exists()
