"""The tool that fits anchors: which boxes it reads, the config it writes, what it refuses."""

from __future__ import annotations

import importlib.util
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import yaml
from detectron2.config import CfgNode
from detectron2.structures import BoxMode

from asff.engine import Trainer
from asff.engine.setup import load_config
from tests.helpers import detector_cfg
from tests.training import register_datasets, run_script

ROOT = Path(__file__).resolve().parents[2]
TOOL = ROOT / "tools" / "fit_anchors.py"
BCCD = ROOT.parent / "shared" / "data" / "bccd"
MANY = str([[[8, 8]] * 20] * 3)  # more anchors than the tiny dataset has boxes
THREE = "[[[8, 8]], [[16, 16]], [[32, 32]]]"


def load_tool() -> ModuleType:
    # By its path: the packaged Detectron2 brings a top-level module `tools` of its own.
    spec = importlib.util.spec_from_file_location("fit_anchors", TOOL)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


fit_anchors = load_tool()


def run(*args: object) -> str:
    """``python tools/fit_anchors.py ARGS`` in this process: what it prints, or why it does not."""
    done = run_script("tools/fit_anchors.py", *args)
    return done.error if done.code else done.output


def record(height: int, width: int, *boxes: list, **fields: object) -> dict:
    mode = {"bbox_mode": BoxMode.XYWH_ABS, **fields}
    annotations = [{"bbox": box, "category_id": 0, **mode} for box in boxes]
    return {"height": height, "width": width, "annotations": annotations}


def square_cfg(*options: object) -> CfgNode:
    return detector_cfg("INPUT.SQUARE", True, "INPUT.TEST_SIZE", 320, *options)


def test_boxes_are_squashed_like_their_images():
    dicts = [record(480, 640, [10, 20, 64, 48], [0, 0, 640, 480]), record(160, 160, [5, 5, 16, 8])]
    sizes, crowds, flat = fit_anchors.box_sizes(square_cfg(), dicts)
    assert sizes.tolist() == [[32, 32], [320, 320], [32, 16]]
    assert (crowds, flat) == (0, 0)


def test_boxes_keep_their_aspect_ratio_without_square():
    cfg = detector_cfg("INPUT.MIN_SIZE_TEST", 240, "INPUT.MAX_SIZE_TEST", 480)
    # By a half; by a quarter, for the longer side would exceed 480; by two.
    dicts = [
        record(480, 640, [0, 0, 64, 48]),
        record(1920, 480, [0, 0, 64, 48]),
        record(120, 120, [0, 0, 64, 48]),
    ]
    sizes, _, _ = fit_anchors.box_sizes(cfg, dicts)
    assert sizes.tolist() == [[32, 24], [16, 12], [128, 96]]
    cfg.INPUT.MIN_SIZE_TEST = 0
    sizes, _, _ = fit_anchors.box_sizes(cfg, dicts)
    assert sizes.tolist() == [[64, 48]] * 3


def test_boxes_that_are_left_out_are_counted():
    dicts = [
        record(320, 320, [10, 10, 0, 20], [10, 10, 20, -1], [10, 10, float("nan"), 5]),
        record(320, 320, [330, 10, 20, 20], [-30, 10, 20, 20]),  # outside
        record(320, 320, [1, 2, 30, 40], [5, 6, 70, 80], iscrowd=1),
        record(320, 320, [1, 2, 30, 40], iscrowd=0),
        record(320, 320),
        {"height": 320, "width": 320},
    ]
    sizes, crowds, flat = fit_anchors.box_sizes(square_cfg(), dicts)
    assert sizes.tolist() == [[30, 40]]
    assert (crowds, flat) == (2, 5)
    sizes, _, _ = fit_anchors.box_sizes(square_cfg(), dicts[4:])
    assert sizes.shape == (0, 2)


def test_boxes_are_clipped_to_the_image():
    dicts = [record(320, 640, [-10, -20, 30, 60], [620, 300, 100, 100])]
    sizes, _, _ = fit_anchors.box_sizes(square_cfg(), dicts)
    assert sizes.tolist() == [[20 / 2, 40], [20 / 2, 20]]


def test_corners_are_read_too():
    dicts = [
        record(320, 320, [10, 20, 40, 60], bbox_mode=BoxMode.XYXY_ABS),
        record(320, 320, [10, 20, 40, 60]),
    ]
    sizes, _, _ = fit_anchors.box_sizes(square_cfg(), dicts)
    assert sizes.tolist() == [[30, 40], [40, 60]]


