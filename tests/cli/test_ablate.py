"""`asff ablate`: the runs it starts, the records it keeps, and what it refuses."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from asff.ablation import costs, processes
from asff.checkpoint.metadata import package_version
from tests.training import CONFIG, ROOT, run_asff

# Replaces `asff train`, without seconds of imports. Its behaviour follows from its config's name.
STUB = """
import json, os, pathlib, subprocess, sys, time
options = sys.argv[1:]
assert options[:2] == ["--resume", "--config-file"], options
config = pathlib.Path(options[2])
keys = dict(zip(options[3::2], options[4::2]))
folder, seed = pathlib.Path(keys["OUTPUT_DIR"]), int(keys["SEED"])
folder.mkdir(parents=True, exist_ok=True)
with open("started.txt", "a") as file:
    print(config.stem, seed, os.environ["OMP_NUM_THREADS"], file=file)
if config.stem == "fails":
    print(*(f"line {i}" for i in range(40)), sep="\\n")
    sys.exit(3)
if config.stem == "waits":
    subprocess.run(["sleep", "300"])
metrics = {"bbox/AP": 10.0 * seed + len(config.stem), "bbox/AP50": 50.0, "bbox/APs": float("nan")}
iteration = 2 if config.stem == "early" else 4
lines = [{"iteration": 1, "time": 0.25}, {"iteration": 3, "time": 0.5, "eta_seconds": 0.0}]
lines.append({"iteration": iteration, **({} if config.stem == "blind" else metrics)})
with (folder / "metrics.json").open("a") as file:
    print(*map(json.dumps, lines), sep="\\n", file=file)
