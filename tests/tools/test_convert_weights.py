"""Weights of others, converted on the command line and evaluated by train_net.py."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from detectron2.data.datasets.builtin_meta import COCO_CATEGORIES
from detectron2.modeling import build_model

from asff.checkpoint import Checkpointer
from asff.checkpoint.authors import key_map
from asff.engine.setup import load_config, resolve_sync_norm
from tests.checkpoint.reference import BCCD, needs_reference, reference_weights
from tests.training import ROOT, one_thread, run_here

SIZE = 320
CONFIG = ROOT / "configs" / "authors" / "yolov3_d53_asff.yaml"
NORMS = ("MODEL.YOLOV3.NORM", "BN", "MODEL.DARKNET.NORM", "BN")
THINGS = [category for category in COCO_CATEGORIES if category["isthing"]]


def convert(*args: object) -> subprocess.CompletedProcess:
    command = [sys.executable, str(ROOT / "tools" / "convert_weights.py"), *map(str, args)]
    env = {"PYTHONPATH": str(ROOT / "projects" / "ASFF"), "PATH": "/usr/bin:/bin", "HOME": "/"}
    return subprocess.run(command, env=env, capture_output=True, text=True)


@pytest.fixture(scope="module")
def theirs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Known weights in a file such as the authors publish."""
    path = tmp_path_factory.mktemp("authors") / "YOLOv3_ASFF.pth"
    torch.save(reference_weights().state_dict("asff"), path)
    return path


@pytest.fixture(scope="module")
def converted(theirs: Path) -> Path:
    path = theirs.with_name("out.pth")
    done = convert("--source", "asff", theirs, path)
    assert done.returncode == 0, done.stderr
    assert "Wrote 558 tensors" in done.stdout and "all have their place" in done.stdout
    assert "Use: configs/authors/yolov3_d53_asff.yaml" in done.stdout
    return path


@needs_reference
def test_there_and_back_to_the_bit(theirs, converted, tmp_path):
    done = convert("--to", "asff", converted, tmp_path / "back.pth")
    assert done.returncode == 0, done.stderr
    assert "Wrote 558 tensors of the authors' 'asff'" in done.stdout
    first, second = (torch.load(x, weights_only=True) for x in (theirs, tmp_path / "back.pth"))
    assert first.keys() == second.keys()
    assert all(torch.equal(first[key], second[key]) for key in first)


@needs_reference
def test_checkpoint_says_what_it_is(converted):
    checkpoint = torch.load(converted, weights_only=True)
    assert "WIDEN_FINEST: true" in checkpoint["config"]
    assert checkpoint["class_names"] == [category["name"] for category in THINGS]
    assert checkpoint["asff_version"]


@pytest.fixture
def coco_of_80(tmp_path: Path) -> Path:
    """A COCO file of ten BCCD images that has COCO's 80 categories."""
    content = json.loads((BCCD / "val.json").read_text())
    images = content["images"][:10]
    ids = {image["id"] for image in images}
    annotations = [
        {**x, "category_id": THINGS[x["category_id"]]["id"]}
        for x in content["annotations"]
        if x["image_id"] in ids
    ]
    categories = [{"id": x["id"], "name": x["name"]} for x in THINGS]
    path = tmp_path / "ten.json"
    path.write_text(
        json.dumps({"images": images, "annotations": annotations, "categories": categories})
    )
    return path


def detect_slowly(dense: np.ndarray, width: int, height: int) -> list[tuple]:
    """Category id, score and x, y, w, h of the detections of an image, best first.

    Args:
        dense: rows of cx, cy, w, h at 320 pixels, objectness and 80 probabilities.
    """
    found = []
    for row in dense:
        best = int(row[5:].argmax())
        score = row[4] * row[5 + best]
        if score > 0.01:
            x, y, w, h = row[:4] / SIZE * (width, height, width, height)
            found.append((score, best, x - w / 2, y - h / 2, x + w / 2, y + h / 2))
    found.sort(key=lambda x: -x[0])
    kept: list[tuple] = []
    for candidate in found[:1000]:
        for other in kept:
            if other[1] == candidate[1] and iou(other[2:], candidate[2:]) > 0.65:
                break
        else:
            kept.append(candidate)
    detections = []
    for score, best, *box in kept[:100]:
        x1, x2 = np.clip(box[::2], 0, width)
        y1, y2 = np.clip(box[1::2], 0, height)
        detections.append((THINGS[best]["id"], score, x1, y1, x2 - x1, y2 - y1))
    return detections


