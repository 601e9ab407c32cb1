"""A training in several processes, with workers or resumed stays the same training."""

from __future__ import annotations

import json
import re
import shutil

import pytest
import torch
from detectron2.utils.events import EventStorage
from torch import nn

from asff.engine import argument_parser, launch, setup
from asff.engine.train_step import TrainStep
from tests.training import check_same_weights, read_checkpoint, run_here, write_batches

pytestmark = pytest.mark.usefixtures("one_thread", "clean_loggers")

# Everything that is random about a batch; mixup ends with iteration 7, the last 2 have 64 pixels.
RANDOM = (
    *("INPUT.TRAIN_SIZES", "[32, 64, 96, 128]", "INPUT.SIZE_PERIOD", "2", "INPUT.FINAL_SIZE", "64"),
    *("INPUT.FINAL_SIZE_ITERS", "2", "INPUT.MIXUP.PROB", "1.0", "INPUT.MIXUP.MIN_IMAGES", "2"),
    *("INPUT.MIXUP.OFF_ITERS", "4", "INPUT.COLOR.PROB", "0.5", "INPUT.EXPAND.PROB", "0.5"),
    *("INPUT.AFFINE.PROB", "0.5", "INPUT.CROP.ENABLED", "True", "INPUT.CROP.TYPE", "min_iou"),
    *("INPUT.RANDOM_INTERPOLATION", "True", "SOLVER.MAX_ITER", "12"),
)
MIXED = 8  # iterations


@pytest.fixture(scope="module")
def batches_of(config, tmp_path_factory):
    """Write the batches of a job and return those of all its processes together."""

    def batches_of(*options: str, processes: int = 1, start: int = 0) -> list[list]:
        output = tmp_path_factory.mktemp("batches")
        args = ["--config-file", str(config), "--num-gpus", str(processes), "--dist-url", "auto"]
        args = argument_parser().parse_args([*args, *RANDOM, *options, "OUTPUT_DIR", str(output)])
        args.start = start
        launch(write_batches, setup(args), args)
        shares = [json.loads(path.read_text()) for path in sorted(output.glob("*.json"))]
        assert len(shares) == processes
        return [sum(parts, []) for parts in zip(*shares)]

    return batches_of


@pytest.fixture(scope="module")
def batches(batches_of) -> list[list]:
    """Return the batches of one process without workers."""
    return batches_of()


@pytest.mark.parametrize(
    ("processes", "workers", "start"), [(2, 0, 0), (1, 2, 0), (1, 0, 5), (1, 2, 5)]
)
def test_batches_stay_the_same(batches, batches_of, processes, workers, start):
    """Processes, workers and a resume after ``start`` batches change no batch."""
    options = ("DATALOADER.NUM_WORKERS", str(workers))
    assert batches_of(*options, processes=processes, start=start) == batches[start:]


def test_detectron2s_mapper_takes_part(batches_of):
    """Augmentations of Detectron2, at sizes and crops of their own."""
    plain = (
        *("INPUT.SQUARE", "False", "INPUT.MIN_SIZE_TRAIN", "(64, 80)"),
        *("INPUT.CROP.TYPE", "relative", "INPUT.CROP.SIZE", "[0.7, 0.7]"),
        *("INPUT.RANDOM_INTERPOLATION", "False"),
    )
    for part in ("MIXUP", "COLOR", "EXPAND", "AFFINE"):
        plain += (f"INPUT.{part}.PROB", "0.0")
    batches = batches_of(*plain)
    assert len({tuple(size) for batch in batches for _, size, *_ in batch}) > 4
    assert batches_of(*plain, "DATALOADER.NUM_WORKERS", "2", start=5) == batches[5:]


def test_another_seed_gives_other_batches(batches, batches_of):
    other = batches_of("SEED", "2")
    assert all(a != b for a, b in zip(batches, other))


def test_mixup_ends_exactly(batches_of):
    """With workers that have long begun with later batches."""
    batches = batches_of("DATALOADER.NUM_WORKERS", "2", "INPUT.CROP.ENABLED", "False")
    weights = [{weight for *_, weights in batch for weight in weights} for batch in batches]
    assert all(weights[k] == {1.0} for k in range(MIXED, 12))
    # Boxes without a partner's would have weight 1.
    assert all(max(weights[k]) < 1 for k in range(MIXED))


# Six iterations with a checkpoint after three, the last without mixup.
TRAINING = (
    *(*RANDOM, "SOLVER.MAX_ITER", "6", "SOLVER.CHECKPOINT_PERIOD", "3"),
    *("INPUT.MIXUP.OFF_ITERS", "1", "INPUT.TRAIN_SIZES", "[32, 64]"),
)


