"""train_net.py as users call it: in one process, in two, and under torchrun."""

from __future__ import annotations

import math
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tests.training import CLASSES, Run, metrics, read_checkpoint, run_apart, run_here, truncated

# Two ways to two processes on the CPU.
SPAWN = ("--num-gpus", 2, "--dist-url", "auto")
TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", 2)


def cosine(where: float, start: float = 0.01, end: float = 0.001) -> float:
    """Return the learning rate of the tiny config at a share of the training, after warm-up."""
    return end + (start - end) * (1 + math.cos(math.pi * where)) / 2


def average_precisions(run: Run, output: Path) -> str:
    """Return AP, AP50, AP75 ... of a run's last evaluation, in Detectron2's format for copying."""
    assert run.code == 0, run.output
    _, _, log = (output / "log.txt").read_text().rpartition("Start inference")
    return re.findall(r"copypaste: ([-\d.,na]+)$", log, re.MULTILINE)[-1]


def check_four_steps(run: Run, output: Path) -> None:
    """Check that a run trained 4 steps and evaluated, and that its checkpoint can be resumed."""
    assert "Starting fresh" in run.output
    assert average_precisions(run, output).count(",") == 5
    checkpoint = read_checkpoint(output / "model_final.pth")
    assert checkpoint["class_names"] == list(CLASSES) and checkpoint["asff_version"]
    assert checkpoint["iteration"] == checkpoint["trainer"]["iteration"] == 3
    assert checkpoint["trainer"]["hooks"]["LRScheduler"]["last_epoch"] == 4
    last, _evaluation = metrics(output)
    assert last["iteration"] == 3
    assert last["lr"] == pytest.approx(cosine(3 / 4))


def check_resumed_to_six(run: Run, output: Path) -> None:
    assert run.code == 0, run.output
    assert "Resuming from iteration 4" in run.output
    last = metrics(output)[-2]
    assert last["iteration"] == 5
    assert last["lr"] == pytest.approx(cosine(5 / 6))
    checkpoint = read_checkpoint(output / "model_final.pth")
    assert checkpoint["iteration"] == 5
    assert checkpoint["trainer"]["hooks"]["LRScheduler"]["last_epoch"] == 6
    # Already that of the step after the last one.
    group, *_ = checkpoint["trainer"]["_trainer"]["optimizer"]["param_groups"]
    assert group["lr"] == pytest.approx(0.001)


@pytest.fixture(scope="module")
def trained(config, tmp_path_factory) -> tuple[Run, Path]:
    output = tmp_path_factory.mktemp("one_process")
    # As on a machine without a GPU.
    options = ("--config-file", config, "--num-gpus", 0, "MODEL.DEVICE", "cuda")
    return run_here(*options, "OUTPUT_DIR", output), output


@pytest.fixture(scope="module")
def trained_in_two(config, tmp_path_factory) -> tuple[Run, Path]:
    output = tmp_path_factory.mktemp("two_processes")
    options = ("--config-file", config, *SPAWN, "OUTPUT_DIR", output)
    return run_apart(*options), output


@pytest.fixture(scope="module")
def overfit(config, tmp_path_factory) -> tuple[Run, Path]:
    """300 steps at ten times the paper's learning rate on 12 images, one of them empty."""
    output = tmp_path_factory.mktemp("overfit")
    options = ("SOLVER.MAX_ITER", 300, "SOLVER.BASE_LR", 0.01, "SOLVER.WARMUP_ITERS", 30)
    options += ("DATALOADER.FILTER_EMPTY_ANNOTATIONS", False, "OUTPUT_DIR", output)
    return run_here("--config-file", config, *options), output


def test_trains_and_evaluates(trained):
    check_four_steps(*trained)
    output = trained[0].output
    # Logged before the training's own log begins, and after.
    assert output.count("Running on the CPU: --num-gpus is 0.") == 1
    assert output.count("Deterministic batch plan: ") == 1
    assert "MODEL.YOLOV3.NORM: BN instead of SyncBN (1 process on cpu)" in output


