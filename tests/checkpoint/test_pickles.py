"""Files .pkl: arrays are read, whoever wrote them; whatever could run code is refused."""

from __future__ import annotations

import os
import pickle
import struct
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.config import get_cfg
from detectron2.layers import ShapeSpec
from detectron2.modeling.backbone import build_resnet_backbone
from torch import nn

from asff.checkpoint import Checkpointer
from asff.checkpoint.pickles import UnsafePickle, read_pickle

ARRAYS = {
    "floats": np.arange(6, dtype=np.float32).reshape(2, 3),
    "transposed": np.arange(6, dtype=np.float64).reshape(2, 3).T,
    "permuted": np.arange(24, dtype=np.float32).reshape(2, 3, 4).transpose(1, 0, 2),
    "halves": np.array([0.5, -2], dtype=np.float16),
    "counter": np.array(7, dtype=np.int64),
    "bytes": np.array([0, 127, 128, 255], dtype=np.uint8),
    "flags": np.array([True, False]),
    "empty": np.zeros((0, 4), dtype=np.float32),
    "big endian": np.array([1, 2], dtype=">i4"),
}


class Python2Pickler(pickle._Pickler):
    """Pickler of strings and bytes as Python 2 wrote its ``str``."""

    def save_text(self, text: str | bytes) -> None:
        data = text.encode("latin1") if isinstance(text, str) else text
        self.write(pickle.BINSTRING + struct.pack("<i", len(data)) + data)
        self.memoize(text)

    dispatch = {**pickle._Pickler.dispatch, str: save_text, bytes: save_text}


def write_python2(content: object, path: Path) -> None:
    with open(path, "wb") as file:
        Python2Pickler(file, protocol=2).dump(content)
    path.write_bytes(path.read_bytes().replace(b"cnumpy._core", b"cnumpy.core"))


def write(content: object, path: Path, protocol: int) -> None:
    path.write_bytes(pickle.dumps(content, protocol=protocol))


def assert_equal_arrays(found: dict, wanted: dict) -> None:
    assert list(found) == list(wanted)
    for key, array in wanted.items():
        assert found[key].dtype.newbyteorder("=") == array.dtype.newbyteorder("="), key
        assert found[key].shape == array.shape and found[key].tolist() == array.tolist(), key


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_reads_what_python_3_wrote(tmp_path, protocol):
    rest = {
        "scalar": np.float32(1.5),
        "nested": OrderedDict(a=[1, 2.5, None, True], b=("text", b"", b"\xff\x00")),
    }
    write({"arrays": ARRAYS, **rest}, tmp_path / "x.pkl", protocol)
    content = read_pickle(tmp_path / "x.pkl")
    assert_equal_arrays(content.pop("arrays"), ARRAYS)
    assert content == rest
    assert type(content["scalar"]) is np.float32 and type(content["nested"]) is OrderedDict


def test_reads_what_python_2_wrote(tmp_path):
    path = tmp_path / "x.pkl"
    write_python2({"arrays": ARRAYS, "author": "Röntgen", "scalar": np.float64(0.1)}, path)
    with pytest.raises(UnicodeDecodeError):  # as Python 2 wrote it, or nothing was tested
        pickle.loads(path.read_bytes())
    content = read_pickle(path)
    assert_equal_arrays(content["arrays"], ARRAYS)
    assert content["author"] == "Röntgen" and content["scalar"] == 0.1


class Pickled:
    """Pickled, it is what ``__reduce__`` returns: a function, arguments, and perhaps a state."""

    def __init__(self, *reduced: object):
        self.reduced = reduced

    def __reduce__(self) -> tuple:
        return self.reduced


def make_model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_runs_no_code(tmp_path, monkeypatch, protocol):
    call, wanted = Pickled(os.system, ("mkdir ran",)), f"{os.name}.system"
    monkeypatch.chdir(tmp_path)
    weights = {"0.weight": np.ones((4, 3, 1, 1), np.float32)}
    path = tmp_path / "evil.pkl"
    write({"model": weights, "__author__": call}, path, protocol)
    with pytest.raises(ValueError, match=rf"'{path}' needs \S*{wanted}, which is refused"):
        Checkpointer(make_model()).load(str(path))
    assert not (tmp_path / "ran").exists()
    pickle.loads(path.read_bytes())  # or nothing was tested
    assert (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    "wanted", [getattr, set, Path("x"), torch.ones(1), np.dtypes.Float32DType], ids=str
)
def test_refuses_whatever_else(tmp_path, wanted):
    write({"weight": np.ones(2), "more": wanted}, tmp_path / "x.pkl", 4)
    with pytest.raises(UnsafePickle, match=r"x\.pkl' needs .* may hold numpy arrays in plain"):
        read_pickle(tmp_path / "x.pkl")


BYTES = struct.pack("<d", 2.5)
WITH_OBJECTS = 63  # numpy's flags of a type whose elements are pointers


def array_of(*type_of_numbers: object) -> Pickled:
    """An array of one 8-byte element whose type is pickled in this way."""
    rebuild, arguments, _ = np.zeros(1).__reduce__()
    return Pickled(rebuild, arguments, (1, (1,), Pickled(np.dtype, *type_of_numbers), False, BYTES))


