"""`asff measure-swap` as printed, and what it refuses."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.modeling import build_model

from asff.config_files import load_config
from tests.engine.test_detectors import COMMON, DETECTORS, REST
from tests.training import run_asff


@pytest.fixture
def options(datasets: Path, tmp_path: Path) -> tuple:
    """The config and weights of a RetinaNet that detects: its scores are about a half."""
    config = tmp_path / "fpn.yaml"
    config.write_text(COMMON + DETECTORS["RetinaNet"] + REST)
    keys = ["MODEL.RETINANET.NUM_CLASSES", 4, "MODEL.RETINANET.PRIOR_PROB", 0.5]
    torch.manual_seed(0)
    model = build_model(load_config(str(config), keys))
    DetectionCheckpointer(model, str(tmp_path)).save("fpn")
    return "--config-file", config, "--weights", tmp_path / "fpn.pth"


def test_as_printed(options: tuple, tmp_path: Path):
    done = run_asff("measure-swap", *options, "OUTPUT_DIR", tmp_path)
    assert done.code == 0, done.output
    for builder in ("build_retinanet_resnet_fpn", "build_retinanet_resnet_asff_fpn"):
        assert f"{builder}_backbone: AP " in done.output
    # p6 and p7 come from the bottom-up.
    assert "p6 0.0%, p7 0.0%" in done.output
    total, kept, share, _ = re.search(
        r"Of (\d+) boxes with a score over 0.3, (\d+) \(([\d.]+)%\).*; (\d+) are new", done.output
    ).groups()
    assert int(total) > 0 and float(share) == pytest.approx(100 * int(kept) / int(total), abs=0.05)
    assert not (tmp_path / "inference").exists()  # a training's results would be there


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (("DATASETS.TEST", '("shapes_val", "shapes_train")'), "DATASETS.TEST is ('shapes_val', "),
        (("--backbone", "build_nothing"), "--backbone"),
    ],
)
def test_refusals(options: tuple, extra: tuple, message: str):
    assert message in run_asff("measure-swap", *options, *extra).error
