"""Which processes a job has, and what each gets of the machine."""

from __future__ import annotations

import os

import pytest
import torch

from asff.engine import argument_parser, user_errors
from asff.engine.launch import num_processes, under_torchrun, worker
from tests.helpers import detector_cfg

TORCHRUN = {"LOCAL_RANK": "1", "RANK": "3", "WORLD_SIZE": "4", "LOCAL_WORLD_SIZE": "2"}


@pytest.fixture(autouse=True)
def no_launcher(monkeypatch):
    for name in TORCHRUN:
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(
    ("options", "processes"),
    [
        ([], 1),
        (["--num-gpus", "0"], 1),
        (["--num-gpus", "3"], 3),
        (["--num-gpus", "4", "--num-machines", "2"], 8),
        (["--num-gpus", "0", "--num-machines", "2"], 2),
    ],
)
def test_processes_of_the_command_line(options, processes):
    assert num_processes(argument_parser().parse_args(options)) == processes


def test_torchrun_decides(monkeypatch):
    args = argument_parser().parse_args(["--num-gpus", "8"])
    # SLURM and others set WORLD_SIZE alone.
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert not under_torchrun() and num_processes(args) == 8
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert under_torchrun() and num_processes(args) == 4


@pytest.mark.parametrize(
    ("device", "processes", "threads"),
    [("cpu", 2, 3), ("cpu", 4, 1), ("cpu", 16, 1), ("cpu", 1, None), ("cuda", 2, None)],
)
def test_processes_share_the_cores(monkeypatch, device, processes, threads):
    """Of 7 cores; None: torch's own choice stays."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(7)), raising=False)
    chosen = []
    monkeypatch.setattr(torch, "set_num_threads", chosen.append)
    cfg = detector_cfg("MODEL.DEVICE", device)
    assert worker(lambda *args: args, cfg, None, processes) == (cfg, None)
    assert chosen == ([] if threads is None else [threads])


def test_user_errors_end_the_process_with_the_message(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["folder/train_net.py", "--flag"])
    with pytest.raises(SystemExit) as end, user_errors():
        raise ValueError("INPUT.TRAIN_SIZE is 7.")
    assert end.value.code == 2
    assert capsys.readouterr() == ("", "train_net.py: error: INPUT.TRAIN_SIZE is 7.\n")


def test_other_errors_keep_their_traceback():
    with pytest.raises(KeyError), user_errors():
        raise KeyError("a mistake of ours")


def test_rank_0_speaks_first(monkeypatch):
    waits = []
    monkeypatch.setattr("time.sleep", waits.append)
    for rank in "01":
        monkeypatch.setenv("RANK", rank)
        with pytest.raises(SystemExit), user_errors():
            raise ValueError
    assert len(waits) == 1 and waits[0] > 1
