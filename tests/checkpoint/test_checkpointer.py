"""The checkpointer loads what fits, refuses the rest, and saves finite weights alone."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import time
from pathlib import Path

import pytest
import torch
from torch import nn

from asff.checkpoint import Checkpointer
from asff.checkpoint.checkpointer import read_iteration
from asff.checkpoint.files import is_whole
from asff.checkpoint.pickles import UnsafePickle


def make_model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))


def test_saves_and_loads(tmp_path):
    model, other = make_model(), make_model()
    nn.init.ones_(model[0].weight)
    Checkpointer(model, str(tmp_path)).save("model", iteration=7)
    rest = Checkpointer(other).load(str(tmp_path / "model.pth"))
    assert rest["iteration"] == 7
    assert other[0].weight.unique().tolist() == [1]


def test_loads_what_fits(tmp_path, caplog):
    """Fine-tuning: a head of another size is left as it was, with a warning."""
    weights = {**make_model().state_dict(), "0.weight": torch.ones(5, 3, 1, 1)}
    weights["1.bias"] = torch.full((4,), 3.0)
    torch.save(weights, tmp_path / "weights.pth")
    model = make_model()
    before = model[0].weight.detach().clone()
    Checkpointer(model).load(str(tmp_path / "weights.pth"))
    assert torch.equal(model[0].weight, before)
    assert model[1].bias.tolist() == [3] * 4
    assert "0.weight" in caplog.text


@pytest.mark.parametrize(
    "weights",
    [{"fc.weight": torch.ones(2, 2)}, {"0.weight": torch.ones(5, 3, 1, 1)}, {}],
    ids=["other names", "other shapes", "none"],
)
def test_refuses_what_does_not_fit_at_all(tmp_path, weights):
    torch.save({"model": weights}, tmp_path / "weights.pth")
    with pytest.raises(ValueError, match=f"None of the {len(weights)} tensors in MODEL.WEIGHTS"):
        Checkpointer(make_model()).load(str(tmp_path / "weights.pth"))


class Exploit:
    def __reduce__(self):
        return os.mkdir, ("exploited",)


@pytest.mark.parametrize(("key", "name"), [("model", "x.pth"), ("model_state", "x.pyth")])
def test_runs_no_code(tmp_path, monkeypatch, key, name):
    monkeypatch.chdir(tmp_path)
    torch.save({key: make_model().state_dict(), "more": Exploit()}, name)
    with pytest.raises(UnsafePickle, match=rf"^{name} needs \w+\.mkdir\. .* is refused"):
        Checkpointer(make_model()).load(name)
    assert not (tmp_path / "exploited").exists()
    pickle.loads(pickle.dumps(Exploit()))  # or nothing was tested
    assert (tmp_path / "exploited").exists()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_saves_nothing_broken(tmp_path, value):
    """A variance may overflow while the loss stays finite."""
    model = make_model()
    checkpointer = Checkpointer(model, str(tmp_path))
    checkpointer.save("good")
    model[1].running_var[2] = value
    with pytest.raises(FloatingPointError, match=r"bad\.pth was not saved.* 1\.running_var"):
        checkpointer.save("bad")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["good.pth", "last_checkpoint"]
    assert (tmp_path / "last_checkpoint").read_text() == "good.pth"


class State:
    """Stands for a trainer: it has an iteration and nothing else."""

    def __init__(self):
        self.iteration = -1

    def state_dict(self) -> dict:
        return {"iteration": self.iteration}

    def load_state_dict(self, state: dict) -> None:
        self.iteration = state["iteration"]


def make_checkpointer(folder: Path, width: int = 4) -> Checkpointer:
    model = nn.Sequential(nn.Conv2d(3, width, 1), nn.BatchNorm2d(width))
    return Checkpointer(model, str(folder), trainer=State())


def save(checkpointer: Checkpointer, iteration: int, name: str) -> None:
    checkpointer.checkpointables["trainer"].iteration = iteration
    checkpointer.save(name)


@pytest.fixture
def run(tmp_path) -> Path:
    """The folder of a run whose names and times do not tell the order of its checkpoints."""
    checkpointer = make_checkpointer(tmp_path)
    for iteration, name in [(4, "copy"), (3, "old"), (5, "newest")]:
        save(checkpointer, iteration, name)
    torch.save(make_model().state_dict(), tmp_path / "weights.pth")  # of no training
    return tmp_path


def resume(folder: Path) -> int:
    checkpointer = make_checkpointer(folder)
    checkpointer.resume_or_load("", resume=True)
    return checkpointer.checkpointables["trainer"].iteration


def truncate(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-50])


def flip(file: Path) -> None:
    """Change one bit of a batch norm, as a disk may."""
    content = bytearray(file.read_bytes())
    content[content.index(torch.ones(4).numpy().tobytes())] ^= 1
    file.write_bytes(content)


def garble(file: Path) -> None:
    """Let the zip's directory name a compression that does not exist."""
    content = bytearray(file.read_bytes())
    content[content.index(b"PK\x01\x02") + 10] = 99
    file.write_bytes(content)


