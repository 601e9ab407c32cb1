"""The authors' checkpoints: to our names and back, whole or not at all."""

from __future__ import annotations

import os
import pickle
from argparse import Namespace
from pathlib import Path

import pytest
import torch

from asff.checkpoint.authors import VARIANTS, from_authors, key_map, to_authors
from asff.checkpoint.files import read_tensors
from tests.checkpoint.reference import recorded_shapes


def make_tensors(name: str) -> dict[str, torch.Tensor]:
    """Return a number for each key of a variant, under the authors' names."""
    return {key: torch.tensor([float(i)]) for i, key in enumerate(key_map(name))}


@pytest.mark.parametrize("name", VARIANTS)
def test_all_of_the_authors_keys_are_known(name, reference):
    keys = key_map(name)
    assert keys.keys() == recorded_shapes(reference, name).keys()
    assert len(set(keys.values())) == len(keys)


@pytest.mark.parametrize("name", VARIANTS)
def test_there_and_back(name):
    tensors = make_tensors(name)
    found, ours = from_authors(tensors)
    assert found == name and set(ours) == set(key_map(name).values())
    again, back = to_authors(ours)
    assert again == name and back.keys() == tensors.keys()
    assert all(back[key] is tensor for key, tensor in tensors.items())


def test_their_darknet_alone():
    """Its 52 convolutions with batch norm have 6 tensors each."""
    keys = {
        key: tensor
        for key, tensor in make_tensors("asff").items()
        if key.startswith("module_list.") and int(key.split(".")[1]) <= 10
    }
    name, ours = from_authors(keys)
    assert name == "darknet53" and len(ours) == 52 * 6
    assert all(key.startswith("backbone.bottom_up.") for key in ours)


def test_no_tensor_is_left_over():
    tensors = make_tensors("asff_star")
    del tensors["level_0_header.conv.bias"]
    tensors["ema.decay"] = torch.zeros(1)
    with pytest.raises(ValueError) as error:
        from_authors(tensors)
    for part in (
        "The 612 tensors are those of no known network",
        "'asff_star': 1 missing (level_0_header.conv.bias)",
        "1 unexpected (ema.decay)",
    ):
        assert part in str(error.value)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda x: x,
        lambda x: {"model": x, "optimizer": {"state": {}}, "epoch": 3},
        lambda x: {"state_dict": {f"module.{key}": value for key, value in x.items()}},
        lambda x: {key: value.half() for key, value in x.items()},
    ],
    ids=["plain", "with an optimizer", "of several GPUs", "half precision"],
)
def test_files_are_unwrapped(tmp_path: Path, wrap):
    tensors = {"a.weight": torch.tensor([0.5, 2.0]), "b": torch.tensor([3.0])}
    torch.save(wrap(tensors), tmp_path / "x.pth")
    found = read_tensors(tmp_path / "x.pth")
    assert found.keys() == tensors.keys()
    for key, tensor in tensors.items():
        assert found[key].dtype == torch.float32 and torch.equal(found[key], tensor)


class Exploit:
    def __reduce__(self):
        return os.mkdir, ("exploited",)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "there is no such file"),
        (b"", r"damaged, or not a file of torch's \(EOFError"),
        (b"hello", "damaged, or not a file of torch's"),
        (pickle.dumps(Exploit(), protocol=2), "needs posix"),
        ({}, "is empty"),
        ([1, 2], "no tensors by name, but a list"),
        ({"a": torch.zeros(1), "epoch": 3}, "more than tensors by name: 'epoch'"),
        ({"a": torch.zeros(1), 7: torch.zeros(1)}, "more than tensors by name: 7"),
        ({"model": Exploit()}, r"needs posix\.mkdir\. .* is refused, because it could run code"),
        (
            {"model": {"a": torch.zeros(1)}, "args": Namespace(lr=1)},
            r"needs argparse\.Namespace\. .* is refused",
        ),
    ],
)
def test_other_files_are_refused(tmp_path: Path, monkeypatch, content, message):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "x.pth"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        torch.save(content, path)
    with pytest.raises(ValueError, match=message) as error:
        read_tensors(path)
    assert str(path) in str(error.value)
    assert not (tmp_path / "exploited").exists()
