"""Weights of others, converted on the command line and evaluated by train_net.py."""

from __future__ import annotations

import json
import re
import struct
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import yaml
from detectron2.data.datasets.builtin_meta import COCO_CATEGORIES
from torch import Tensor
from torchvision.models import mobilenet_v2

import asff
from asff.checkpoint.authors import VARIANTS, key_map
from asff.config_files import load_config
from asff.engine import Trainer
from asff.engine.setup import resolve_sync_norm
from tests.checkpoint.reference import recorded_shapes, reference_weights
from tests.modeling.yolov3.test_detector import DEFAULTS, slow_inference
from tests.training import CLASSES, one_thread, run_asff, run_here

SIZE = 320
# What float32 may do to a score from the same dense output; 3e-8 at most, rounded.
TOLERANCE = 1e-7
CONFIG = "authors/yolov3_d53_asff.yaml"
TEST_TIME = {**DEFAULTS, "nms_thresh": 0.65}
convert = partial(run_asff, "convert")
THINGS = [category for category in COCO_CATEGORIES if category["isthing"]]


@pytest.fixture(scope="module")
def theirs(reference: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Known weights in a file such as the authors publish."""
    path = tmp_path_factory.mktemp("authors") / "YOLOv3_ASFF.pth"
    torch.save(reference_weights(reference).state_dict("asff"), path)
    return path


@pytest.fixture(scope="module")
def converted(theirs: Path) -> Path:
    path = theirs.with_name("out.pth")
    done = convert(theirs, "--source", "authors", "--output", path)
    assert done.code == 0, done.output
    return path


def blank(shapes: dict[str, list[int]]) -> dict[str, Tensor]:
    """Tensors of these shapes, which take no memory."""
    return {key: torch.zeros(()).expand(shape) for key, shape in shapes.items()}


def blank_authors(reference: Path, variant: str, num_classes: int = 80) -> dict[str, Tensor]:
    """Return all tensors of a network; at each location it has 4 anchors of 5 + 80 values."""
    shapes = recorded_shapes(reference, variant)
    outputs = {4 * 85: 4 * (5 + num_classes)}
    return blank({key: [outputs.get(x, x) for x in shape] for key, shape in shapes.items()})


@pytest.mark.parametrize("variant", VARIANTS)
def test_config_to_use(variant, reference, tmp_path):
    names = {"baseline": "d53_baseline", "asff": "d53_asff", "asff_star": "d53_asff_star"}
    config = f"authors/yolov3_{names.get(variant, variant)}.yaml"
    tensors = blank_authors(reference, variant)
    torch.save(tensors, tmp_path / "a.pth")
    done = convert(tmp_path / "a.pth", "--source", "authors", "--output", tmp_path / "b.pth")
    assert done.code == 0, done.output
    assert f"Wrote all {len(tensors)} tensors to {tmp_path / 'b.pth'}" in done.output
    assert f"Use: --config-file {config}\n" in done.output
    checkpoint = torch.load(tmp_path / "b.pth", weights_only=True)
    (tmp_path / "carried.yaml").write_text(checkpoint["config"])
    carried, ours = (
        yaml.safe_load(load_config(str(path)).dump())  # lists, where one has tuples
        for path in (tmp_path / "carried.yaml", config)
    )
    assert carried == ours
    assert checkpoint["class_names"] == [category["name"] for category in THINGS]
    assert checkpoint["asff_version"]


def test_other_classes_than_those_of_coco(reference, tmp_path):
    """Of whoever trained the authors' code on other data, and whoever trained ours."""
    theirs = blank_authors(reference, "mobilenetv2", num_classes=3)
    assert theirs["level_0_header.conv.weight"].shape == (4 * 8, 1024, 1, 1)
    torch.save(theirs, tmp_path / "a.pth")
    done = convert(tmp_path / "a.pth", "--source", "authors", "--output", tmp_path / "b.pth")
    assert (
        "Use: --config-file authors/yolov3_mobilenetv2.yaml MODEL.YOLOV3.NUM_CLASSES 3"
        in done.output
    )
    checkpoint = torch.load(tmp_path / "b.pth", weights_only=True)
    assert checkpoint["class_names"] == [] and "NUM_CLASSES: 3" in checkpoint["config"]
    done = convert(tmp_path / "b.pth", "--to", "authors", "--output", tmp_path / "c.pth")
    assert done.code == 0, done.output
    back = torch.load(tmp_path / "c.pth", weights_only=True)
    assert {key: x.shape for key, x in back.items()} == {key: x.shape for key, x in theirs.items()}


def test_other_shapes_are_refused(reference, tmp_path):
    """As those of a network of ours with NECK.WIDTH 0.5: their code has none."""
    path, ours, output = (tmp_path / name for name in ("theirs.pth", "ours.pth", "output.pth"))
    tensors, keys = blank_authors(reference, "mobilenetv2"), key_map("mobilenetv2")
    tensors["level_1_header.conv.weight"] = torch.zeros(2, 3)
    torch.save(tensors, path)
    torch.save({keys[key]: tensor for key, tensor in tensors.items()}, ours)
    for way, file in (("--source", path), ("--to", ours)):
        message = convert(file, way, "authors", "--output", output).error
        assert f"{file}: The 450 tensors are not those" in message
        assert "1 of another shape (head.levels.1.predict.weight (2, 3) instead of" in message
    # From a bias too short for any class none follows: each level has another weight and bias.
    torch.save(
        {**blank_authors(reference, "mobilenetv2"), "level_0_header.conv.bias": torch.zeros(3)},
        path,
    )
    assert "6 of another shape" in convert(path, "--source", "authors", "--output", output).error
    assert not output.exists()


@pytest.mark.parametrize(
    ("source", "num_tensors", "use"),
    [
        ("darknet", 438, "--config-file coco/yolov3_d53_original.yaml"),
        ("authors", 312, "any config with DarkNet-53, as its MODEL.WEIGHTS"),
        ("torchvision", 312, "any config with MobileNetV2, as its MODEL.WEIGHTS"),
        ("timm", 312, "any config with DarkNet-53, as its MODEL.WEIGHTS"),
    ],
)
def test_other_sources(source, num_tensors, use, reference, tmp_path):
    path = tmp_path / "input"
    if source == "darknet":
        with path.open("wb") as file:
            file.write(struct.pack("<iiiq", 0, 2, 0, 1))
            file.truncate(248_007_048)  # as yolov3.weights; zeros that take no disk
    elif source == "authors":  # their DarkNet-53
        shapes = recorded_shapes(reference, "asff").items()
        keys = {k: x for k, x in shapes if re.match(r"module_list\.(\d|10)\.", k)}
        torch.save(blank(keys), path)
    elif source == "torchvision":
        torch.save(mobilenet_v2().state_dict(), path)
    else:
        timm = pytest.importorskip("timm", reason="timm is not installed")
        torch.save(timm.create_model("darknet53", pretrained=False).state_dict(), path)
    done = convert(path, "--source", source, "--output", tmp_path / "b.pth")
    assert done.code == 0, done.output
    assert f"Wrote all {num_tensors} tensors" in done.output and f"Use: {use}\n" in done.output
    checkpoint = torch.load(tmp_path / "b.pth", weights_only=True)
    assert len(checkpoint["model"]) == num_tensors
    assert ("config" in checkpoint) == (source == "darknet")


def test_there_and_back_to_the_bit(theirs, converted, tmp_path):
    done = convert(converted, "--to", "authors", "--output", tmp_path / "back.pth")
    assert done.code == 0, done.output
    assert "Wrote all 558 tensors of the authors' 'asff'" in done.output
    first, second = (torch.load(x, weights_only=True) for x in (theirs, tmp_path / "back.pth"))
    assert first.keys() == second.keys()
    assert all(torch.equal(first[key], second[key]) for key in first)


@pytest.fixture
def coco_of_80(bccd: Path, tmp_path: Path) -> Path:
    """A COCO file of ten BCCD images that has COCO's 80 categories."""
    content = json.loads((bccd / "val.json").read_text())
    content["images"] = content["images"][:10]
    ids = {image["id"] for image in content["images"]}
    content["annotations"] = [
        {**x, "category_id": THINGS[x["category_id"]]["id"]}
        for x in content["annotations"]
        if x["image_id"] in ids
    ]
    content["categories"] = [{"id": x["id"], "name": x["name"]} for x in THINGS]
    path = tmp_path / "ten.json"
    path.write_text(json.dumps(content))
    return path


@pytest.mark.slow
def test_converted_weights_are_evaluated(reference, bccd, converted, coco_of_80, tmp_path):
    """The detections in the results are those of forward_dense and a slow loop."""
    entry = {
        "name": "ten",
        "format": "coco",
        "annotations": str(coco_of_80),
        "images": str(bccd / "images"),
    }
    options = ("DATASETS.CUSTOM", f"[{entry}]", "DATASETS.TEST", "('ten',)")
    options += ("MODEL.WEIGHTS", converted, "INPUT.TEST_SIZE", SIZE, "OUTPUT_DIR", tmp_path)
    options += ("DATALOADER.NUM_WORKERS", 0)
    run = run_here("--eval-only", "--config-file", CONFIG, *options)
    assert run.code == 0, run.output
    results = json.loads(
        (tmp_path / "inference" / "ten" / "coco_instances_results.json").read_text()
    )

    cfg = load_config(CONFIG, ["MODEL.DEVICE", "cpu"])
    resolve_sync_norm(cfg, world_size=1)
    # Channels last, as train_net.py's: other kernels, whose sums have another order, move boxes by
    # up to 0.02 pixels and scores by 1e-5.
    model = Trainer.build_model(cfg).eval()
    weights = reference_weights(reference).state_dict("asff")
    keys = key_map("asff")
    model.load_state_dict({keys[key]: value for key, value in weights.items()})
    count = 0
    for image in json.loads(coco_of_80.read_text())["images"]:
        pixels = cv2.imread(str(bccd / "images" / image["file_name"]))[..., ::-1]
        pixels = cv2.resize(np.ascontiguousarray(pixels), (SIZE, SIZE))
        pixels = torch.from_numpy(pixels).permute(2, 0, 1)
        batch = ((pixels - model.pixel_mean) / model.pixel_std)[None]
        with torch.no_grad(), one_thread():
            dense = model.forward_dense(batch.float())[0].double().numpy()
        dense[:, :4] *= np.tile([image["width"], image["height"]], 2) / SIZE
        expected = slow_inference(torch.from_numpy(dense), **TEST_TIME)
        found = [
            (x["category_id"], x["score"], *x["bbox"])
            for x in results
            if x["image_id"] == image["id"]
        ]
        assert len(found) == len(expected)
        count += len(found)
        # Not by rank: of scores that nearly tie either may come first, or be the last of a hundred.
        last = min(score for _, score, *_ in found)
        for score, label, corners, _ in expected:
            x1, x2 = np.clip(corners[::2], 0, image["width"])
            y1, y2 = np.clip(corners[1::2], 0, image["height"])
            category, box = THINGS[label]["id"], [x1, y1, x2 - x1, y2 - y1]
            same = [x for x in found if x[0] == category and abs(x[1] - score) < TOLERANCE]
            close = [x for x in same if x[2:] == pytest.approx(tuple(box), rel=0, abs=2e-4)]
            assert close or score < last + TOLERANCE
    assert count > 500


def test_refusals(tmp_path):
    """The message names the file; nothing is written."""
    some, text, output = tmp_path / "some.pth", tmp_path / "text.pth", tmp_path / "x.pth"
    torch.save({"a": torch.zeros(1)}, some)
    text.write_text("<html>")
    nowhere = tmp_path / "no" / "x.pth"
    authors = ("--source", "authors")
    for file, source, target, message in (
        (tmp_path / "none.pth", authors, output, "none.pth: there is no such file"),
        (text, authors, output, "text.pth is damaged, or not a file of torch's"),
        (some, authors, output, "some.pth: The 1 tensors are those of no known"),
        (some, authors, text, "text.pth exists and is not overwritten"),
        (some, authors, nowhere, "x.pth cannot be written: there is no such folder"),
        (some, authors, tmp_path / "x.pkl", "x.pkl is to hold weights of torch"),
        (some, ("--to", "authors"), output, "some.pth: The 1 tensors are those of no known"),
        (some, ("--source", "darknet"), output, "some.pth does not begin with a header of darknet"),
        (some, ("--source", "torchvision"), output, "some.pth: These are not the weights"),
        (some, ("--source", "timm"), output, "some.pth: These are not the weights"),
    ):
        assert message in convert(file, *source, "--output", target).error
    assert sorted(tmp_path.iterdir()) == [some, text]


def test_output_that_cannot_be_written(reference, tmp_path, monkeypatch):
    torch.save(blank_authors(reference, "mobilenetv2"), tmp_path / "a.pth")

    def save(content: dict, path: Path) -> None:
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", save)
    message = convert(
        tmp_path / "a.pth", "--source", "authors", "--output", tmp_path / "b.pth"
    ).error
    assert "b.pth cannot be written: [Errno 28] No space left" in message
    assert not (tmp_path / "b.pth").exists()


def test_trained_checkpoints_say_what_they_are(config, tmp_path):
    run = run_here("--config-file", config, "SOLVER.MAX_ITER", 1, "OUTPUT_DIR", tmp_path)
    assert run.code == 0, run.output
    checkpoint = torch.load(tmp_path / "model_final.pth", weights_only=True)
    assert checkpoint["class_names"] == list(CLASSES)
    assert checkpoint["asff_version"]
    # Its own config is all that is needed to use it.
    assert asff.Predictor(None, tmp_path / "model_final.pth").class_names == list(CLASSES)
