"""A training that a signal ends goes on, to the bit, where it was."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

from asff.engine import train_step
from asff.engine.preemption import catch_signals, signal_numbers
from tests.training import ROOT, check_same_weights, run_here

pytestmark = pytest.mark.usefixtures("one_thread", "clean_loggers")

OPTIONS = ("SOLVER.MAX_ITER", 24, "DATASETS.TEST", (), "INPUT.MIXUP.PROB", "0.5")
TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")


@pytest.fixture(scope="module")
def whole(config, tmp_path_factory) -> Path:
    """The folder of a training without interruption."""
    output = tmp_path_factory.mktemp("whole")
    run = run_here("--config-file", config, *OPTIONS, "OUTPUT_DIR", output)
    assert run.code == 0, run.output
    return output


@pytest.mark.parametrize(("name", "code"), [("SIGTERM", 75), ("SIGUSR1", 75), ("SIGINT", 130)])
def test_signal_saves_after_its_step(config, whole, tmp_path, monkeypatch, name, code):
    """The last checkpoint is from before it, and an evaluation does not come in between."""
    number, seed_layers = signal.Signals[name], train_step._seed_layers

    def raise_signal(seed: int, iteration: int, rank: int) -> None:
        seed_layers(seed, iteration, rank)
        if iteration == 6 and not (tmp_path / "model_0000006.pth").exists():
            signal.raise_signal(number)

    monkeypatch.setattr(train_step, "_seed_layers", raise_signal)
    before = signal.getsignal(number)
    options = ("--config-file", config, "--resume", *OPTIONS, "SOLVER.CHECKPOINT_PERIOD", 4)
    run = run_here(*options, "TEST.EVAL_PERIOD", 7, "OUTPUT_DIR", tmp_path)
    assert run.code == code, run.output
    assert f"{name}: the training ends after iteration 6 with exit code {code}." in run.output
    assert "Traceback" not in run.output
    assert (tmp_path / "last_checkpoint").read_text() == "model_0000006.pth"
    assert signal.getsignal(number) == before
    run = run_here(*options, "OUTPUT_DIR", tmp_path)
    assert run.code == 0 and "Resuming from iteration 7" in run.output
    check_same_weights(tmp_path, whole)


def test_signal_in_the_last_step_lets_the_training_end(config, tmp_path, monkeypatch):
    monkeypatch.setattr(train_step, "_seed_layers", lambda *_: signal.raise_signal(signal.SIGTERM))
    run = run_here("--config-file", config, "SOLVER.MAX_ITER", 1, "OUTPUT_DIR", tmp_path)
    assert run.code == 0, run.output
    assert (tmp_path / "model_final.pth").exists()
    assert "Start inference" in (tmp_path / "log.txt").read_text()


def start(launcher: tuple, *options: object) -> subprocess.Popen:
    command = [sys.executable, *launcher, str(ROOT / "train_net.py"), *map(str, options)]
    return subprocess.Popen(
        command,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


@pytest.fixture(scope="module")
def whole_of(config, tmp_path_factory) -> Callable[[tuple, tuple], Path]:
    """Train without interruption in as many processes."""

    @cache
    def train(launcher: tuple, options: tuple) -> Path:
        output = tmp_path_factory.mktemp("whole")
        process = start(launcher, *options, "OUTPUT_DIR", output)
        printed, _ = process.communicate(timeout=120)
        assert process.returncode == 0, printed
        return output

    return train


@pytest.mark.slow
@pytest.mark.parametrize(
    ("launcher", "processes", "number", "to"),
    [
        ((), 1, signal.SIGTERM, "group"),
        ((), 2, signal.SIGTERM, "launcher"),
        ((), 2, signal.SIGINT, "group"),
        (TORCHRUN, 1, signal.SIGTERM, "launcher"),
    ],
)
def test_signal_at_any_moment(config, whole_of, tmp_path, launcher, processes, number, to):
    """To the process that was started or, as from a terminal, to all of the job; with workers."""
    options = ("--num-gpus", processes, "--dist-url", "auto", "--resume", "--config-file", config)
    options += (*OPTIONS, "SOLVER.MAX_ITER", 60, "DATALOADER.NUM_WORKERS", 2)
    process = start(launcher, *options, "OUTPUT_DIR", tmp_path)
    try:
        metrics = tmp_path / "metrics.json"
        while not (metrics.exists() and metrics.stat().st_size):  # 20 steps
            time.sleep(0.05)
        time.sleep(random.uniform(0, 0.5))
        (os.kill if to == "launcher" else os.killpg)(process.pid, number)
        output, _ = process.communicate(timeout=60)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    # torchrun has a code, and a traceback, of its own.
    expected = 1 if launcher else 130 if number == signal.SIGINT else 75
    assert process.returncode == expected, output
    assert "the training ends after iteration" in output
    process = start(launcher, *options, "OUTPUT_DIR", tmp_path)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 0, output
    check_same_weights(tmp_path, whole_of(launcher, options))


def test_second_ctrl_c_interrupts(monkeypatch):
    now = iter([5.0, 5.5, 6.5])  # the second is an echo of the first, by the launcher
    monkeypatch.setattr(time, "monotonic", lambda: next(now))
    with pytest.raises(KeyboardInterrupt), catch_signals(["SIGTERM"]) as received:
        for _ in range(3):
            signal.raise_signal(signal.SIGINT)
    assert received == {signal.SIGINT: 5.0} and next(now, None) is None


def test_ignored_signals_stay_ignored():
    """As nohup sets SIGHUP."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with catch_signals(["SIGHUP"]) as received:
            signal.raise_signal(signal.SIGHUP)
        assert not received and signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize("name", ["SIGKILL", "USR1"])
def test_refuses_what_cannot_be_caught(name):
    with pytest.raises(ValueError, match=f"SOLVER.SAVE_SIGNALS has '{name}'.* SIGTERM"):
        signal_numbers(["SIGTERM", name])