"""


@pytest.fixture
def folder(
    tmp_path: Path, config: Path, monkeypatch: pytest.MonkeyPatch, clean_loggers: None
) -> Iterator[Path]:
    """A working directory with configs named after their behaviour, and a stub of the training."""
    (tmp_path / "train.py").write_text(STUB)
    for name in ("one", "three", "fails", "waits", "early", "blind"):
        (tmp_path / f"{name}.yaml").write_text(f'_BASE_: "{config}"\n')
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(processes, "TRAIN", (sys.executable, str(tmp_path / "train.py")))
    monkeypatch.setattr(processes, "POLL_SECONDS", 0.02)
    monkeypatch.setattr(costs, "measure_costs", lambda grid: pytest.fail("costs are not asked"))
    (tmp_path / "results").mkdir()
    handlers = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)]
    yield tmp_path
    for number, handler in zip((signal.SIGTERM, signal.SIGHUP), handlers):
        signal.signal(number, handler)


@pytest.fixture
def free(monkeypatch: pytest.MonkeyPatch) -> None:
    """Costs are known without measuring."""
    monkeypatch.setattr(costs, "update_costs", lambda *args, **kwargs: None)


def run(*args: object) -> str:
    return run_asff("ablate", *args).output


def error(*args: object) -> str:
    return run_asff("ablate", *args).error


def started(folder: Path) -> list[str]:
    """Return config, seed and threads of the runs since the last call, in order."""
    file = folder / "started.txt"
    lines = file.read_text().splitlines() if file.is_file() else []
    file.unlink(missing_ok=True)
    return lines


def record(name: str) -> dict:
    return json.loads(Path("results", "runs", f"{name}.json").read_text())


def rows(folder: str) -> list[dict]:
    return json.loads(Path(folder, "table.json").read_text())["rows"]


def page() -> str:
    """Return the page of results with single spaces."""
    return re.sub(" +", " ", Path("results/table.md").read_text())


def grid(*configs: str, seeds: tuple = (1,)) -> tuple:
    files = [f"{config}.yaml" for config in configs]
    return ("results", "--config-files", *files, "--seeds", *seeds)


def test_a_grid_runs_seed_by_seed_and_goes_on(folder, free):
    first = run(*grid("three", "one", seeds=(2, 1)), "--threads", 2, "SOLVER.MAX_ITER", 4)
    assert started(folder) == ["three 2 2", "one 2 2", "three 1 2", "one 1 2"]
    assert "three_seed2: AP 25.0, AP50 50.0" in first
    kept = record("three_seed2")
    assert kept["config_file"] == "three.yaml" and kept["seed"] == 2
    assert kept["opts"] == ["SOLVER.MAX_ITER", "4"]
    assert kept["settings"]["SOLVER.BASE_LR"] == 0.01  # from the config's base
    assert not {"SEED", "OUTPUT_DIR"} & set(kept["settings"])
    # COCO's AP of what is not there is no number, nor is JSON's NaN.
    assert kept["metrics"] == {"AP": 25.0, "AP50": 50.0, "APs": None}
    # Two steps of 0.25 s, two of 0.5 s.
    assert kept["training_seconds"] == 1.5 and kept["iterations"] == 4
    assert (kept["threads"], kept["jobs"]) == (2, 1)
    assert kept["hardware"].endswith(f", torch {torch.__version__}")
    assert kept["asff_version"] == package_version()

    # Another seed and another config; what is finished needs no output.
    for file in (folder / "output").rglob("*.*"):
        file.unlink()
    opts = ("SOLVER.MAX_ITER", 4)
    run(*grid("one", "early", seeds=(1, 3)), *opts)
    assert started(folder) == ["early 1 1", "one 3 1", "early 3 1"]
    asked = json.loads(Path("results/grid.json").read_text())
    assert asked["config_files"] == ["three.yaml", "one.yaml", "early.yaml"]
    assert asked["seeds"] == [2, 1, 3]

    # The page is made of the JSON alone.
    for name in ("table.md", "table.json", "plot.png"):
        Path("results", name).unlink()
    printed = run("results")
    assert Path("results/table.md").read_text() in printed and started(folder) == []
    assert "| 2 of 3 |" in page() and "--seeds 2 1 3" in page()
    assert Path("results/plot.png").stat().st_size < 100_000


def test_a_row_is_reproduced_by_its_command(folder, free):
    run(*grid("three", "one", seeds=(1, 2)))
    (command,) = (x for x in page().splitlines() if "results_again --config-files one.yaml" in x)
    started(folder)
    run(*shlex.split(command)[2:])
    assert started(folder) == ["one 1 1", "one 2 1"]
    three, one = rows("results")
    (again,) = rows("output/results_again")
    assert again["AP"] == one["AP"] != three["AP"]


def test_a_failed_run_is_named_and_the_others_go_on(folder):
    printed = run(*grid("fails", "one", seeds=(1, 2)))
    assert started(folder) == ["fails 1 1", "one 1 1", "fails 2 1", "one 2 1"]
    log = Path("output", "ablations", "results", "fails_seed1.log")
    assert f"fails_seed1 failed: exit code 3\nThe end of {log}:\n    line 25\n" in printed
    assert "line 24" not in printed and "    line 39\n" in printed
    assert "asff ablate: error: these runs failed: fails_seed1, fails_seed2" in printed
    assert "| 0 of 2 |" in page()
    assert {x.stem for x in Path("results/runs").iterdir()} == {"one_seed1", "one_seed2"}
    # It is tried again, and its log goes on.
    run(*grid("fails", "one"))
    assert started(folder) == ["fails 1 1"]
    assert log.read_text().count("line 39") == 2


@pytest.mark.parametrize("name", ["early", "blind"])
def test_a_run_without_a_last_evaluation_has_failed(name, folder):
    """Its last AP is of an earlier iteration, or it has none without ground truth."""
    printed = run(*grid(name))
    metrics = Path("output", "ablations", "results", f"{name}_seed1", "metrics.json")
    assert f"{metrics} does not end with a bbox/AP after iteration 4:" in printed
    assert f"these runs failed: {name}_seed1" in printed


@pytest.mark.parametrize("resumed", [False, True])
def test_metrics_of_an_attempt_that_stopped(resumed, folder, free):
    """Without a checkpoint they do not count; repeated and half written lines never do."""
    output = Path("output", "ablations", "results", "one_seed1")
    output.mkdir(parents=True)
    if resumed:
        run(*grid("one"))
        Path("results/runs/one_seed1.json").unlink()
        (output / "last_checkpoint").write_text("model_0000001.pth")
    line = json.dumps({"iteration": 3 if resumed else 99, "time": 100.0})
    (output / "metrics.json").write_text(f'{line}\n{{"iterat\n')
    run(*grid("one"))
    assert record("one_seed1")["training_seconds"] == 1.5


def children(folder: Path) -> list[str]:
    """Commands of processes that were started in this folder."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if process.name != str(os.getpid()) and os.readlink(process / "cwd") == str(folder):
                found.append((process / "cmdline").read_text())
        except OSError:  # it has ended, or is not ours
            continue
    return found


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="needs Linux's /proc")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_stop_the_runs(number, folder):
    def wait_for(count: int) -> bool:
        """Wait half a minute for so many children of runs; return whether there are."""
        deadline = time.monotonic() + 30
        while sum("sleep" in command for command in children(folder)) != count:
            if time.monotonic() > deadline:
                return False
            time.sleep(0.05)
        return True

    begun = []

    def stop() -> None:
        begun.append(wait_for(2))
        os.kill(os.getpid(), number)

    # Where tests run in the background, the shell has switched Ctrl-C off for them.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    thread = threading.Thread(target=stop)
    thread.start()
    printed = run(*grid("waits", seeds=(1, 2, 3)), "--jobs", 2)
    thread.join()
    signal.signal(signal.SIGINT, before)
    assert begun == [True] and len(started(folder)) == 2
    assert "asff ablate: stopped, with all its runs." in printed
    # The system may take a moment to clear away what has been killed.
    assert wait_for(0) and children(folder) == []