def iou(a: tuple, b: tuple) -> float:
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    areas = [(x[2] - x[0]) * (x[3] - x[1]) for x in (a, b)]
    return width * height / (sum(areas) - width * height)


@needs_reference
@pytest.mark.slow
def test_converted_weights_are_evaluated(converted, coco_of_80, tmp_path):
    """The detections in the results are those of forward_dense and a slow loop."""
    entry = {
        "name": "ten",
        "format": "coco",
        "annotations": str(coco_of_80),
        "images": str(BCCD / "images"),
    }
    options = ("DATASETS.CUSTOM", f"[{entry}]", "DATASETS.TEST", "('ten',)")
    options += ("MODEL.WEIGHTS", converted, "INPUT.TEST_SIZE", SIZE, "OUTPUT_DIR", tmp_path)
    options += ("DATALOADER.NUM_WORKERS", 0)
    run = run_here("--eval-only", "--config-file", CONFIG, *options)
    assert run.code == 0, run.output
    results = json.loads(
        (tmp_path / "inference" / "ten" / "coco_instances_results.json").read_text()
    )

    cfg = load_config(str(CONFIG), ["MODEL.DEVICE", "cpu"])
    resolve_sync_norm(cfg, world_size=1)
    model = build_model(cfg).eval()
    weights = reference_weights().state_dict("asff")
    keys = key_map("asff")
    model.load_state_dict({keys[key]: value for key, value in weights.items()})
    count = 0
    for image in json.loads(coco_of_80.read_text())["images"]:
        pixels = cv2.imread(str(BCCD / "images" / image["file_name"]))[..., ::-1]
        pixels = cv2.resize(np.ascontiguousarray(pixels), (SIZE, SIZE))
        pixels = torch.from_numpy(pixels).permute(2, 0, 1)
        batch = ((pixels - model.pixel_mean) / model.pixel_std)[None]
        with torch.no_grad(), one_thread():
            dense = model.forward_dense(batch.float())[0].double().numpy()
        expected = detect_slowly(dense, image["width"], image["height"])
        found = [
            (x["category_id"], x["score"], *x["bbox"])
            for x in results
            if x["image_id"] == image["id"]
        ]
        assert len(found) == len(expected)
        count += len(found)
        # Not by rank: of scores that nearly tie either may come first, or be the last of a hundred.
        last = min(score for _, score, *_ in found)
        for category, score, *box in expected:
            same = [x for x in found if x[0] == category and abs(x[1] - score) < 1e-4]
            close = [x for x in same if x[2:] == pytest.approx(tuple(box), rel=1e-3, abs=0.05)]
            assert close or score < last + 1e-4
    assert count > 500


@needs_reference
def test_refusals(theirs, converted, tmp_path):
    for args, message in (
        (("--source", "asff", tmp_path / "none.pth", tmp_path / "x.pth"), "there is no such file"),
        (("--source", "asff", theirs, converted), "exists and is not overwritten"),
        (("--source", "asff", theirs, tmp_path / "no" / "x.pth"), "there is no such folder"),
        (("--source", "asff", converted, tmp_path / "x.pth"), "are those of no known network"),
        (("--to", "asff", theirs, tmp_path / "x.pth"), "are those of no known network"),
        (("--source", "darknet", theirs, tmp_path / "x.pth"), "YOLOv3_ASFF.pth"),
    ):
        done = convert(*args)
        assert done.returncode == 1
        assert done.stderr.count("convert_weights.py: error: ") == 1 and message in done.stderr
        assert "Traceback" not in done.stderr
    assert not (tmp_path / "x.pth").exists()


def test_trained_checkpoints_say_what_they_are(config, tmp_path):
    run = run_here("--config-file", config, "SOLVER.MAX_ITER", 1, "OUTPUT_DIR", tmp_path)
    assert run.code == 0, run.output
    checkpoint = torch.load(tmp_path / "model_final.pth", weights_only=True)
    assert checkpoint["class_names"] == ["circle", "triangle", "hourglass", "cross"]
    assert "BASE_LR: 0.01" in checkpoint["config"] and checkpoint["asff_version"]
    # It is evaluated as before.
    model = build_model(load_config(str(config), ["MODEL.YOLOV3.NUM_CLASSES", 4, *NORMS]))
    Checkpointer(model).load(str(tmp_path / "model_final.pth"))