def test_screen_shows_what_a_user_follows(trained, overfit):
    """Environment, config and model are in log.txt alone; tables of the evaluation in both."""
    for run, output in (trained, overfit):
        log = (output / "log.txt").read_text()
        for start in ("Environment info", "Running with full config", "Model:", "Serializing"):
            assert start in log and start not in run.output
        assert len(log.splitlines()) > 500 > 60 > len(run.output.splitlines())
    assert run.output.count("iter: 19 ") == log.count("iter: 19 ") == 1
    assert run.output.count("Evaluation results for bbox") == log.count("for bbox: ") == 1
    assert "Average Precision" in log and "Average Precision" not in run.output


def test_new_training_ignores_the_last_one(trained, config, tmp_path):
    """Without --resume, MODEL.WEIGHTS gives weights alone: no schedule, no iteration."""
    weights = trained[1] / "model_final.pth"
    options = ("MODEL.WEIGHTS", weights, "SOLVER.MAX_ITER", 1, "OUTPUT_DIR", tmp_path)
    run = run_here("--config-file", config, *options)
    assert run.code == 0, run.output
    assert f"with the weights of {weights} and nothing else of it" in run.output
    # The first step of a warm-up from a tenth.
    assert metrics(tmp_path)[0]["lr"] == pytest.approx(0.001)


@pytest.fixture
def broken_image(datasets) -> Iterator[str]:
    """One of the test images."""
    with truncated(datasets / "shapes" / "images" / "val_2.png") as path:
        yield path


@pytest.mark.parametrize("alone", [True, False])
def test_evaluation_names_an_unreadable_image(trained, broken_image, config, tmp_path, alone):
    """Nothing takes its place; what was trained is kept."""
    weights = ("--eval-only", "MODEL.WEIGHTS", trained[1] / "model_final.pth")
    options = weights if alone else ("SOLVER.MAX_ITER", 1)
    run = run_here("--config-file", config, *options, "OUTPUT_DIR", tmp_path)
    assert broken_image in run.error
    assert (tmp_path / "model_final.pth").exists() is not alone


def test_two_processes_train_and_evaluate(trained_in_two):
    check_four_steps(*trained_in_two)
    run, output = trained_in_two
    assert "naiveSyncBN instead of SyncBN (2 processes on cpu)" in run.output
    assert "Rank of current process: 1. World size: 2" in (output / "log.txt.rank1").read_text()


@pytest.mark.slow
def test_two_processes_resume(trained_in_two, config, tmp_path):
    output = tmp_path / "resumed"
    shutil.copytree(trained_in_two[1], output)
    options = ("--config-file", config, *SPAWN, "--resume")
    options += ("SOLVER.MAX_ITER", 6, "OUTPUT_DIR", output)
    check_resumed_to_six(run_apart(*options), output)


@pytest.mark.slow
def test_torchrun_trains_and_resumes(config, tmp_path):
    options = ("--config-file", config, "OUTPUT_DIR", tmp_path)
    run = run_apart(*options, launcher=TORCHRUN)
    check_four_steps(run, tmp_path)
    assert "World size: 2" in (tmp_path / "log.txt.rank1").read_text()
    options = ("--resume", *options, "SOLVER.MAX_ITER", 6)
    run = run_apart(*options, launcher=TORCHRUN)
    check_resumed_to_six(run, tmp_path)


def test_training_stays_finite(overfit):
    run, output = overfit
    assert run.code == 0, run.output
    history = [line for line in metrics(output) if "total_loss" in line]
    assert history[-1]["iteration"] == 299
    for line in history:
        assert all(math.isfinite(v) for k, v in line.items() if k.startswith(("loss", "total")))
    # Half the first loss at least is learned, or the test would pass with a dead network.
    assert history[-1]["total_loss"] < history[0]["total_loss"] / 2
    tensors = read_checkpoint(output / "model_final.pth")["model"].values()
    assert all(tensor.isfinite().all() for tensor in tensors)