@pytest.mark.parametrize(("seed", "accum"), [("1", 1), ("-1", 2)])
def test_resumed_training_ends_with_the_same_weights(config, tmp_path, seed, accum):
    """From the checkpoint in its middle, with workers, and with gradient accumulation."""
    batch = ("SOLVER.IMS_PER_BATCH", 4 // accum, "SOLVER.ACCUM_ITERS", accum)
    options = ("--config-file", config, *TRAINING, *batch, "SEED", seed)
    whole, resumed = tmp_path / "whole", tmp_path / "resumed"
    run = run_here(*options, "OUTPUT_DIR", whole)
    assert run.code == 0, run.output
    assert "Starting fresh because --resume is not given" in run.output
    effective = "Effective batch: 4 images (SOLVER.IMS_PER_BATCH 2 x SOLVER.ACCUM_ITERS 2)"
    assert (effective in run.output) == (accum == 2)
    resumed.mkdir()
    shutil.copy(whole / "model_0000002.pth", resumed)
    (resumed / "last_checkpoint").write_text("model_0000002.pth\n")  # as an editor leaves it
    run = run_here("--resume", *options, "DATALOADER.NUM_WORKERS", "2", "OUTPUT_DIR", resumed)
    assert run.code == 0, run.output
    assert f"Resuming from iteration 3 of {resumed}/model_0000002.pth (seed" in run.output
    assert "not SEED" not in run.output
    check_same_weights(resumed, whole)


def test_drawn_seeds_differ(config, tmp_path):
    options = ("SEED", "-1", "SOLVER.MAX_ITER", "1", "OUTPUT_DIR", tmp_path)
    runs = [run_here("--config-file", config, *options).output for _ in range(2)]
    seeds = [re.search(r"Starting fresh because .* \(seed (\d+)\)", run)[1] for run in runs]
    assert seeds[0] != seeds[1]
    assert f"though there is {tmp_path}/model_final.pth" in runs[1]


def test_resume_keeps_the_seed_of_the_run(config, tmp_path):
    options = ("--config-file", config, "--resume", "OUTPUT_DIR", tmp_path)
    run = run_here(*options, "SOLVER.MAX_ITER", "1", "SEED", "5")
    assert f"Starting fresh because there is no checkpoint in {tmp_path} (seed 5)" in run.output
    run = run_here(*options, "SOLVER.MAX_ITER", "2", "SEED", "0")
    assert "Resuming from iteration 1 of" in run.output
    assert "(seed 5 as before, not SEED 0)" in run.output
    assert read_checkpoint(tmp_path / "model_final.pth")["trainer"]["seed"] == 5


def test_resume_without_its_checkpoint(config, tmp_path):
    (tmp_path / "last_checkpoint").write_text("model_0000007.pth")
    run = run_here("--config-file", config, "--resume", "OUTPUT_DIR", tmp_path)
    message = f"--resume: {tmp_path}/last_checkpoint names 'model_0000007.pth', which is not there"
    assert message in run.error
    fresh = ("SOLVER.MAX_ITER", 1, "DATASETS.TEST", ())
    run = run_here("--config-file", config, *fresh, "OUTPUT_DIR", tmp_path)
    assert run.code == 0, run.output


def test_processes_that_would_start_apart_are_refused(config, tmp_path, monkeypatch):
    """Machines that do not share OUTPUT_DIR: one finds a checkpoint, the other does not."""
    options = ("SOLVER.MAX_ITER", 1, "SEED", 5, "OUTPUT_DIR", tmp_path)
    run_here("--config-file", config, *options)
    monkeypatch.setattr("detectron2.utils.comm.all_gather", lambda start: [start, (0, 1)])
    run = run_here("--config-file", config, "--resume", *options)
    assert "Processes would start at (iteration, seed) [(0, 1), (1, 5)]" in run.error
    assert f"OUTPUT_DIR ('{tmp_path}')" in run.error


class Noise(nn.Module):
    """Model that keeps the random number drawn in each step."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))
        self.drawn: list[float] = []

    def forward(self, batch: list) -> dict:
        self.drawn.append(torch.rand(1).item())
        return {"loss": self.weight.sum()}


def draws(iterations: range, seed: int = 3) -> list[float]:
    model = Noise()
    step = TrainStep(model, [[]] * 10, torch.optim.SGD(model.parameters(), 0.1), seed=seed)
    with EventStorage():
        for step.iter in iterations:
            step.run_step()
    return model.drawn


def test_random_layers_repeat_after_a_resume(monkeypatch):
    torch.manual_seed(0)
    whole = draws(range(6))
    assert len(set(whole)) == 6
    torch.manual_seed(1)
    assert draws(range(3, 6)) == whole[3:]
    assert draws(range(6), seed=4)[0] != whole[0]
    # Each process drops other things.
    monkeypatch.setattr("detectron2.utils.comm.get_rank", lambda: 1)
    assert not set(draws(range(6))) & set(whole)
