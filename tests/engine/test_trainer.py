"""The trainer: optimizer, schedule, resuming, and stopping in every process."""

from __future__ import annotations

import json
import math
import sys
from datetime import timedelta
from functools import partial
from pathlib import Path

import detectron2.engine
import pytest
import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from torch import nn

from asff.config_files import load_config
from asff.engine import Trainer, argument_parser, launch, setup
from asff.engine.trainer import resolve_warmup
from tests.training import (
    ROOT,
    metrics,
    one_thread,
    read_checkpoint,
    run_here,
    save_buffers,
    train_on_bad_loss,
)

pytestmark = pytest.mark.usefixtures("one_thread", "clean_loggers")


def tiny_cfg(config: Path, *options: object) -> CfgNode:
    norms = ["MODEL.YOLOV3.NORM", "BN", "MODEL.DARKNET.NORM", "BN"]
    return load_config(str(config), [*norms, *options])


def test_weight_decay_follows_its_keys(config):
    options = ["SOLVER.WEIGHT_DECAY", 0.1, "SOLVER.WEIGHT_DECAY_NORM", 0.2]
    cfg = tiny_cfg(config, *options, "SOLVER.WEIGHT_DECAY_BIAS", 0.3)
    model = Trainer.build_model(cfg)
    expected = {p: 0.3 if name.endswith("bias") else 0.1 for name, p in model.named_parameters()}
    # The bias of a normalisation is a bias, too.
    norms = [layer for layer in model.modules() if isinstance(layer, nn.BatchNorm2d)]
    expected.update({norm.weight: 0.2 for norm in norms})
    optimizer = Trainer.build_optimizer(cfg, model)
    assert isinstance(optimizer, torch.optim.SGD)
    found = {p: group for group in optimizer.param_groups for p in group["params"]}
    assert {p: group["weight_decay"] for p, group in found.items()} == expected
    assert set(expected.values()) == {0.1, 0.2, 0.3}
    assert {(g["lr"], g["momentum"]) for g in found.values()} == {(0.01, 0.9)}


def test_paper_decays_everything():
    cfg = load_config(str(ROOT / "configs" / "Base-YOLOv3.yaml"), [])
    assert cfg.SOLVER.WEIGHT_DECAY == cfg.SOLVER.WEIGHT_DECAY_NORM == 0.0005
    assert cfg.SOLVER.WEIGHT_DECAY_BIAS is None  # as WEIGHT_DECAY
    assert (cfg.SOLVER.BASE_LR, cfg.SOLVER.BASE_LR_END) == (0.001, 0.00001)
    assert (cfg.SOLVER.IMS_PER_BATCH, cfg.SOLVER.WARMUP_EPOCHS) == (64, 4)


def test_weights_are_channels_last(config):
    weights = [x for x in Trainer.build_model(tiny_cfg(config)).parameters() if x.ndim == 4]
    assert weights and all(x.is_contiguous(memory_format=torch.channels_last) for x in weights)


@pytest.mark.parametrize(
    ("epochs", "images", "least", "iterations"),
    [
        (4.0, 100, 30, 50),  # 400 images, 8 at a time
        (4.0, 100, 80, 80),
        (4.0, 101, 30, 51),  # 50.5
        (0.5, 100, 0, 7),  # 6.25
        (0.0, 100, 0, 0),
        (4.0, 12, 1000, 1000),
    ],
)
def test_warmup_has_a_least_length(epochs, images, least, iterations):
    options = ["SOLVER.WARMUP_EPOCHS", epochs, "SOLVER.WARMUP_ITERS", least]
    cfg = load_config("", [*options, "SOLVER.IMS_PER_BATCH", 4, "SOLVER.ACCUM_ITERS", 2])
    cfg.freeze()
    resolved = resolve_warmup(cfg, images)
    assert resolved.SOLVER.WARMUP_ITERS == iterations
    assert resolved.is_frozen() and cfg.SOLVER.WARMUP_ITERS == least


def test_training_warms_up_over_epochs(config, tmp_path):
    """2 epochs of 12 images, one of them empty or not, are 6 batches of 4."""
    options = ["SOLVER.WARMUP_EPOCHS", 2.0, "OUTPUT_DIR", str(tmp_path)]
    assert Trainer(tiny_cfg(config, *options)).cfg.SOLVER.WARMUP_ITERS == 6