def test_processes_print_the_same_ap(overfit, config, tmp_path):
    run, output = overfit
    options = ["--config-file", config, "--eval-only", "OUTPUT_DIR", tmp_path]
    options += ["MODEL.WEIGHTS", output / "model_final.pth"]
    one = average_precisions(run_here(*options), tmp_path)
    assert float(one.split(",")[0]) > 1  # or equal would mean nothing
    assert one == average_precisions(run, output)
    two = run_apart(*options[:2], *SPAWN, *options[2:])
    assert (tmp_path / "log.txt.rank1").is_file()
    assert average_precisions(two, tmp_path) == one


def test_resume_evaluates_the_last_checkpoint(overfit, config):
    run, output = overfit
    before, log = average_precisions(run, output), (output / "log.txt").read_text()
    again = run_here("--config-file", config, "--eval-only", "--resume", "OUTPUT_DIR", output)
    assert average_precisions(again, output) == before
    assert "Start inference" in (output / "log.txt").read_text().removeprefix(log)


# Name of the case: options after the config file, what the message says. FILES are in folder {0}.
REFUSED = {
    "fusion": ("MODEL.YOLOV3.FUSION.NAME asf", ["MODEL.YOLOV3.FUSION.NAME", "'asf'", "none, sum"]),
    "detector": (
        "MODEL.META_ARCHITECTURE YOLOv4",
        ["MODEL.META_ARCHITECTURE", "'YOLOv4'", "YOLOv3", "RetinaNet"],
    ),
    "size": ("INPUT.TEST_SIZE 0", ["INPUT.TEST_SIZE", " 0,", "32 or 64"]),
    "classes": (
        "MODEL.YOLOV3.NUM_CLASSES 3",
        ["MODEL.YOLOV3.NUM_CLASSES is 3", "'shapes_val'", f"NUM_CLASSES to {len(CLASSES)}"],
    ),
    "batch": ("--num-gpus 3 SOLVER.IMS_PER_BATCH 4", ["SOLVER.IMS_PER_BATCH", "4", "Use 3."]),
    "no batch": ("SOLVER.IMS_PER_BATCH 0", ["SOLVER.IMS_PER_BATCH is 0", "Use 1."]),
    "reference batch": (
        "SOLVER.IMS_PER_BATCH 4 SOLVER.REFERENCE_WORLD_SIZE 3",
        ["SOLVER.IMS_PER_BATCH is 4", "3 processes", "Use 3."],
    ),
    "rates": (
        "SOLVER.BASE_LR 0.0001",
        ["SOLVER.BASE_LR_END is 0.001", "SOLVER.BASE_LR,", "0.0001"],
    ),
    "dtype": (
        "SOLVER.AMP.ENABLED True SOLVER.AMP.DTYPE half",
        ["SOLVER.AMP.DTYPE", "'half'", "bfloat16", "float16"],
    ),
    "early stopping": (
        "SOLVER.EARLY_STOPPING.PATIENCE 3 TEST.EVAL_PERIOD 5",
        ["EARLY_STOPPING.PATIENCE is 3", "TEST.BEST_METRIC"],
    ),
    "signals": ("SOLVER.SAVE_SIGNALS ('SIGKILL',)", ["SOLVER.SAVE_SIGNALS", "'SIGKILL'"]),
    "norm": ("MODEL.YOLOV3.NORM XBN", ["NORM 'XBN'", "BN, SyncBN"]),
    "an empty key": ("DATASETS.TRAIN None", ["DATASETS.TRAIN is empty"]),
    "dataset": ("DATASETS.TRAIN ('shapes_trian',)", ["DATASETS.TRAIN", "'shapes_trian'"]),
    "weights of another": (
        "MODEL.WEIGHTS {0}/other.pth",
        ["None of the 2 tensors", "MODEL.WEIGHTS", "fc.weight", "Use the config"],
    ),
    "no weights": ("MODEL.WEIGHTS {0}/absent.pth", ["MODEL.WEIGHTS", "absent.pth", "no such file"]),
    "damaged weights": ("MODEL.WEIGHTS {0}/damaged.pth", ["damaged.pth' cannot be read"]),
    "nothing to evaluate": ("--eval-only", ["--eval-only needs MODEL.WEIGHTS", "--resume"]),
    "nothing to resume": ("--eval-only --resume", ["--eval-only needs MODEL.WEIGHTS", "{0}/out"]),
    "int for float": (
        "SOLVER.WARMUP_EPOCHS 4",
        ["Command line", "SOLVER.WARMUP_EPOCHS is 4", "type of 0.0"],
    ),
    "odd options": ("SOLVER.BASE_LR", ["Command line", "SOLVER.BASE_LR"]),
    "no config": ("--config-file {0}/absent.yaml", ["absent.yaml", "no such file"]),
    "broken YAML": ("--config-file {0}/broken.yaml", ["broken.yaml", "not valid YAML", "line 2"]),
    "empty config": ("--config-file {0}/empty.yaml", ["empty.yaml", "no KEY: VALUE pairs"]),
    "unknown key": (
        "--config-file {0}/unknown.yaml",
        ["unknown.yaml", "'MODEL.YOLOV3.NUM_CLASES'", "Did you mean MODEL.YOLOV3.NUM_CLASSES?"],
    ),
    "wrong type": (
        "--config-file {0}/type.yaml",
        ["type.yaml", "TEST_SIZE is large", "type of 416"],
    ),
    "no keys below": (
        "--config-file {0}/below.yaml",
        ["below.yaml", "SOLVER is None", "keys of its own"],
    ),
    "python tag": ("--config-file {0}/tag.yaml", ["tag.yaml", "not valid YAML", "python/object"]),
    "no base": ("--config-file {0}/base.yaml", ["base.yaml", "absent.yaml"]),
}
FILES = {
    "damaged.pth": b"PK\x03\x04 this was cut off",
    "broken.yaml": b"MODEL:\n  YOLOV3: [1, 2\n",
    "empty.yaml": b"",
    "unknown.yaml": b"VERSION: 2\nMODEL:\n  YOLOV3:\n    NUM_CLASES: 3\n",
    "type.yaml": b"VERSION: 2\nINPUT:\n  TEST_SIZE: large\n",
    "below.yaml": b"VERSION: 2\nSOLVER:\n",
    "tag.yaml": b"SEED: !!python/object/apply:os.getpid []\n",
    "base.yaml": b"_BASE_: absent.yaml\n",
}


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("files")
    for name, content in FILES.items():
        (folder / name).write_bytes(content)
    torch.save({"fc.weight": torch.ones(2, 2), "fc.bias": torch.ones(2)}, folder / "other.pth")
    return folder


@pytest.mark.parametrize(("options", "parts"), REFUSED.values(), ids=REFUSED)
def test_refuses(config, files, monkeypatch, options, parts):
    def train(self):
        pytest.fail("training started")

    monkeypatch.setattr("asff.engine.Trainer.train", train)
    words = [word.format(files) for word in options.split()]
    # Of two --config-file the last one counts.
    run = run_here("--config-file", config, *words, "OUTPUT_DIR", files / "out")
    for part in parts:
        assert part.format(files) in run.error


@pytest.mark.slow
@pytest.mark.parametrize("launcher", [(), TORCHRUN], ids=["spawn", "torchrun"])
def test_processes_refuse_with_one_message(config, tmp_path, launcher):
    """What only building the model shows is found by every process."""
    options = ("--config-file", config, *(() if launcher else SPAWN))
    options += ("MODEL.YOLOV3.FUSION.NAME", "asf", "OUTPUT_DIR", tmp_path)
    run = run_apart(*options, launcher=launcher)
    if not launcher:
        assert "none, sum, concat, asff" in run.error
    else:  # torchrun adds a summary, and has an exit code of its own
        assert run.code == 1
    assert run.output.count("train_net.py: error: ") == 1
