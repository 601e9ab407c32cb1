"""darknet's files load to the bit, compute what darknet computes, and damaged ones are refused.

The reference is yolov3.cfg, written out here by hand: its layers give a file's content by an own
writer, and the network's output by a slow walk over them.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from torch import Tensor

from asff.checkpoint.darknet import convert_darknet, read_values
from asff.config_files import load_config
from asff.engine.setup import resolve_sync_norm
from asff.modeling import YOLOv3
from tests.training import ROOT

CONFIG = ROOT / "configs" / "coco" / "yolov3_d53_original.yaml"
# A quarter of the channels: a sixteenth of the values.
NARROW = ("MODEL.DARKNET.WIDTH", 0.25, "MODEL.YOLOV3.NECK.WIDTH", 0.25)
ANCHORS = [(10, 13), (16, 30), (33, 23), (30, 61), (62, 45), (42, 119), (116, 90), (156, 198)]
ANCHORS += [(373, 326)]
HEADER = struct.pack("<iiiq", 0, 2, 0, 32013312)
OLD_HEADER = struct.pack("<iiii", 0, 1, 0, 32013312)


def darknet53() -> Iterator[tuple]:
    """Yield the first 75 layers of yolov3.cfg: ("conv", filters, size, stride), ("shortcut",)."""
    yield "conv", 32, 3, 1
    for filters, blocks in ((64, 1), (128, 2), (256, 8), (512, 8), (1024, 4)):
        yield "conv", filters, 3, 2
        for _ in range(blocks):
            yield "conv", filters // 2, 1, 1
            yield "conv", filters, 3, 1
            yield ("shortcut",)


def yolov3() -> Iterator[tuple]:
    """Yield all layers of yolov3.cfg; routes name layers, relative ones by negative numbers."""
    yield from darknet53()
    for filters, other, masks in (512, None, "678"), (256, 61, "345"), (128, 36, "012"):
        if other is not None:
            yield "route", -4
            yield "conv", filters, 1, 1
            yield ("upsample",)
            yield "route", -1, other
        for _ in range(3):
            yield "conv", filters, 1, 1
            yield "conv", 2 * filters, 3, 1
        yield ("linear",)
        yield "yolo", *map(int, masks)


def our_names() -> Iterator[str]:
    """Yield the names of our convolutions, in the order of a file."""
    yield "backbone.bottom_up.stem"
    for stage, blocks in enumerate((1, 2, 8, 8, 4), start=1):
        yield f"backbone.bottom_up.res{stage}.0"
        for block in range(1, blocks + 1):
            yield f"backbone.bottom_up.res{stage}.{block}.conv1"
            yield f"backbone.bottom_up.res{stage}.{block}.conv2"
    for level in "012":
        if level > "0":
            yield f"backbone.neck.laterals.{int(level) - 1}"
        for number in "12345":
            yield f"backbone.neck.conv_sets.{level}.conv{number}"
        yield f"head.levels.{level}.conv"
        yield f"head.levels.{level}.predict"


def draw(shapes: list[tuple[int, int, int, bool]]) -> list[list[Tensor]]:
    """Draw the tensors of each convolution, in the order of a file.

    Args:
        shapes: (in, out, size, norm); without norm, a convolution has only bias and kernel.

    The values keep the logits of width and height below the limit that ours have, and darknet not.
    """
    generator = torch.Generator().manual_seed(0)
    convs = []
    for inputs, outputs, size, norm in shapes:
        kernel = torch.randn(outputs, inputs, size, size, generator=generator)
        kernel /= (inputs * size**2) ** 0.5
        bias = torch.randn(outputs, generator=generator) / 10
        if norm:
            scale = torch.rand(outputs, generator=generator) * 0.8 + 0.5
            mean = torch.randn(outputs, generator=generator) / 10
            variance = torch.rand(outputs, generator=generator) + 0.5
            convs.append([bias, scale, mean, variance, kernel])
        else:
            convs.append([bias, kernel])
    return convs


def channels(layers: Iterator[tuple], divisor: int = 4) -> list[tuple[int, int, int, bool]]:
    """Return (in, out, size, norm) of every convolution, narrowed by ``divisor``."""
    shapes, outputs, current = [], [], 3
    for kind, *args in layers:
        if kind == "conv":
            filters, size, _ = args
            shapes.append((current, filters // divisor, size, True))
            current = filters // divisor
        elif kind == "linear":
            shapes.append((current, 255, 1, False))
            current = 255
        elif kind == "route":
            current = sum(outputs[index] for index in args)
        outputs.append(current)
    return shapes


def run(layers: Iterator[tuple], convs: list[list[Tensor]], x: Tensor) -> Tensor:
    """Compute the dense output of darknet, (R, 85): cx, cy, w, h and 81 probabilities."""
    outputs, predictions, side = [], [], x.shape[-1]
    convs = iter(convs)
    for kind, *args in layers:
        if kind == "conv":
            _, size, stride = args
            bias, scale, mean, variance, kernel = (value.double() for value in next(convs))
            x = F.conv2d(x, kernel, stride=stride, padding=size // 2)
            x = (x - mean[:, None, None]) / (variance[:, None, None] + 1e-5).sqrt()
            x = x * scale[:, None, None] + bias[:, None, None]
            x = torch.where(x > 0, x, 0.1 * x)
        elif kind == "linear":
            bias, kernel = (value.double() for value in next(convs))
            x = F.conv2d(x, kernel) + bias[:, None, None]
        elif kind == "shortcut":
            x = x + outputs[-3]
        elif kind == "upsample":
            x = x.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
        elif kind == "route":
            x = torch.cat([outputs[index] for index in args], dim=1)
        elif kind == "yolo":
            stride = side // x.shape[-1]
            for index, mask in enumerate(args):
                for i in range(x.shape[2]):
                    for j in range(x.shape[3]):
                        logits = x[0, 85 * index : 85 * (index + 1), i, j]
                        center = (logits[:2].sigmoid() + torch.tensor([j, i])) * stride
                        size = logits[2:4].exp() * torch.tensor(ANCHORS[mask])
                        predictions.append(torch.cat([center, size, logits[4:].sigmoid()]))
        outputs.append(x)
    assert next(convs, None) is None
    return torch.stack(predictions)


def write(path: Path, convs: list[list[Tensor]], header: bytes = HEADER) -> str:
    with path.open("wb") as file:
        file.write(header)
        for value in (value for conv in convs for value in conv):
            file.write(value.numpy().astype("<f4").tobytes())
    return str(path)


def make_cfg(*options: object) -> CfgNode:
    cfg = load_config(str(CONFIG), ["MODEL.DEVICE", "cpu", *options])
    resolve_sync_norm(cfg, 1)
    return cfg


def make_state(*options: object) -> dict[str, Tensor]:
    """Return names and shapes of the detector, without memory for its values."""
    with torch.device("meta"):
        return build_model(make_cfg("MODEL.DEVICE", "meta", *options)).state_dict()


@pytest.fixture(scope="module")
def state() -> dict[str, Tensor]:
    return make_state(*NARROW)


@pytest.fixture(scope="module")
def convs() -> list[list[Tensor]]:
    return draw(channels(yolov3()))


def our_weights(convs: list[list[Tensor]]) -> dict[str, Tensor]:
    """Return the weights under our names."""
    weights = {}
    for name, conv in zip(our_names(), convs):
        if len(conv) == 2:
            weights |= {f"{name}.bias": conv[0], f"{name}.weight": conv[1]}
            continue
        tensors = ("bias", "weight", "running_mean", "running_var")
        weights |= {f"{name}.norm.{tensor}": value for tensor, value in zip(tensors, conv)}
        weights[f"{name}.norm.num_batches_tracked"] = torch.tensor(0)
        weights[f"{name}.weight"] = conv[4]
    return weights


def assert_same(weights: dict[str, Tensor], others: dict[str, Tensor]) -> None:
    assert set(weights) == set(others)
    for key, value in weights.items():
        assert value.dtype == others[key].dtype and torch.equal(value, others[key]), key


@pytest.mark.parametrize("header", [HEADER, OLD_HEADER], ids=["5 integers", "4 integers"])
def test_detector_to_the_bit(tmp_path, state, convs, header):
    weights = convert_darknet(read_values(write(tmp_path / "a.weights", convs, header)), state)
    assert len(convs) == 75
    assert_same(weights, our_weights(convs))
    assert {key: value.shape for key, value in weights.items()} == {
        key: value.shape for key, value in state.items()
    }


def test_backbone_to_the_bit(tmp_path, state, convs):
    weights = convert_darknet(read_values(write(tmp_path / "a.conv.74", convs[:52])), state)
    assert channels(darknet53()) == channels(yolov3())[:52]
    assert_same(weights, our_weights(convs[:52]))
    assert all(key.startswith("backbone.bottom_up.") for key in weights)


def test_computes_what_darknet_computes(tmp_path, state, convs):
    model = build_model(make_cfg(*NARROW)).eval()
    assert isinstance(model, YOLOv3)
    model.load_state_dict(convert_darknet(read_values(write(tmp_path / "a.weights", convs)), state))
    images = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = run(yolov3(), convs, images.double())
        dense = model.forward_dense(images)[0]
    assert expected.shape == (3 * (4 + 16 + 64), 85)
    # The probabilities and aspect ratios vary, or it would prove little.
    assert expected[:, 4:].std() > 0.05 and (expected[:, 2] / expected[:, 3]).std() > 0.3
    torch.testing.assert_close(dense.double(), expected, rtol=1e-5, atol=1e-6)


def test_darknet53_conv_74_has_this_size(tmp_path):
    """A norm has 5 tensors (one is its counter), and its convolution 1."""
    path = tmp_path / "a.weights"
    path.write_bytes(HEADER)
    with path.open("r+b") as file:
        file.truncate(162_482_580)  # zeros that take no disk
    assert len(convert_darknet(read_values(path), make_state())) == 52 * 6


def count(convs: list[list[Tensor]]) -> int:
    return sum(value.numel() for conv in convs for value in conv)


@pytest.mark.parametrize("more", [-1, 1])
@pytest.mark.parametrize("num_convs", [52, 75])
def test_another_number_of_values(tmp_path, state, convs, num_convs, more):
    path = Path(write(tmp_path / "a.weights", convs[:num_convs]))
    content = path.read_bytes()
    path.write_bytes(content[:-4] if more < 0 else content + b"\0\0\0\0")
    found, known = count(convs[:num_convs]) + more, (count(convs[:52]), count(convs))
    message = (
        rf"{found} values follow the header, but {known[0]} are expected for "
        rf"DarkNet-53 \(as in darknet53\.conv\.74\), or {known[1]} for the detector"
    )
    with pytest.raises(ValueError, match=message):
        convert_darknet(read_values(path), state)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, r"a\.weights: there is no such file\."),
        (b"", r"a\.weights does not begin with a header of darknet"),
        (b"<!DOCTYPE html><html>not found</html>", "does not begin with a header of darknet"),
        (b"PK\3\4" + bytes(1000), "does not begin with a header of darknet"),
        (struct.pack("<iii", 0, -2, 0) + bytes(8), "does not begin with a header of darknet"),
        (HEADER, r"a\.weights is cut off: its 20 bytes are not a header of 20 bytes followed by"),
        (HEADER + bytes(41), "its 61 bytes are not a header of 20 bytes"),
        (OLD_HEADER, "its 16 bytes are not a header of 16 bytes"),
    ],
)
def test_no_darknet_file(tmp_path, content, message):
    path = tmp_path / "a.weights"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ValueError, match=message):
        read_values(path)


@pytest.mark.parametrize(
    ("options", "example"),
    [
        (("MODEL.YOLOV3.NECK.SPP", True), r"5 unexpected \(backbone\.neck\.conv_sets\.0"),
        (("MODEL.YOLOV3.GUIDED_ANCHORING", True), r"6 unexpected .*head\.levels\.0\.shape\.bias"),
        (("MODEL.DARKNET.WIDTH", 1.0, "MODEL.DARKNET.NORM", "GN"), r"104 missing .*\.running_mean"),
    ],
    ids=["spp", "guided anchoring", "norm"],
)
def test_another_detector(tmp_path, convs, options, example):
    path = write(tmp_path / "a.weights", convs)
    with pytest.raises(ValueError, match=example + r".*yolov3_d53_original\.yaml"):
        convert_darknet(read_values(path), make_state(*NARROW, *options))