def test_written_config_is_the_given_one_with_new_anchors(config, tmp_path):
    out = tmp_path / "fitted.yaml"
    options = ("MODEL.YOLOV3.ANCHORS", THREE, "INPUT.TEST_SIZE", 96, "MODEL.DEVICE", "cpu")
    printed = run("--config-file", config, out, "--seed", 1, *options)
    cfg, given = load_config(str(out)), load_config(str(config), ["INPUT.TEST_SIZE", 96])

    anchors = cfg.MODEL.YOLOV3.ANCHORS
    assert [len(level) for level in anchors] == [1, 1, 1]
    areas = [w * h for ((w, h),) in anchors]
    assert areas == sorted(areas)
    assert all(isinstance(side, int) and side >= 1 for ((w, h),) in anchors for side in (w, h))
    given.MODEL.YOLOV3.ANCHORS = anchors
    assert cfg == given

    # The tiny dataset has squares of 24 to 39 pixels in images of 64 to 96.
    assert all(24 <= side <= 60 for ((w, h),) in anchors for side in (w, h))
    assert f"Anchors at res5: {anchors[2][0][0]} x {anchors[2][0][1]}\n" in printed
    # One and two boxes in turn in 12 images, of which one with two has none; and a flat one.
    assert "shapes_train: 16 boxes; left out: 0 of crowds, 1 without area." in printed
    assert "Warning" not in printed
    model = Trainer.build_model(cfg)
    cell_anchors = model.head.anchor_generator.cell_anchors
    assert [level[0].tolist() for level in cell_anchors] == [x[0] for x in anchors[::-1]]


def test_comment_and_table_say_the_fit(config, datasets, tmp_path):
    """Against IoUs counted here from the JSON."""
    out = tmp_path / "fitted.yaml"
    printed = run("--config-file", config, out, "MODEL.YOLOV3.ANCHORS", THREE)
    lines = [line for line in printed.splitlines() if len(line.split()) > 2]
    rows = {line.rsplit(maxsplit=2)[0]: line.split()[-2:] for line in lines}
    content = json.loads((datasets / "shapes" / "train.json").read_text())
    images = {image["id"]: image for image in content["images"]}
    boxes = []
    for annotation in content["annotations"]:
        image, (_, _, w, h) = images[annotation["image_id"]], annotation["bbox"]
        boxes.append((w * 64 / image["width"], h * 64 / image["height"]))
    boxes = [box for box in boxes if box[0] > 0 and box[1] > 0]

    def best(box: tuple, anchors: list) -> float:
        inters = [(min(box[0], w) * min(box[1], h), w * h) for ((w, h),) in anchors]
        return max(inter / (box[0] * box[1] + area - inter) for inter, area in inters)

    for anchors, column in (
        (yaml.safe_load(THREE), 0),
        (load_config(str(out)).MODEL.YOLOV3.ANCHORS, 1),
    ):
        ious = [best(box, anchors) for box in boxes]
        mean, poor = sum(ious) / len(ious), sum(iou < 0.5 for iou in ious) / len(ious)
        assert rows["mean best IoU"][column] == f"{mean:.3f}"
        assert rows["boxes with best IoU under 0.5"][column] == f"{poor:.1%}"
        assert f"{mean:.3f} {('before', 'after')[column]}" in out.read_text().split("_BASE_")[0]
        shares = [float(rows[f"boxes at res{k}"][column].rstrip("%")) for k in (3, 4, 5)]
        assert sum(shares) == pytest.approx(100, abs=0.2)


def test_anchors_that_fit_as_well_are_not_praised(config, tmp_path):
    first, second = tmp_path / "first.yaml", tmp_path / "second.yaml"
    run("--config-file", config, first, "MODEL.YOLOV3.ANCHORS", THREE)
    printed = run("--config-file", first, second)
    assert f"Warning: the anchors of {first} fit as well or better: keep them." in printed
    assert load_config(str(second)).MODEL.YOLOV3 == load_config(str(first)).MODEL.YOLOV3


def test_both_configs_can_be_moved_together(config, tmp_path):
    (tmp_path / "here" / "fitted").mkdir(parents=True)
    given = shutil.copy(config, tmp_path / "here")
    out = tmp_path / "here" / "fitted" / "out.yaml"
    run("--config-file", given, out, "MODEL.YOLOV3.ANCHORS", THREE)
    cfg = load_config(str(out))
    assert yaml.safe_load(out.read_text())["_BASE_"] == f"../{config.name}"
    shutil.move(tmp_path / "here", tmp_path / "there")
    assert load_config(str(tmp_path / "there" / "fitted" / "out.yaml")) == cfg


def test_base_path():
    base_path = fit_anchors.base_path
    assert base_path(Path("/a/b/c.yaml"), Path("/a/out.yaml")) == "b/c.yaml"
    assert base_path(Path("/a/c.yaml"), Path("/a/b/d/out.yaml")) == "../../c.yaml"
    assert base_path(Path("/a/c.yaml"), Path("/b/out.yaml")) == "/a/c.yaml"


