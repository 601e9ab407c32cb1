"""Every shipped config says only what differs, fits its datasets, builds, trains and evaluates."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from detectron2.config import CfgNode
from detectron2.utils.events import EventStorage

from asff.data import check_num_classes, follow_classes
from asff.engine import Trainer
from asff.engine.setup import load_config, resolve_sync_norm
from asff.engine.train_step import TrainStep
from tests.helpers import make_instances
from tests.training import ROOT

CONFIGS = ROOT / "configs"
FILES = sorted(CONFIGS.rglob("*.yaml"))
LEAVES = [path for path in FILES if not path.name.startswith("Base-")]

# What makes a detector of ours small; MobileNetV2 is small as it is.
NARROW = (
    *("MODEL.DARKNET.WIDTH", 0.125, "MODEL.YOLOV3.NECK.WIDTH", 0.0625),
    *("INPUT.TRAIN_SIZES", [64], "INPUT.TEST_SIZE", 64),
)


def name(path: Path) -> str:
    return str(path.relative_to(CONFIGS))


def load(path: Path, *options: object) -> CfgNode:
    cfg = load_config(str(path), ["MODEL.DEVICE", "cpu", *options])
    resolve_sync_norm(cfg, 1)
    return cfg


def flatten(node: dict, prefix: str = "") -> dict[str, Any]:
    """Full key names and values of what a YAML file says itself."""
    flat = {}
    for key, value in node.items():
        if isinstance(value, dict):
            flat.update(flatten(value, f"{prefix}{key}."))
        else:
            flat[prefix + key] = value
    return flat


def get(cfg: CfgNode, key: str) -> Any:
    for part in key.split("."):
        cfg = cfg[part]
    return cfg


def repeated_keys(path: Path) -> list[str]:
    """Keys of a leaf that have the same value without it, by its base or by default."""
    content = yaml.safe_load(path.read_text())
    base = content.pop("_BASE_", None)
    below, cfg = (
        load_config(str(path.parent / base) if base else "", []),
        load_config(str(path), []),
    )
    return [key for key in flatten(content) if get(below, key) == get(cfg, key)]


def test_there_are_configs():
    names = set(map(name, FILES))
    assert {"Base-YOLOv3.yaml", "quickstart.yaml", "bccd/yolov3_mobilenetv2_asff.yaml"} <= names
    coco = {
        f"coco/yolov3_{b}_{f}.yaml" for b in ("d53", "mobilenetv2") for f in ("baseline", "asff")
    }
    assert coco <= names


@pytest.mark.parametrize("path", FILES, ids=name)
def test_is_plain_yaml(path):
    assert "!!python" not in path.read_text()
    assert isinstance(yaml.safe_load(path.read_text()), dict)


@pytest.mark.parametrize("path", LEAVES, ids=name)
def test_says_only_what_differs(path):
    assert len(path.read_text().splitlines()) <= 40
    assert repeated_keys(path) == []


def test_repeated_keys_are_noticed(tmp_path):
    base, leaf = tmp_path / "Base-a.yaml", tmp_path / "leaf.yaml"
    base.write_text("VERSION: 2\nSOLVER:\n  BASE_LR: 0.5\nDATASETS:\n  TRAIN: ('a',)\n")
    leaf.write_text(
        "_BASE_: Base-a.yaml\nSOLVER:\n  BASE_LR: 0.5\n  MOMENTUM: 0.9\n  MAX_ITER: 7\n"
        "DATASETS:\n  TRAIN: ('a',)\n  TEST: ('a',)\n"
    )
    # MOMENTUM by Detectron2's default.
    assert repeated_keys(leaf) == ["SOLVER.BASE_LR", "SOLVER.MOMENTUM", "DATASETS.TRAIN"]


@pytest.mark.parametrize("path", LEAVES, ids=name)
def test_fits_its_datasets(path):
    cfg = load(path)
    datasets = [*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST]
    assert cfg.DATASETS.TRAIN and cfg.DATASETS.TEST
    follow_classes(cfg, datasets)
    check_num_classes(cfg, datasets)


@pytest.mark.parametrize("path", LEAVES, ids=name)
def test_writes_to_a_folder_of_its_own(path):
    others = {load(other).OUTPUT_DIR for other in LEAVES if other != path}
    assert load(path).OUTPUT_DIR not in {*others, "./output"}


@pytest.mark.parametrize("path", LEAVES, ids=name)
def test_builds_as_it_is(path):
    """Without memory for its weights, so that large ones take no time."""
    cfg = load(path, "MODEL.DEVICE", "meta")
    with torch.device("meta"):
        model = Trainer.build_model(cfg)
    assert sum(p.numel() for p in model.parameters()) > 100_000


@pytest.mark.parametrize("path", LEAVES, ids=name)
def test_trains_and_evaluates(path, one_thread):
    """One step and one image, narrowed down where it is ours."""
    torch.manual_seed(0)
    cfg = load(path)
    if cfg.MODEL.META_ARCHITECTURE == "YOLOv3":
        cfg.merge_from_list(list(NARROW))
    model = Trainer.build_model(cfg)
    image = torch.randint(256, (3, 64, 64), dtype=torch.uint8)
    truths = make_instances([[4, 4, 40, 40], [30, 20, 60, 50]], [0, 1], image_size=(64, 64))
    batch = [{"image": image, "instances": truths, "file_name": "a.png"}] * 2
    step = TrainStep(
        model,
        [batch],
        Trainer.build_optimizer(cfg, model),
        max_grad_norm=cfg.SOLVER.MAX_GRAD_NORM,
    )
    before = [p.detach().clone() for p in model.parameters() if p.requires_grad]
    step.iter = 0
    with EventStorage():
        step.run_step()
    after = [p for p in model.parameters() if p.requires_grad]
    assert sum(not torch.equal(a, b) for a, b in zip(before, after)) > len(before) / 2

    model.eval()
    with torch.no_grad():
        (result,) = model([{"image": image, "height": 128, "width": 96}])
    detections = result["instances"]
    assert detections.image_size == (128, 96)
    assert detections.pred_boxes.tensor.isfinite().all()
    assert len(detections) == len(detections.scores) <= cfg.TEST.DETECTIONS_PER_IMAGE
