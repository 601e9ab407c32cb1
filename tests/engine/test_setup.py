"""What a config becomes on this machine, for these processes."""

from __future__ import annotations

import logging
import sys

import pytest
import torch

from asff.config_files import load_config
from asff.engine import argument_parser, setup
from asff.engine.setup import resolve_device, resolve_sync_norm
from tests.training import ROOT

BASE = str(ROOT / "configs" / "Base-YOLOv3.yaml")
NORMS = ("MODEL.DARKNET.NORM", "MODEL.MOBILENETV2.NORM", "MODEL.YOLOV3.NORM")


def norms(cfg) -> set[str]:
    return {cfg.MODEL.DARKNET.NORM, cfg.MODEL.MOBILENETV2.NORM, cfg.MODEL.YOLOV3.NORM}


@pytest.mark.parametrize(
    ("device", "processes", "norm"),
    [
        ("cpu", 1, "BN"),
        ("cpu", 2, "naiveSyncBN"),
        ("cuda", 1, "BN"),
        ("cuda", 2, "SyncBN"),
    ],
)
def test_sync_norm(caplog, device, processes, norm):
    caplog.set_level(logging.INFO, "asff")
    cfg = load_config(BASE, ["MODEL.DEVICE", device])
    assert norms(cfg) == {"SyncBN"}
    resolve_sync_norm(cfg, processes)
    assert norms(cfg) == {norm}
    if norm == "SyncBN":
        assert not caplog.messages
    else:
        (message,) = caplog.messages
        assert message.startswith(", ".join(NORMS)) and norm in message


def test_other_norms_stay():
    cfg = load_config(BASE, ["MODEL.DEVICE", "cpu", "MODEL.YOLOV3.NORM", "GN"])
    resolve_sync_norm(cfg, 2)
    assert norms(cfg) == {"naiveSyncBN", "GN"}


@pytest.mark.parametrize(
    ("num_gpus", "available", "device", "reason"),
    [
        (0, True, "cpu", "--num-gpus is 0"),
        (1, False, "cpu", "there is no CUDA device"),
        (2, False, "cpu", "there is no CUDA device"),
        (1, True, "cuda", None),
    ],
)
def test_device(monkeypatch, caplog, num_gpus, available, device, reason):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: available)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: int(available))
    caplog.set_level(logging.INFO, "asff")
    cfg = load_config(BASE, [])
    resolve_device(cfg, num_gpus)
    assert cfg.MODEL.DEVICE == device
    assert caplog.messages == ([f"Running on the CPU: {reason}."] if reason else [])


def test_more_gpus_than_there_are(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(ValueError, match="--num-gpus is 3, but this machine has 2"):
        resolve_device(load_config(BASE, []), 3)


def test_chosen_cpu_is_not_news(caplog):
    caplog.set_level(logging.INFO, "asff")
    cfg = load_config(BASE, ["MODEL.DEVICE", "cpu"])
    resolve_device(cfg, 1)
    assert cfg.MODEL.DEVICE == "cpu" and not caplog.messages


def test_setup_resolves_and_freezes(config, clean_loggers):
    args = ["--config-file", str(config), "--num-gpus", "2", "SOLVER.BASE_LR", "0.5"]
    cfg = setup(argument_parser().parse_args(args))
    assert norms(cfg) == {"naiveSyncBN"}
    assert cfg.SOLVER.BASE_LR == 0.5
    assert cfg.is_frozen()


@pytest.mark.parametrize(
    ("output", "reason"),
    [("", "must name a folder"), ("file", "is a file"), ("file/below", "is a file")],
)
def test_output_dir(config, tmp_path, clean_loggers, output, reason):
    (tmp_path / "file").touch()
    output = output and str(tmp_path / output)
    args = ["--config-file", str(config), "OUTPUT_DIR", output]
    with pytest.raises(ValueError, match=f"OUTPUT_DIR is '{output}': .*{reason}"):
        setup(argument_parser().parse_args(args))


@pytest.mark.parametrize(
    ("key", "value", "limit"),
    [
        ("MODEL.DARKNET.WIDTH", 0.0, "at least 0.001"),
        ("SEED", 2**40, "from -1 to"),
        ("SOLVER.ACCUM_ITERS", 0, "at least 1"),
        ("SOLVER.BASE_LR", 0.0, "at least"),
        ("SOLVER.CHECKPOINT_PERIOD", 0, "at least 1"),
        ("SOLVER.KEEP_CHECKPOINTS", -1, "at least 0"),
        ("SOLVER.MAX_GRAD_NORM", -1.0, "at least 0"),
        ("SOLVER.MAX_ITER", -5, "at least 1"),
        ("SOLVER.MOMENTUM", 5.0, "from 0 to 1"),
        ("SOLVER.WARMUP_FACTOR", -0.5, "from 0 to 1"),
        ("TEST.IMS_PER_BATCH", 0, "at least 1"),
        ("TEST.VIS_IMAGES", -1, "at least 0"),
    ],
)
def test_values_out_of_range(config, clean_loggers, key, value, limit):
    args = ["--config-file", str(config), key, str(value)]
    with pytest.raises(
        ValueError, match=f"{key} is {value:g}, but must be {limit}".replace("+", ".")
    ):
        setup(argument_parser().parse_args(args))


def test_no_test_data(config, clean_loggers):
    """As an empty `TEST:` in YAML."""
    args = ["--config-file", str(config), "DATASETS.TEST", "None"]
    assert setup(argument_parser().parse_args(args)).DATASETS.TEST == ()


def test_torchrun_reads_the_annotations_once(config, monkeypatch, clean_loggers):
    """They may be large: rank 0 tells what is wrong with them."""
    module = sys.modules["asff.engine.setup"]
    monkeypatch.setattr(module, "check_annotations", lambda *args: pytest.fail("read"))
    monkeypatch.setenv("RANK", "1")
    setup(argument_parser().parse_args(["--config-file", str(config)]))


def test_reference_world_size_decides_what_divides(config, clean_loggers):
    """2 images for 1 process are 6 for 3; without the key 3 processes could not share 2 images."""
    args = ["--config-file", str(config), "--num-gpus", "3", "SOLVER.IMS_PER_BATCH", "2"]
    cfg = setup(argument_parser().parse_args([*args, "SOLVER.REFERENCE_WORLD_SIZE", "1"]))
    assert cfg.SOLVER.IMS_PER_BATCH == 2  # the trainer scales it
    with pytest.raises(ValueError, match="IMS_PER_BATCH"):
        setup(argument_parser().parse_args(args))


def test_training_keys_do_not_hinder_evaluation(config, tmp_path, clean_loggers):
    """Neither a batch that 2 processes do not divide nor a missing training set."""
    weights = tmp_path / "weights.pth"
    weights.touch()
    args = ["--config-file", str(config), "--num-gpus", "2", "--eval-only"]
    args += ["MODEL.WEIGHTS", str(weights), "SOLVER.IMS_PER_BATCH", "3"]
    args += ["DATASETS.TRAIN", "('absent',)"]
    assert setup(argument_parser().parse_args(args)).MODEL.WEIGHTS == str(weights)