def test_base_path_through_links(tmp_path):
    """``..`` leads to where a link points; a linked config still has its bases beside the link."""
    for folder in ("real/deep", "configs"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "linked").symlink_to(tmp_path / "real" / "deep")
    (tmp_path / "configs" / "c.yaml").symlink_to(tmp_path / "elsewhere.yaml")
    found = fit_anchors.base_path(tmp_path / "configs" / "c.yaml", tmp_path / "linked" / "out.yaml")
    assert found == "../../configs/c.yaml"


def test_words_on_the_command_line_in_any_order(config, tmp_path):
    out = tmp_path / "out.yaml"
    run(out, "INPUT.TEST_SIZE", 96, "--config-file", config, "MODEL.YOLOV3.ANCHORS", THREE)
    assert load_config(str(out)).INPUT.TEST_SIZE == 96


@pytest.fixture
def bccd(datasets: Path) -> Iterator[Path]:
    """The folder of the blood cells, where the builtin names mean them."""
    if not BCCD.is_dir():
        pytest.skip(f"{BCCD} is not here")
    register_datasets(BCCD.parent)
    yield BCCD
    register_datasets(datasets)


def test_blood_cells(bccd, tmp_path):
    out = tmp_path / "out.yaml"
    printed = run("--config-file", ROOT / "configs/bccd/yolov3_mobilenetv2_asff.yaml", out)
    annotations = json.loads((bccd / "train.json").read_text())["annotations"]
    flat = sum(min(annotation["bbox"][2:]) <= 0 for annotation in annotations)
    assert flat == 1
    assert f"bccd_train: {len(annotations) - flat} boxes; " in printed
    assert f"{flat} without area" in printed
    before, after = next(x for x in printed.splitlines() if "mean best IoU" in x).split()[-2:]
    assert float(after) > float(before) + 0.1


@pytest.mark.parametrize(
    "options, message",
    [
        (["OUT", "DATASETS.TRAIN", "()"], "DATASETS.TRAIN is empty: name at least one dataset"),
        (["OUT", "DATASETS.TRAIN", "('shape_train',)"], "the dataset 'shape_train', which is not"),
        (["OUT", "MODEL.META_ARCHITECTURE", "RetinaNet"], "META_ARCHITECTURE is 'RetinaNet', but"),
        (["OUT", "MODEL.YOLOV3.ANCHORS", "[[[1, 2]]]"], "ANCHORS is [[[1, 2]]]: write a list"),
        (["OUT", "INPUT.TEST_SIZE", "100"], "INPUT.TEST_SIZE is 100, which is not a positive"),
        (["OUT", "INPUT.TEST_SIZE"], "Command line: "),
        (["OUT", "--seed", "-1"], "Seed must be between 0 and"),
        (
            ["OUT", "MODEL.YOLOV3.ANCHORS", MANY],
            "different shapes in whole pixels, too few for the 60",
        ),
        (["INPUT.TEST_SIZE", "96"], "OUT.yaml is 'INPUT.TEST_SIZE': name the config to write"),
    ],
    ids=["empty", "unknown", "RetinaNet", "anchors", "size", "odd", "seed", "no OUT", "many"],
)
def test_refusals(config, tmp_path, options, message):
    out = tmp_path / "out.yaml"
    options = [str(out) if option == "OUT" else option for option in options]
    words = run("--config-file", config, *options)
    assert words.startswith("fit_anchors.py: error: ")
    assert message in words
    assert not out.exists()


def test_nothing_is_overwritten(config, tmp_path):
    out = tmp_path / "out.yaml"
    out.write_text("mine")
    words = run("--config-file", config, out)
    assert words.startswith(f"fit_anchors.py: error: {out} exists and is not overwritten: remove")
    assert out.read_text() == "mine"


def test_folder_that_does_not_exist(config, tmp_path):
    words = run("--config-file", config, tmp_path / "new" / "out.yaml")
    assert f"out.yaml cannot be written: {tmp_path / 'new'} is no folder" in words


def test_dataset_without_boxes(config, datasets, tmp_path):
    root = tmp_path / "datasets"
    content = json.loads((datasets / "shapes" / "train.json").read_text())
    content["annotations"] = []
    (root / "shapes").mkdir(parents=True)
    (root / "shapes" / "train.json").write_text(json.dumps(content))
    (root / "shapes" / "images").symlink_to(datasets / "shapes" / "images")
    register_datasets(root)
    try:
        words = run(
            "--config-file",
            config,
            tmp_path / "out.yaml",
            "DATALOADER.FILTER_EMPTY_ANNOTATIONS",
            False,
        )
    finally:
        register_datasets(datasets)
    assert "The boxes of DATASETS.TRAIN have 0 different shapes" in words