def test_schedule():
    """Warm-up over half of 100 iterations to the middle of the cosine, then down to the end."""
    options = ["SOLVER.MAX_ITER", 100, "SOLVER.WARMUP_ITERS", 50, "SOLVER.WARMUP_FACTOR", 0.01]
    cfg = load_config(str(ROOT / "configs" / "Base-YOLOv3.yaml"), options)
    optimizer = torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=cfg.SOLVER.BASE_LR)
    scheduler = Trainer.build_lr_scheduler(cfg, optimizer)
    rates = []
    for _ in range(101):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    assert rates[0] == pytest.approx(0.00001)  # 0.01 x 0.001
    assert rates[50] == pytest.approx((0.001 + 0.00001) / 2)  # cos(90 degrees) = 0
    assert rates[25] == pytest.approx((0.00001 + 0.000505) / 2)  # a line in between
    # cos(120 degrees) = -1/2: a quarter of the way up from the end.
    assert rates[66] > 0.00001 + 0.00099 / 4 > rates[67]
    assert rates[100] == pytest.approx(0.00001)


def test_reference_world_size_scales_all_rates():
    """A config for 4 processes on 2: half the batch and the rates, twice the iterations."""
    options = ["SOLVER.REFERENCE_WORLD_SIZE", 4, "SOLVER.IMS_PER_BATCH", 64]
    options += ["SOLVER.BASE_LR", 0.1, "SOLVER.BASE_LR_END", 0.02]
    options += ["SOLVER.MAX_ITER", 100, "SOLVER.WARMUP_ITERS", 10, "TEST.EVAL_PERIOD", 20]
    options += ["INPUT.SIZE_PERIOD", 5, "INPUT.FINAL_SIZE_ITERS", 7, "INPUT.MIXUP.OFF_ITERS", 30]
    cfg = load_config("", options)
    cfg.freeze()
    scaled = Trainer.auto_scale_workers(cfg, 2)
    solver = scaled.SOLVER
    assert solver.IMS_PER_BATCH == 32
    assert (solver.BASE_LR, solver.BASE_LR_END) == (0.05, 0.01)
    assert (solver.MAX_ITER, solver.WARMUP_ITERS, scaled.TEST.EVAL_PERIOD) == (200, 20, 40)
    inputs = scaled.INPUT
    phases = (inputs.SIZE_PERIOD, inputs.FINAL_SIZE_ITERS, inputs.MIXUP.OFF_ITERS)
    assert phases == (10, 14, 60)
    assert scaled.is_frozen() and cfg.SOLVER.BASE_LR_END == 0.02
    assert Trainer.auto_scale_workers(cfg, 4) is cfg
    # On 16, a quarter of the iterations, but a size for one at least.
    inputs = Trainer.auto_scale_workers(
        load_config("", [*options, "INPUT.SIZE_PERIOD", 1]), 16
    ).INPUT
    phases = (inputs.SIZE_PERIOD, inputs.FINAL_SIZE_ITERS, inputs.MIXUP.OFF_ITERS)
    assert phases == (1, 2, 8)  # 0.25, 1.75, 7.5
    off = load_config("", [])
    assert Trainer.auto_scale_workers(off, 2) is off


def test_reference_world_size_trains(config, tmp_path):
    """2 iterations of 8 images for 2 processes are 4 of 4 images for this one."""
    options = ["SOLVER.REFERENCE_WORLD_SIZE", 2, "SOLVER.IMS_PER_BATCH", 8, "SOLVER.MAX_ITER", 2]
    options += ["SOLVER.BASE_LR", 0.02, "SOLVER.BASE_LR_END", 0.002, "SOLVER.WARMUP_ITERS", 1]
    run = run_here("--config-file", config, *options, "OUTPUT_DIR", tmp_path)
    assert run.code == 0, run.output
    last = metrics(tmp_path)[0]
    assert last["iteration"] == 3
    # As the tiny config itself: from 0.01 to 0.001.
    assert last["lr"] == pytest.approx(0.001 + 0.009 * (1 + math.cos(math.pi * 3 / 4)) / 2)


def test_drawn_seed_is_that_of_all_parts(config, tmp_path):
    """Also where nothing is to be resumed or loaded."""
    trainer = Trainer(tiny_cfg(config, "SEED", -1, "OUTPUT_DIR", str(tmp_path)))
    assert trainer.seed == trainer._trainer.seed == trainer.train_loader.sampler.batch_plan.seed