def test_types_cannot_be_forged(tmp_path):
    """Without its flag numpy takes bytes of the file for a pointer, and follows it."""
    path = tmp_path / "x.pkl"
    write(array_of(("O8", False, True), (3, "|", None, None, None, -1, -1, 0)), path, 2)
    with pytest.raises(TypeError, match="an array of object, not of numbers"):
        read_pickle(path)
    write(array_of(("f8", False, True), (3, "<", None, None, None, -1, -1, WITH_OBJECTS)), path, 2)
    array = read_pickle(path)
    assert array.tolist() == [2.5] and not array.dtype.hasobject
    # A field 1000 bytes after the start of 8.
    fields = {"a": (np.dtype("f8"), 1000)}
    write(array_of(("V8", False, True), (4, "|", None, ("a",), fields, 8, 1, 0)), path, 2)
    with pytest.raises(TypeError, match="not of numbers"):
        read_pickle(path)


WRITERS = {
    "Python 2": write_python2,
    "protocol 2": lambda content, path: write(content, path, 2),
    "protocol 4": lambda content, path: write(content, path, 4),
}


@pytest.fixture(params=WRITERS)
def writer(request: pytest.FixtureRequest) -> Callable[[object, Path], None]:
    return WRITERS[request.param]


def test_loads_detectron2s_model_zoo(tmp_path, writer):
    """Its files are what Detectron2 saved, the tensors as arrays."""
    wanted = {key: torch.rand_like(x.float()) for key, x in make_model().state_dict().items()}
    wanted["1.num_batches_tracked"] = torch.tensor(3)
    arrays = {key: x.numpy() for key, x in wanted.items()}
    writer({"model": arrays, "__author__": "Detectron2"}, tmp_path / "model.pkl")
    model = make_model()
    rest = Checkpointer(model).load(str(tmp_path / "model.pkl"))
    assert rest == {"__author__": "Detectron2"}
    for key, x in model.state_dict().items():
        assert torch.equal(x, wanted[key]), key


CAFFE2 = {
    "conv1_w": "stem.conv1.weight",
    "res_conv1_bn_s": "stem.conv1.norm.weight",
    "res_conv1_bn_b": "stem.conv1.norm.bias",
    "res2_0_branch2a_w": "res2.0.conv1.weight",
    "res2_0_branch2a_bn_s": "res2.0.conv1.norm.weight",
    "res2_1_branch2b_w": "res2.1.conv2.weight",
}


@pytest.mark.parametrize("wrapped", [False, True], ids=["MSRA", "Detectron"])
def test_loads_caffe2s_names(tmp_path, writer, wrapped):
    """As of MSRA/R-50.pkl; Detectron's detectors have theirs under "blobs"."""
    cfg = get_cfg()
    cfg.MODEL.RESNETS.DEPTH = 18
    cfg.MODEL.RESNETS.RES2_OUT_CHANNELS = 64
    cfg.MODEL.RESNETS.OUT_FEATURES = ["res2"]
    model = build_resnet_backbone(cfg, ShapeSpec(channels=3))
    shapes = {key: x.shape for key, x in model.state_dict().items()}
    arrays = {key: torch.rand(shapes[ours]).numpy() for key, ours in CAFFE2.items()}
    content = {**arrays, "conv1_w_momentum": np.ones(3, np.float32)}
    writer({"blobs": content} if wrapped else content, tmp_path / "R.pkl")
    Checkpointer(model).load(str(tmp_path / "R.pkl"))
    for key, ours in CAFFE2.items():
        assert model.state_dict()[ours].tolist() == arrays[key].tolist(), key


def test_loads_pycls(tmp_path):
    weights = {"0.weight": torch.full((4, 3, 1, 1), 2.0), "1.num_batches_tracked": torch.tensor(9)}
    torch.save({"epoch": 1, "model_state": weights}, tmp_path / "x.pyth")
    model = make_model()
    Checkpointer(model).load(str(tmp_path / "x.pyth"))
    assert model[0].weight.unique().tolist() == [2] and model[1].num_batches_tracked == 0


def whole() -> bytes:
    arrays = {"0.weight": np.ones((4, 3, 1, 1), np.float32)}
    return pickle.dumps({"model": arrays, "__author__": "Detectron2"})


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"<!DOCTYPE html>",
        whole()[:-30],
        pickle.dumps([1, 2]),
        pickle.dumps({"model": [1, 2], "__author__": "Detectron2"}),
        pickle.dumps({"model": {"0.weight": "text"}, "__author__": "Detectron2"}),
        pickle.dumps({1: np.ones(3)}),
        pickle.dumps({"conv1_w": np.ones(3), "epoch": 5}),
        pickle.dumps({"conv1_w": np.array([{}])}),
        pickle.dumps({"conv1_w": np.array(["text"])}),
        pickle.dumps({"conv1_w": np.zeros(3, [("a", "f4")])}),
    ],
    ids=[
        *("empty", "a page", "cut off", "a list", "a list of tensors", "a string for a tensor"),
        *("a number for a name", "a number for a tensor", "objects", "strings", "fields"),
    ],
)
def test_refuses_damaged_files(tmp_path, data):
    path = tmp_path / "x.pkl"
    path.write_bytes(data)
    with pytest.raises(ValueError, match=f"The checkpoint '{path}' cannot be read. It is") as error:
        Checkpointer(make_model()).load(str(path))
    assert len(str(error.value).splitlines()) == 1
    path.write_bytes(whole())  # or nothing was tested
    Checkpointer(make_model()).load(str(path))
