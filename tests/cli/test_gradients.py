"""`asff gradients` on a tiny detector and dataset."""

from __future__ import annotations

import json
import shutil
from functools import partial
from pathlib import Path

import pytest
import torch
from detectron2.modeling import build_model
from torch import nn

from asff.checkpoint import Checkpointer
from asff.config_files import load_config
from asff.engine.setup import resolve_sync_norm
from tests.training import run_asff

pytestmark = pytest.mark.usefixtures("one_thread", "clean_loggers")
run = partial(run_asff, "gradients")


@pytest.fixture
def even_weights(config: Path, tmp_path: Path) -> Path:
    """Save a checkpoint of the tiny detector that fuses all levels with equal weights."""
    cfg = load_config(str(config))
    resolve_sync_norm(cfg, world_size=1)
    model = build_model(cfg)
    for fuse in model.backbone.fusion.fuse:
        nn.init.zeros_(fuse.logits.weight)
    Checkpointer(model, str(tmp_path)).save("even")
    return tmp_path / "even.pth"


def test_before_and_after(config, even_weights, tmp_path):
    folder = tmp_path / "new" / "out"
    options = ("--config-files", config, "--weights", even_weights, "--output", folder)
    options += ("--batches", 1)
    printed = run(*options).output
    table = (folder / "gradients.md").read_text()
    assert table in printed and table.count("\n") == 2 + 2 * 3
    assert (folder / "gradients.png").stat().st_size < 150_000
    content = json.loads((folder / "gradients.json").read_text())
    assert (content["batches"], content["seed"]) == (1, 0)
    before, after = content["measurements"]
    assert (before["stage"], before["weights"]) == ("before", "")
    assert (after["stage"], after["weights"]) == ("after", str(even_weights))
    assert any(level["positives"] for level in after["levels"])
    for first, second in zip(before["levels"], after["levels"]):
        if second["positives"]:
            assert second["weights"] == pytest.approx([1 / 3] * 3)
            assert second["through_weights"] <= 1e-6 * second["others"]
            assert first["through_weights"] > 1e-3 * first["others"]
    # A second run finds the same.
    run(*options)
    assert json.loads((folder / "gradients.json").read_text()) == content


def test_fusions_see_the_same_batches(config, tmp_path):
    sums = tmp_path / "sum.yaml"
    sums.write_text(f"_BASE_: {config}\nMODEL: {{YOLOV3: {{FUSION: {{NAME: sum}}}}}}\n")
    # Without the anchor-free anchor, the predictions have no influence on the matching.
    options = ("--batches", 1, "--seed", 3, "MODEL.YOLOV3.ANCHOR_FREE", False)
    run("--config-files", config, sums, "--output", tmp_path, *options)
    content = json.loads((tmp_path / "gradients.json").read_text())
    found = {x["label"]: x["levels"] for x in content["measurements"]}
    assert list(found) == ["tiny", "sum"]
    for asff, other in zip(*found.values()):
        assert asff["positives"] == other["positives"] and other["weights"] is None


@pytest.mark.parametrize(
    "options, message",
    [
        (("a/x.yaml", "b/x.yaml"), "--config-files need different names"),
        (("a", "b", "--weights", "w"), "1 checkpoints for 2 configs"),
        (("none.yaml",), "--config-file none.yaml: there is no such file."),
        (("tiny.yaml", "--batches", "0"), "at least 1"),
        (("tiny.yaml", "--weights", "none.pth"), "MODEL.WEIGHTS is 'none.pth'"),
        (("tiny.yaml", "--weights", "tiny.yaml"), "cannot be read"),
        (("tiny.yaml", "--weights", "other.pth"), "None of the 1 tensors in MODEL"),
        (("tiny.yaml", "--output", "other.pth"), "--output other.pth: File exists."),
        (("tiny.yaml", "MODEL.META_ARCHITECTURE", "RetinaNet"), "META_ARCHITECTURE is 'RetinaNet'"),
        (("tiny.yaml", "MODEL.YOLOV3.FUSED", "mean"), "no config key 'MODEL.YOLOV3.FUSED'"),
        (("tiny.yaml", "DATASETS.TRAIN", "()"), "DATASETS.TRAIN is empty"),
    ],
)
def test_refusals(config, options, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copy(config, "tiny.yaml")
    torch.save({"model": {"other.weight": torch.ones(1)}}, "other.pth")
    error = run("--batches", 1, "--config-files", *options).error
    assert message in error and error.count("\n") == 1