def test_a_config_that_has_changed_is_refused(folder, free, config):
    run(*grid("one", seeds=(1, 2)))
    Path("one.yaml").write_text(f'_BASE_: "{config}"\nSOLVER:\n  BASE_LR: 0.5\n')
    message = error(*grid("one", seeds=(3,)))
    assert str(Path("results", "runs", "one_seed1.json")) in message
    assert "SOLVER.BASE_LR is 0.01 there and 0.5 in one.yaml" in message
    # Also where there is a checkpoint that would be resumed. A mere try is no obstacle.
    Path("results/runs/one_seed1.json").unlink()
    Path("results/runs/one_seed2.json").unlink()
    last = Path("output/ablations/results/one_seed2/last_checkpoint")
    last.write_text("model_0000001.pth")
    assert str(last.with_name("run.json")) in error(*grid("one"))
    last.unlink()
    run(*grid("one"))
    assert record("one_seed1")["settings"]["SOLVER.BASE_LR"] == 0.5


def test_a_folder_of_the_same_name_does_not_take_the_other_ones_runs(folder, free):
    """It would write old results down as new ones."""
    run(*grid("one"))
    Path("output/ablations/results/one_seed1/last_checkpoint").write_text("model_final.pth")
    _, *options = grid("one")
    message = error("again/results", *options)
    assert f"is of a run for {folder / 'results'}" in message
    assert "Give again/results another last name" in message


def test_other_overrides_are_refused(folder, free):
    run(*grid("one"), "SOLVER.MAX_ITER", 4)
    message = error(*grid("one", seeds=(2,)), "SOLVER.BASE_LR", 0.02)
    assert "'SOLVER.BASE_LR 0.02'" in message and "'SOLVER.MAX_ITER 4'" in message
    # Without the file of the grid the runs themselves tell.
    Path("results/grid.json").unlink()
    message = error(*grid("one"), "SOLVER.BASE_LR", 0.02)
    assert "one_seed1.json is of a run with other settings: SOLVER.BASE_LR is 0.01" in message
    assert "0.02 in one.yaml with 'SOLVER.BASE_LR 0.02'" in message
    assert started(folder) == ["one 1 1"]


