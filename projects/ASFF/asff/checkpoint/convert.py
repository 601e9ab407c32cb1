"""Conversion of weights of other programs to checkpoints of ours, and back to the authors'."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from torch import Tensor

from ..config_files import get_config_file, load_config
from .authors import VARIANTS, check_shapes, from_authors, num_classes, to_authors
from .classification import convert_timm, convert_torchvision
from .darknet import convert_darknet, read_values
from .files import read_tensors
from .metadata import model_metadata

Tensors = dict[str, Tensor]

ORIGINAL = "coco/yolov3_d53_original.yaml"
# darknet divides pixels by 255 and does nothing else.
DARKNET_INPUT = "MODEL.PIXEL_MEAN [0.0,0.0,0.0] MODEL.PIXEL_STD [255.0,255.0,255.0]"


@dataclass
class Converted:
    """Weights under our names.

    Attributes:
        tensors: by key.
        use: the options of ``asff train`` or ``asff predict`` to use them with.
        cfg: the config of a whole detector.
    """

    tensors: Tensors
    use: str
    cfg: CfgNode | None = None


@dataclass(frozen=True)
class Converter:
    """Conversion of one kind of file.

    Attributes:
        read: reads a file.
        convert: converts the result of ``read``; its ValueErrors do not name the file.
        needs: description of the files, for the help page.
    """

    read: Callable[[Path], Any]
    convert: Callable[[Any], Converted]
    needs: str


def convert_file(source: str, path: Path, output: Path) -> Converted:
    """Write a checkpoint of ours with all weights of a file of this source of ``CONVERTERS``.

    Raises:
        ValueError: the file cannot be read, or its weights are not exactly those of a known
            network; or the checkpoint cannot be written.
    """
    _check_output(output)
    converter = CONVERTERS[source]
    content = converter.read(path)
    try:
        converted = converter.convert(content)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    checkpoint = {"model": converted.tensors, "__author__": f"{source}, converted by asff"}
    if converted.cfg is not None:
        checkpoint.update(model_metadata(converted.cfg))
    _save(checkpoint, output)
    return converted


def convert_to_authors(path: Path, output: Path) -> tuple[str, Tensors]:
    """Write a checkpoint of the authors' code with the weights of one of ours, equal to the bit.

    Returns:
        The name of the authors' network, of ``VARIANTS``, and the tensors by their key.

    Raises:
        ValueError: see :func:`convert_file`.
    """
    _check_output(output)
    tensors = read_tensors(path)
    try:
        name, converted = to_authors(tensors)
        check_shapes(tensors, _make_state(_authors_config(name, tensors)[0]))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    _save(converted, output)
    return name, converted


def _convert_authors(tensors: Tensors) -> Converted:
    name, tensors = from_authors(tensors)
    if name in VARIANTS:
        cfg, use = _authors_config(name, tensors)
        check_shapes(tensors, _make_state(cfg))
        return Converted(tensors, use, cfg)
    check_shapes(tensors, _make_state(load_config(get_config_file(ORIGINAL))))
    return Converted(tensors, _use_of_bottom_up("DarkNet-53"))


def _convert_darknet(values: Tensor) -> Converted:
    cfg = load_config(get_config_file(ORIGINAL))
    state = _make_state(cfg)
    tensors = convert_darknet(values, state)
    if len(tensors) == len(state):
        return Converted(tensors, f"--config-file {ORIGINAL}", cfg)
    return Converted(tensors, f"{_use_of_bottom_up('DarkNet-53')}, and {DARKNET_INPUT}")


CONVERTERS = {
    "authors": Converter(
        read_tensors, _convert_authors, "a detector of the authors' code, or its DarkNet-53 alone"
    ),
    "darknet": Converter(read_values, _convert_darknet, "yolov3.weights or darknet53.conv.74"),
    "torchvision": Converter(
        read_tensors,
        lambda x: Converted(convert_torchvision(x), _use_of_bottom_up("MobileNetV2")),
        "the state dict of torchvision's mobilenet_v2",
    ),
    "timm": Converter(
        read_tensors,
        lambda x: Converted(convert_timm(x), _use_of_bottom_up("DarkNet-53")),
        "the state dict of timm's darknet53",
    ),
}


def _use_of_bottom_up(name: str) -> str:
    return f"any config with {name}, as its MODEL.WEIGHTS"


def _authors_config(name: str, tensors: Tensors) -> tuple[CfgNode, str]:
    """Return the config of one of the authors' networks with as many classes, and its options."""
    file = f"authors/{VARIANTS[name].config}"
    cfg, use = load_config(get_config_file(file)), f"--config-file {file}"
    classes = num_classes(tensors)
    if classes != cfg.MODEL.YOLOV3.NUM_CLASSES:
        cfg.MODEL.YOLOV3.NUM_CLASSES = classes
        cfg.DATASETS.TRAIN = cfg.DATASETS.TEST = ()  # not COCO
        use += f" MODEL.YOLOV3.NUM_CLASSES {classes}"
    return cfg, use


def _make_state(cfg: CfgNode) -> Tensors:
    """Return names and shapes of a detector's tensors, without memory for their values."""
    cfg = cfg.clone()
    cfg.MODEL.DEVICE = "meta"
    with torch.device("meta"):
        return build_model(cfg).state_dict()


def _check_output(output: Path) -> None:
    if output.exists():
        raise ValueError(f"--output {output} exists and is not overwritten: name another file.")
    if output.suffix != ".pth":
        raise ValueError(f"--output {output} is to hold weights of torch: name it *.pth.")
    if not output.parent.is_dir():
        raise ValueError(f"--output {output} cannot be written: there is no such folder.")


def _save(checkpoint: dict, output: Path) -> None:
    try:
        torch.save(checkpoint, output)
    except (OSError, RuntimeError) as error:
        output.unlink(missing_ok=True)  # the unfinished file
        raise ValueError(
            f"--output {output} cannot be written: {str(error).splitlines()[0]}"
        ) from error
