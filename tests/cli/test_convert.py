"""Weights of others, converted on the command line and evaluated by train_net.py."""

from __future__ import annotations

import json
import re
import struct
from functools import partial
from pathlib import Path

import pytest
import torch
import yaml
from detectron2.data.datasets.builtin_meta import COCO_CATEGORIES
from detectron2.evaluation.coco_evaluation import instances_to_coco_json
from torch import Tensor
from torchvision.models import mobilenet_v2

import asff
from asff.checkpoint.authors import VARIANTS, key_map
from asff.config_files import load_config
from tests.checkpoint.reference import recorded_shapes, reference_weights
from tests.training import one_thread, run_asff, run_here

CONFIG = "authors/yolov3_d53_asff.yaml"
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
def test_converted_weights_are_evaluated(bccd, converted, coco_of_80, tmp_path):
    """The detections in the results are the predictor's, with COCO's ids of their classes."""
    dataset = {"name": "ten", "format": "coco", "images": str(bccd / "images")}
    options = ("DATASETS.CUSTOM", f"[{ {**dataset, 'annotations': str(coco_of_80)} }]")
    options += ("DATASETS.TEST", "('ten',)", "MODEL.WEIGHTS", converted, "INPUT.TEST_SIZE", 320)
    options += ("OUTPUT_DIR", tmp_path, "DATALOADER.NUM_WORKERS", 0)
    run = run_here("--eval-only", "--config-file", CONFIG, *options)
    assert run.code == 0, run.output
    results = tmp_path / "inference" / "ten" / "coco_instances_results.json"
    predictor = asff.Predictor(None, converted, opts=["INPUT.TEST_SIZE", 320], batch_size=1)
    expected = []
    for image in json.loads(coco_of_80.read_text())["images"]:
        with one_thread():
            found = predictor(bccd / "images" / image["file_name"])
        for x in instances_to_coco_json(found, image["id"]):
            expected.append({**x, "category_id": THINGS[x["category_id"]]["id"]})
    assert json.loads(results.read_text()) == expected
    assert len(expected) > 500


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