@pytest.mark.parametrize(
    "options, message",
    [
        ((*grid("nowhere"),), "--config-file nowhere.yaml: there is no such file."),
        ((*grid("one"), "SEED", 3), "set SEED, which each run sets"),
        ((*grid("one"), "DATASETS.TEST", "()"), "one.yaml: DATASETS.TEST is ();"),
        ((*grid("one", "sub/one"),), "one.yaml and sub/one.yaml have the same name"),
        (("nowhere",), "There is no nowhere/grid.json: name --config-files and --seeds"),
        (("results", "--config-files", "one.yaml"), "--config-files and --seeds belong together"),
        (("results", "SOLVER.MAX_ITER", 3), "'SOLVER.MAX_ITER 3' needs --config-files"),
        ((*grid("one", seeds=(-1,)),), "argument --seeds: -1 is not a whole number of at least 0"),
        ((*grid("one"), "--jobs", 0), "argument --jobs: 0 is not a whole number of at least 1"),
    ],
    ids=lambda x: x if isinstance(x, str) else "",
)
def test_refusals(options, message, folder):
    assert message in error(*options)
    assert started(folder) == [] and not Path("results/grid.json").exists()


@pytest.mark.parametrize(
    "file, content, message",
    [
        ("grid.json", "[]", "grid.json lacks config_files, seeds, opts, jobs, threads: restore"),
        ("runs/one_seed1.json", "", "one_seed1.json cannot be read (Expecting value"),
        ("runs/one_seed1.json", '{"seed": 1}', "one_seed1.json lacks config_file, metrics"),
        ("runs/x.json", {"seed": 7}, "x.json is of one.yaml with seed 7, which are not in"),
        ("costs.json", "{}", "costs.json lacks configs, hardware, threads, rounds, date"),
    ],
)
def test_damaged_files_are_named(file, content, message, folder, free):
    run(*grid("one"))
    if isinstance(content, dict):  # of another grid
        content = json.dumps({**record("one_seed1"), **content})
    Path("results", file).write_text(content)
    assert message in error("results")


def test_costs_are_measured_once(folder, monkeypatch):
    measured = []

    def measure(grid: object) -> dict:
        measured.append(grid.config_files)
        facts = {"hardware": "a machine", "threads": 1, "rounds": 9, "date": "today"}
        return {"configs": {file: {"parameters": 2e6} for file in grid.config_files}, **facts}

    monkeypatch.setattr(costs, "measure_costs", measure)
    run(*grid("one"))
    run(*grid("one", seeds=(2,)))
    run("results")
    assert measured == [["one.yaml"]] and "| 2.00 |" in page()
    run(*grid("three"))  # of which nothing is known, and latency is measured side by side
    assert measured[1:] == [["one.yaml", "three.yaml"]]
    run("results", "--costs")
    assert len(measured) == 3


@pytest.mark.slow
def test_real_trainings(tmp_path: Path, datasets: Path):
    """Two configs and two seeds."""
    for fusion in ("none", "asff"):
        text = CONFIG.replace("  YOLOV3:\n", f"  YOLOV3:\n    FUSION:\n      NAME: {fusion}\n")
        (tmp_path / f"{fusion}.yaml").write_text(text)
    options = [*grid("none", "asff", seeds=(1, 2)), "--jobs", "2"]
    options += ["SOLVER.MAX_ITER", "2"]
    env = {**os.environ, "PYTHONPATH": str(ROOT / "projects" / "ASFF"), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "asff", "ablate", *map(str, options)]
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    none, asff = rows(str(tmp_path / "results"))
    assert none["seeds"] == asff["seeds"] == [1, 2]
    assert none["parameters"] < asff["parameters"]
    assert none["multiply_adds"] < asff["multiply_adds"]
    assert none["latency_ratio"] == 1.0 and asff["latency_ratio"] > 0
    assert none["image"] == [64, 64]
    assert len(list((tmp_path / "results" / "runs").iterdir())) == 4