def empty(file: Path) -> None:
    file.write_bytes(b"")


@pytest.mark.parametrize("damage", [truncate, flip, garble, empty, Path.unlink])
def test_resumes_from_the_newest_whole_checkpoint(run, caplog, damage):
    assert resume(run) == 5 and "whole" not in caplog.text
    damage(run / "newest.pth")
    assert resume(run) == 4
    (warning,) = (x.message for x in caplog.records if "whole" in x.message)
    assert f"{run}/last_checkpoint names 'newest.pth', which is " in warning
    assert f"resuming from {run}/copy.pth" in warning
    damage(run / "copy.pth")
    assert resume(run) == 3


@pytest.mark.parametrize(
    ("damage", "problem"), [(Path.unlink, "There is no "), (empty, "which is not there")]
)
def test_resumes_without_last_checkpoint(run, caplog, damage, problem):
    damage(run / "last_checkpoint")
    assert resume(run) == 5
    assert problem in caplog.text and f"resuming from {run}/newest.pth" in caplog.text


def test_starts_where_nothing_can_be_resumed(tmp_path, caplog):
    """A requeued job has the same command line as its first start."""
    assert resume(tmp_path) == -1 and not caplog.records
    torch.save(make_model().state_dict(), tmp_path / "weights.pth")
    assert resume(tmp_path) == -1 and f"nothing to resume from in {tmp_path}" in caplog.text


def test_refuses_to_start_anew_in_place_of_a_damaged_run(run):
    for file in run.glob("*.pth"):
        truncate(file)
    with pytest.raises(ValueError, match="'newest.pth', which is damaged, and no other"):
        resume(run)


def test_refuses_to_resume_another_model(run):
    checkpointer = make_checkpointer(run, width=5)
    with pytest.raises(ValueError, match=r"newest\.pth is of another model: .*0\.bias \(4,\)"):
        checkpointer.resume_or_load("", resume=True)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
@pytest.mark.parametrize("width", [4, 40000], ids=["while flushing", "while saving"])
def test_full_disk(tmp_path, width):
    """The older checkpoint has the same name."""
    checkpointer = make_checkpointer(tmp_path, width)
    save(checkpointer, 1, "model")
    (tmp_path / "checkpoint.partial").symlink_to("/dev/full")
    with pytest.raises(OSError, match=r"/model\.pth could not be written: No space left on device"):
        save(checkpointer, 2, "model")
    assert sorted(os.listdir(tmp_path)) == ["last_checkpoint", "model.pth"]
    assert read_iteration(tmp_path / "model.pth") == 1


def save_for_ever(folder: Path) -> None:
    model = nn.Linear(500, 500)
    while True:
        Checkpointer(model, str(folder)).save("model")


def test_kills_leave_a_whole_checkpoint(tmp_path):
    context = multiprocessing.get_context("fork")
    for kill in range(20):
        process = context.Process(target=save_for_ever, args=(tmp_path,))
        process.start()
        while not (tmp_path / "last_checkpoint").exists():
            time.sleep(0.001)
        time.sleep(0.003 * kill)
        process.kill()
        process.join()
        assert is_whole(tmp_path / "model.pth")
        assert (tmp_path / "last_checkpoint").read_text() == "model.pth"
        assert len(os.listdir(tmp_path)) <= 3  # and perhaps one partial file