def test_resume_restores_optimizer_and_schedule(config, tmp_path):
    """A training of 6 steps that ended after 4."""
    options = ["OUTPUT_DIR", str(tmp_path), "SOLVER.CHECKPOINT_PERIOD", 4]
    trainer = Trainer(tiny_cfg(config, *options, "SOLVER.MAX_ITER", 6))
    trainer.resume_or_load(resume=True)  # there is nothing yet
    assert trainer.start_iter == 0
    trainer.train()
    (tmp_path / "last_checkpoint").write_text("model_0000003.pth")

    resumed = Trainer(tiny_cfg(config, *options, "SOLVER.MAX_ITER", 6, "SEED", 9))
    resumed.resume_or_load(resume=True)
    assert resumed.start_iter == 4
    # Random layers go on with the seed of the run, too.
    assert resumed._trainer.seed == trainer.seed == 1
    # Not that of a new schedule, which starts to warm up.
    rate = 0.001 + 0.009 * (1 + math.cos(math.pi * 4 / 6)) / 2
    assert resumed.optimizer.param_groups[0]["lr"] == pytest.approx(rate)
    assert resumed.scheduler.last_epoch == 4
    saved = read_checkpoint(tmp_path / "model_0000003.pth")
    momenta = saved["trainer"]["_trainer"]["optimizer"]["state"]
    restored = resumed.optimizer.state_dict()["state"]
    assert restored.keys() == momenta.keys() and len(momenta) > 100
    for key, state in momenta.items():
        assert torch.equal(restored[key]["momentum_buffer"], state["momentum_buffer"])
    for name, value in resumed.model.state_dict().items():
        assert torch.equal(value, saved["model"][name])
    # A run from before the seed was kept has that of the config.
    del saved["trainer"]["seed"]
    resumed.seed = 9
    resumed.load_state_dict(saved["trainer"])
    assert resumed.seed == 9


def test_share_of_clipped_steps_is_reported(config, tmp_path):
    run = run_here("--config-file", config, "SOLVER.MAX_GRAD_NORM", 1e-6, "OUTPUT_DIR", tmp_path)
    assert "The gradient norm was clipped at 1e-06 in 4 of 4 steps (100.0%)." in run.output
    assert metrics(tmp_path)[0]["clipped"] == 1


def test_no_report_on_clipping(config, tmp_path):
    """Where it is off, or a resumed training had nothing left to do."""
    options = ("--config-file", config, "--resume", "SOLVER.MAX_ITER", 1, "OUTPUT_DIR", tmp_path)
    for limit in (0.0, 5.0):
        run = run_here(*options, "SOLVER.MAX_GRAD_NORM", limit)
        assert run.code == 0 and "was clipped" not in run.output, run.output


def test_ground_truth_of_an_earlier_evaluation_is_not_used(config, tmp_path):
    """Detectron2 writes that of a dataset of Python code to a file; the dataset may change."""
    stale = tmp_path / "inference" / "python" / "python_coco_format.json"
    stale.parent.mkdir(parents=True)
    stale.write_text("{}")
    image = {"file_name": "a.png", "image_id": 7, "height": 4, "width": 4, "annotations": []}
    DatasetCatalog.register("python", lambda: [image])
    MetadataCatalog.get("python").thing_classes = ["bolt"]
    try:
        Trainer.build_evaluator(tiny_cfg(config, "OUTPUT_DIR", str(tmp_path)), "python")
    finally:
        DatasetCatalog.remove("python")
        MetadataCatalog.remove("python")
    assert [image["id"] for image in json.loads(stale.read_text())["images"]] == [7]


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_autocast_trains(config, tmp_path, dtype):
    options = ["SOLVER.AMP.ENABLED", True, "SOLVER.AMP.DTYPE", dtype, "OUTPUT_DIR", tmp_path]
    run = run_here("--config-file", config, *options)
    assert run.code == 0, run.output
    assert math.isfinite(metrics(tmp_path)[0]["total_loss"])
    assert {x.dtype for x in read_checkpoint(tmp_path / "model_final.pth")["model"].values()} == {
        torch.float32,
        torch.int64,  # counters of the normalisation
    }


