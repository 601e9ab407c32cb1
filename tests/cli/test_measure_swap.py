"""What a swap of the backbone changes: counted by hand, and measured through the command line."""

from __future__ import annotations

import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.modeling import build_model
from detectron2.structures import Boxes, Instances
from torch import nn

from asff.engine.setup import load_config
from tests.cli.test_cli import ROOT, run_tool
from tests.engine.test_detectors import COMMON, DETECTORS, REST

TOOL = runpy.run_path(str(ROOT / "tools" / "measure_swap.py"))


def make_detections(*detections: tuple[list[float], float, int]) -> Instances:
    boxes, scores, classes = zip(*detections)
    result = Instances((100, 100))
    result.pred_boxes = Boxes(torch.tensor(boxes, dtype=torch.float32))
    result.scores = torch.tensor(scores)
    result.pred_classes = torch.tensor(classes)
    return result


def test_found_again_by_class_and_overlap():
    box = [0.0, 0.0, 100.0, 100.0]
    before = make_detections((box, 0.9, 0), (box, 0.8, 1), (box, 0.31, 2), (box, 0.3, 3))
    after = make_detections(
        ([0.0, 0.0, 100.0, 95.0], 0.1, 0),  # an IoU of 0.95, a low score
        ([0.0, 0.0, 100.0, 94.9], 0.9, 1),  # an IoU of 0.949
        (box, 0.9, 3),  # of another class than 2
    )
    # The fourth has too low a score to be asked for.
    assert TOOL["found_again"](before, after).tolist() == [True, False, False]


class Detector(nn.Module):
    """Features of a given value at two levels, and given detections."""

    def __init__(self, values: tuple[float, float], detections: Instances):
        super().__init__()
        self.backbone = nn.Identity()
        self.values, self.detections = values, detections

    def forward(self, batch: list[dict]) -> list[dict]:
        self.backbone({f"p{n}": torch.full((1, 2, 3, 3), x) for n, x in enumerate(self.values)})
        return [{"instances": self.detections}] * len(batch)


def test_change_over_batches():
    box, other = [0.0, 0.0, 10.0, 10.0], [50.0, 50.0, 60.0, 60.0]
    first = Detector((2.0, 5.0), make_detections((box, 0.9, 0), (other, 0.9, 0)))
    second = Detector((2.2, 5.0), make_detections((box, 0.9, 0), (other, 0.9, 1), (box, 0.9, 2)))
    change = TOOL["compare"](first, second, [[{}, {}], [{}]])
    assert (change.kept, change.lost, change.new) == (3, 3, 6)
    assert change.moved == pytest.approx({"p0": 0.1, "p1": 0.0})


def test_as_printed(datasets: Path, tmp_path: Path):
    config, weights = tmp_path / "fpn.yaml", tmp_path / "fpn.pth"
    config.write_text(COMMON + DETECTORS["RetinaNet"] + REST)
    torch.manual_seed(0)
    # All scores are about a half at first, so that there are boxes to compare.
    cfg = load_config(
        str(config), ["MODEL.RETINANET.NUM_CLASSES", 4, "MODEL.RETINANET.PRIOR_PROB", 0.5]
    )
    DetectionCheckpointer(build_model(cfg), str(tmp_path)).save("fpn")
    options = ("--config-file", str(config), "MODEL.WEIGHTS", str(weights))
    printed = run_tool("measure_swap.py", *options, "OUTPUT_DIR", str(tmp_path))
    for builder in ("build_retinanet_resnet_fpn", "build_retinanet_resnet_asff_fpn"):
        assert f"{builder}_backbone: AP " in printed
    # p6 and p7 come from the bottom-up.
    assert "p6 0.0%, p7 0.0%" in printed
    total, kept, share, _ = re.search(
        r"Of (\d+) boxes with a score over 0.3, (\d+) \(([\d.]+)%\).*; (\d+) are new", printed
    ).groups()
    assert int(total) > 0 and float(share) == pytest.approx(100 * int(kept) / int(total), abs=0.05)
    assert not (tmp_path / "inference").exists()  # a training's results would be there


def test_two_datasets_are_refused(datasets: Path, tmp_path: Path):
    config = tmp_path / "fpn.yaml"
    config.write_text(COMMON + DETECTORS["RetinaNet"] + REST)
    weights = tmp_path / "any.pth"
    weights.touch()
    options = ("MODEL.WEIGHTS", str(weights), "DATASETS.TEST", '("shapes_val", "shapes_train")')
    command = [sys.executable, "tools/measure_swap.py", "--config-file", str(config), *options]
    env = {**os.environ, "PYTHONPATH": str(ROOT / "projects" / "ASFF")}
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True)
    assert done.returncode == 1
    assert "error: DATASETS.TEST is ('shapes_val', 'shapes_train'): name one" in done.stderr
