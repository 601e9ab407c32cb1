"""The checkpointer loads what fits, refuses the rest, and saves finite weights alone."""

from __future__ import annotations

import os
import pickle

import pytest
import torch
from torch import nn

from asff.checkpoint import Checkpointer


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
    with pytest.raises(ValueError, match=f"'{name}' cannot be read"):
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