def test_diverging_training_saves_nothing_broken(config, tmp_path):
    options = ["SOLVER.BASE_LR", 1e12, "SOLVER.WARMUP_ITERS", 0, "SOLVER.CHECKPOINT_PERIOD", 1]
    run = run_here("--config-file", config, *options, "OUTPUT_DIR", tmp_path)
    assert run.code == 1
    message = run.output[run.output.rindex("FloatingPointError: ") :]
    for part in ("iteration 1,", "learning rate ", "loss_obj=", "loss_shape=", "shapes/images/"):
        assert part in message
    # The first step was finite, large as it was.
    (checkpoint,) = tmp_path.glob("*.pth")
    assert checkpoint.name == "model_0000000.pth"
    assert all(x.isfinite().all() for x in read_checkpoint(checkpoint)["model"].values())


@pytest.mark.slow
def test_processes_share_the_statistics_of_timms_norms(config, tmp_path):
    pytest.importorskip("timm", reason="timm is not installed (pip install .[timm])")
    args = ["--config-file", str(config), "--num-gpus", "2", "--dist-url", "auto"]
    args += ["MODEL.BACKBONE.NAME", "build_timm_backbone", "MODEL.TIMM.NAME", "test_resnet"]
    args += ["SOLVER.MAX_ITER", "2", "DATASETS.TEST", "()", "OUTPUT_DIR", str(tmp_path)]
    args = argument_parser().parse_args(args)
    launch(save_buffers, setup(args), args)
    first, second = (torch.load(tmp_path / f"buffers{rank}.pt") for rank in range(2))
    assert sum("bottom_up" in name and "running_var" in name for name in first) > 5
    for name, value in first.items():
        assert torch.equal(value, second[name]), name


@pytest.fixture(scope="module")
def stopped(config, tmp_path_factory) -> dict[int, list[dict]]:
    """Reports of all ranks of jobs of 1 and of 2 processes, one of which has an infinite loss."""
    reports = {}
    for processes in (1, 2):
        output = tmp_path_factory.mktemp(f"stopped{processes}")
        args = ["--config-file", str(config), "--num-gpus", str(processes), "--dist-url", "auto"]
        args += ["INPUT.RANDOM_FLIP", "none", "SOLVER.CHECKPOINT_PERIOD", "1"]
        # Two processes accumulate; the norm is one that does not see the batch.
        args += ["MODEL.YOLOV3.NORM", "GN", "MODEL.DARKNET.NORM", "GN"]
        args += ["SOLVER.IMS_PER_BATCH", str(4 // processes), "SOLVER.ACCUM_ITERS", str(processes)]
        args = argument_parser().parse_args([*args, "OUTPUT_DIR", str(output)])
        # A rank that waits for one that stopped is to fail here, not to wait for half an hour.
        spawn = partial(detectron2.engine.launch, timeout=timedelta(minutes=2))
        with pytest.MonkeyPatch.context() as patch, one_thread():
            patch.setattr(sys.modules["asff.engine.launch"], "spawn", spawn)
            launch(train_on_bad_loss, setup(args), args)
        names = sorted(output.glob("report*.json"))
        reports[processes] = [json.loads(name.read_text()) for name in names]
        saved = {path.name for path in output.glob("*.pth")}
        assert saved == {"model_0000000.pth", "model_0000001.pth"}
        for name in saved:
            tensors = read_checkpoint(output / name)["model"].values()
            assert all(x.isfinite().all() for x in tensors)
    return reports


@pytest.mark.parametrize("processes", [1, 2])
def test_every_rank_stops(stopped, processes):
    reports = stopped[processes]
    assert len(reports) == processes
    for report in reports:
        assert report["iteration"] == 2
        assert report["unchanged"]
        # Each rank names the images and losses of all.
        for part in ["at iteration 2,", "learning rate 0.00", "loss_obj=", "loss_box="]:
            assert part in report["error"]
        for rank, other in enumerate(reports):
            assert f"rank {rank}: loss_obj=" in report["error"]
            assert len(other["files"]) == 4 // processes
            assert all(file in report["error"] for file in other["files"])


def test_first_step_is_the_same_in_two_processes(stopped):
    """Same images, losses and gradient: the batch is that of all processes and parts together."""
    (one,), two = stopped[1], stopped[2]
    assert sorted(one["files"]) == sorted(two[0]["files"] + two[1]["files"])
    assert one["loss"] == pytest.approx(two[0]["loss"], rel=1e-4)
    assert one["grad_norm"] == pytest.approx(two[0]["grad_norm"], rel=1e-3)
