"""Every shipped config says only what differs, fits its datasets, builds, trains and evaluates."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
import yaml
from detectron2.config import CfgNode, get_cfg
from detectron2.utils.events import EventStorage

from asff.config_files import default_config, flatten, get_config_file, load_config
from asff.data import check_num_classes, follow_classes
from asff.engine import Trainer
from asff.engine.setup import resolve_sync_norm
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
IGNORE = "MODEL.YOLOV3.IGNORE_ADJACENT"
ANCHOR_KEYS = {
    f"MODEL.YOLOV3.{key}" for key in ("GUIDED_ANCHORING", "FEATURE_ADAPTION", "ANCHOR_FREE")
}


def name(path: Path) -> str:
    return str(path.relative_to(CONFIGS))


def load(path: Path, *options: object) -> CfgNode:
    cfg = load_config(str(path), ["MODEL.DEVICE", "cpu", *options])
    resolve_sync_norm(cfg, 1)
    return cfg


def differing_keys(one: CfgNode, other: CfgNode) -> set[str]:
    others = dict(flatten(other))
    return {key for key, value in flatten(one) if value != others[key]}


def repeated_keys(path: Path) -> list[str]:
    """Keys of a leaf that have the same value without it, by its base or by default."""
    content = yaml.safe_load(path.read_text())
    below = default_config()
    bases = content.pop("_BASE_", [])
    for base in [bases] if isinstance(bases, str) else bases:
        below.merge_from_file(str(path.parent / base))
    before, after = dict(flatten(below)), dict(flatten(load_config(str(path))))
    stated = flatten(CfgNode(content))
    return [key for key, value in stated if value is not None and before[key] == after[key]]


# Rows of the paper's Tables 1 to 5: their base, and all the keys in which they differ from it.
ROWS = {
    "yolov3_d53_bof": ("yolov3_d53_baseline", {*ANCHOR_KEYS, "MODEL.YOLOV3.IOU_LOSS"}),
    "yolov3_d53_bof_ga": ("yolov3_d53_baseline", {"MODEL.YOLOV3.IOU_LOSS"}),
    "yolov3_d53_bof_iou": ("yolov3_d53_baseline", ANCHOR_KEYS),
    "yolov3_d53_ignore_center": ("yolov3_d53_baseline", {IGNORE}),
    "yolov3_d53_ignore_0.2": ("yolov3_d53_baseline", {IGNORE}),
    "yolov3_d53_ignore_0.5": ("yolov3_d53_baseline", {IGNORE, f"{IGNORE}_SCALE"}),
    "yolov3_d53_sum": ("yolov3_d53_asff", {"MODEL.YOLOV3.FUSION.NAME"}),
    "yolov3_d53_concat": ("yolov3_d53_asff", {"MODEL.YOLOV3.FUSION.NAME"}),
    "retinanet_R_50_ASFF_FPN_1x": ("retinanet_R_50_FPN_1x", {"MODEL.BACKBONE.NAME"}),
    "retinanet_R_101_ASFF_FPN_1x": ("retinanet_R_101_FPN_1x", {"MODEL.BACKBONE.NAME"}),
}


@pytest.mark.parametrize("row", ROWS)
def test_rows_of_a_table_differ_by_what_they_compare(row):
    base, keys = ROWS[row]
    one, other = (load(CONFIGS / "coco" / f"{name}.yaml") for name in (row, base))
    assert differing_keys(one, other) == {*keys, "OUTPUT_DIR"}


def test_names_of_rows_tell_their_values():
    for name in ("0.2", "0.5"):
        cfg = load(CONFIGS / f"coco/yolov3_d53_ignore_{name}.yaml")
        assert cfg.MODEL.YOLOV3.IGNORE_ADJACENT == "box"
        assert cfg.MODEL.YOLOV3.IGNORE_ADJACENT_SCALE == float(name)
    center = load(CONFIGS / "coco/yolov3_d53_ignore_center.yaml")
    assert center.MODEL.YOLOV3.IGNORE_ADJACENT == "center"
    for name in ("sum", "concat"):
        assert load(CONFIGS / f"coco/yolov3_d53_{name}.yaml").MODEL.YOLOV3.FUSION.NAME == name
    assert load(CONFIGS / "coco/yolov3_d53_asff_star_800.yaml").INPUT.TEST_SIZE == 800
    for name in ("R_50_FPN", "R_50_ASFF_FPN", "R_101_FPN", "R_101_ASFF_FPN"):
        cfg = load(CONFIGS / f"coco/retinanet_{name}_1x.yaml")
        assert f"R_{cfg.MODEL.RESNETS.DEPTH}_" in name and cfg.MODEL.WEIGHTS.endswith(
            f"R-{cfg.MODEL.RESNETS.DEPTH}.pkl"
        )
        assert ("asff" in cfg.MODEL.BACKBONE.NAME) is ("ASFF" in name)
        assert cfg.INPUT.MIN_SIZE_TEST == 800 and not cfg.INPUT.SQUARE


def test_retinanet_has_three_anchor_sizes_per_octave():
    sizes = load(CONFIGS / "coco/retinanet_R_50_FPN_1x.yaml").MODEL.ANCHOR_GENERATOR.SIZES
    expected = [[2 ** (level + 2 + third / 3) for third in range(3)] for level in range(3, 8)]
    assert sizes == [pytest.approx(level, rel=1e-6) for level in expected]


def test_results_link_every_row_of_the_paper():
    text = (ROOT / "docs" / "results.md").read_text()
    rows = [path.name for path in LEAVES if re.match("yolov3_d53|retinanet", path.name)]
    linked = set(re.findall(r"\]\(\.\./configs/coco/([^)]+)\)", text))
    assert {row for row in rows if (CONFIGS / "coco" / row).is_file()} <= linked


@pytest.mark.parametrize("path", LEAVES, ids=name)
def test_says_only_what_differs(path):
    assert len(path.read_text().splitlines()) <= 40
    assert repeated_keys(path) == []


@pytest.mark.parametrize("path", LEAVES, ids=name)
def test_fits_its_datasets(path):
    cfg = load(path)
    datasets = [*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST]
    assert cfg.DATASETS.TRAIN and cfg.DATASETS.TEST
    follow_classes(cfg, datasets)
    check_num_classes(cfg, datasets)


def test_authors_configs_follow_ours():
    """Those of the same name differ in the keys of the base configs of configs/authors alone."""
    for path in (CONFIGS / "authors").glob("yolov3*.yaml"):
        ours = CONFIGS / "coco" / path.name
        if ours.is_file():
            keys = differing_keys(load(path), load(ours))
            expected = {"NMS_THRESH_TEST", "MAX_SMOOTHING", "MAX_GRAD_NORM", "EVAL_PERIOD"}
            expected |= {"ANCHORS", "SCORE_THRESH_TEST", "MAX_ITER", "OUTPUT_DIR"}
            assert {key.rpartition(".")[2] for key in keys} <= expected


@pytest.mark.parametrize(
    ("file", "folder"),
    [
        ("configs/coco/a_0.2.yaml", "output/coco/a_0.2"),
        ("configs/quick.yaml", "output/quick"),
        ("configs/old/configs/x/y/a.yaml", "output/x/y/a"),
        ("mine/a.yaml", "output/a"),
        ("a.yaml", "output/a"),
    ],
)
def test_output_folder_follows_from_the_path(file, folder, tmp_path, monkeypatch):
    path = tmp_path / file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("SEED: 3\nVERSION: 2\n")
    monkeypatch.chdir(tmp_path)
    for name in (str(path), file):
        assert load_config(name).OUTPUT_DIR == folder
    assert load_config(file, ["OUTPUT_DIR", "here"]).OUTPUT_DIR == "here"
    path.write_text("OUTPUT_DIR: there\nVERSION: 2\n")
    assert load_config(file).OUTPUT_DIR == "there"
    assert load_config("").OUTPUT_DIR == get_cfg().OUTPUT_DIR


def test_configs_of_the_package(tmp_path, monkeypatch):
    """They are found by name, but a local file of the same path is taken first."""
    monkeypatch.chdir(tmp_path)
    name = "bccd/yolov3_mobilenetv2_asff.yaml"
    shipped = Path(get_config_file(name))
    assert shipped.read_text() == (CONFIGS / name).read_text()
    assert load_config(name).dump() == load_config(str(CONFIGS / name)).dump()
    (tmp_path / "bccd").mkdir()
    (tmp_path / name).write_text("SEED: 7\nVERSION: 2\n")
    assert load_config(name).SEED == 7
    with pytest.raises(ValueError, match="mobilenet_asff.yaml.*coco/yolov3_mobilenetv2_asff"):
        get_config_file("coco/yolov3_mobilenet_asff.yaml")


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
    gt_instances = make_instances([[4, 4, 40, 40], [30, 20, 60, 50]], [0, 1], image_size=(64, 64))
    batch = [{"image": image, "instances": gt_instances, "file_name": "a.png"}] * 2
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
