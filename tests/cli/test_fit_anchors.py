"""`asff fit-anchors`: the config it writes, what it prints and refuses."""

from __future__ import annotations

import json

import pytest
import yaml

from asff.config_files import load_config
from tests.training import run_asff

MANY = str([[[8, 8]] * 20] * 3)  # more anchors than the tiny dataset has boxes
THREE = "[[[8, 8]], [[16, 16]], [[32, 32]]]"


def fit(config: object, output: object, *args: object) -> str:
    """Run the verb, and return what it prints, or its error."""
    done = run_asff("fit-anchors", "--config-file", config, "--output", output, *args)
    return done.error if done.code else done.output


def test_written_config_is_the_given_one_with_new_anchors(config, tmp_path):
    out = tmp_path / "fitted.yaml"
    options = ("MODEL.YOLOV3.ANCHORS", THREE, "INPUT.TEST_SIZE", 96, "MODEL.DEVICE", "cpu")
    printed = fit(config, out, "--seed", 1, *options)
    cfg, given = load_config(str(out)), load_config(str(config), ["INPUT.TEST_SIZE", 96])

    anchors = cfg.MODEL.YOLOV3.ANCHORS
    assert [len(level) for level in anchors] == [1, 1, 1]
    areas = [w * h for ((w, h),) in anchors]
    assert areas == sorted(areas)
    assert all(isinstance(side, int) and side >= 1 for ((w, h),) in anchors for side in (w, h))
    given.MODEL.YOLOV3.ANCHORS, given.OUTPUT_DIR = anchors, cfg.OUTPUT_DIR
    assert cfg == given

    # The tiny dataset has squares of 24 to 39 pixels in images of 64 to 96.
    assert all(24 <= side <= 60 for ((w, h),) in anchors for side in (w, h))
    assert f"Anchors at res5: {anchors[2][0][0]} x {anchors[2][0][1]}\n" in printed
    # One and two boxes in turn in 12 images, of which one with two has none; and a degenerate one.
    assert "shapes_train: 16 boxes; left out: 0 crowds, 1 degenerate boxes." in printed
    assert "Warning" not in printed


def test_comment_and_table_say_the_fit(config, datasets, tmp_path):
    """Against IoUs counted here from the JSON."""
    out = tmp_path / "fitted.yaml"
    printed = fit(config, out, "MODEL.YOLOV3.ANCHORS", THREE)
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
    fit(config, first, "MODEL.YOLOV3.ANCHORS", THREE)
    printed = fit(first, second)
    assert f"Warning: the anchors of {first} fit as well or better: keep them." in printed
    assert load_config(str(second)).MODEL.YOLOV3 == load_config(str(first)).MODEL.YOLOV3


@pytest.mark.parametrize(
    ("output", "options", "message"),
    [
        ("out.yaml", ["DATASETS.TRAIN", "()"], "DATASETS.TRAIN is empty: name at least one"),
        ("out.yaml", ["DATASETS.TRAIN", "('shape_train',)"], "'shape_train'"),
        ("out.yaml", ["MODEL.META_ARCHITECTURE", "RetinaNet"], "META_ARCHITECTURE is 'RetinaNet'"),
        ("out.yaml", ["MODEL.YOLOV3.ANCHORS", "[[[1, 2]]]"], "ANCHORS is [[[1, 2]]]: write a list"),
        ("out.yaml", ["INPUT.TEST_SIZE", "100"], "INPUT.TEST_SIZE is 100"),
        ("out.yaml", ["INPUT.TEST_SIZE"], "Command line: "),
        ("out.yaml", ["--seed", "-1"], "Seed must be between 0 and"),
        ("out.yaml", ["MODEL.YOLOV3.ANCHORS", MANY], "too few for the 60"),
        ("out.txt", [], "name the config to write, with its suffix .yaml"),
        ("new/out.yaml", [], "new is no folder one can write to"),
        ("mine.yaml", [], "mine.yaml exists and is not overwritten: remove it"),
    ],
)
def test_refusals(config, tmp_path, output, options, message):
    (tmp_path / "mine.yaml").write_text("mine")
    error = fit(config, tmp_path / output, *options)
    assert error.startswith("asff fit-anchors: error: ") and message in error
    assert [x.read_text() for x in tmp_path.iterdir()] == ["mine"]
