#!/usr/bin/env python
"""Weights of others as a Detectron2 checkpoint: the authors', darknet's, torchvision's, timm's.

    python tools/convert_weights.py --source asff INPUT.pth OUTPUT.pth
    python tools/convert_weights.py --source darknet yolov3.weights OUTPUT.pth
    python tools/convert_weights.py --to asff INPUT.pth OUTPUT.pth

Every tensor finds its place, or nothing is written. --to asff is the way back, equal to the bit.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

# First, for it says what is not installed.
from ..checkpoint import model_metadata
from ..checkpoint.authors import VARIANTS, check_shapes, from_authors, num_classes, to_authors
from ..checkpoint.classification import convert_timm, convert_torchvision
from ..checkpoint.darknet import convert_darknet
from ..checkpoint.files import read_tensors
from ..engine import user_errors
from ..engine.setup import load_config

# isort: split
import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from detectron2.utils.logger import setup_logger
from torch import Tensor

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
ORIGINAL = CONFIGS / "coco" / "yolov3_d53_original.yaml"
BACKBONE_ADVICE = "any config with {}, as its MODEL.WEIGHTS"
# darknet divides pixels by 255 and does nothing else.
DARKNET_INPUT = " MODEL.PIXEL_MEAN [0.0,0.0,0.0] MODEL.PIXEL_STD [255.0,255.0,255.0]"


@dataclass
class Converted:
    """Weights under our names.

    Attributes:
        use: the config to use them with, in words.
        cfg: that config, of a whole detector.
    """

    tensors: dict[str, Tensor]
    use: str
    cfg: CfgNode | None = None


def convert_authors(path: Path) -> Converted:
    tensors = read_tensors(path)
    with naming(path):
        name, tensors = from_authors(tensors)
        if name in VARIANTS:
            cfg, use = config_of(name, tensors)
            check_shapes(tensors, make_state(cfg))
            return Converted(tensors, use, cfg)
        check_shapes(tensors, make_state(load_config(str(ORIGINAL))))
    return Converted(tensors, BACKBONE_ADVICE.format("DarkNet-53"))


def convert_darknet_file(path: Path) -> Converted:
    cfg = load_config(str(ORIGINAL))
    state = make_state(cfg)
    tensors = convert_darknet(path, state)
    if len(tensors) == len(state):
        return Converted(tensors, str(ORIGINAL.relative_to(CONFIGS.parent)), cfg)
    return Converted(tensors, BACKBONE_ADVICE.format("DarkNet-53") + DARKNET_INPUT)


def convert_mobilenet(path: Path) -> Converted:
    tensors = read_tensors(path)
    with naming(path):
        return Converted(convert_torchvision(tensors), BACKBONE_ADVICE.format("MobileNetV2"))


def convert_darknet_of_timm(path: Path) -> Converted:
    tensors = read_tensors(path)
    with naming(path):
        return Converted(convert_timm(tensors), BACKBONE_ADVICE.format("DarkNet-53"))


SOURCES = {
    "asff": convert_authors,
    "darknet": convert_darknet_file,
    "torchvision": convert_mobilenet,
    "timm": convert_darknet_of_timm,
}


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Errors begin with the name of the file."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def config_of(name: str, tensors: dict[str, Tensor]) -> tuple[CfgNode, str]:
    """The config of one of the authors' networks with as many classes, and how to say that."""
    path = CONFIGS / "authors" / VARIANTS[name].config
    cfg, use = load_config(str(path)), str(path.relative_to(CONFIGS.parent))
    classes = num_classes(tensors)
    if classes != cfg.MODEL.YOLOV3.NUM_CLASSES:
        cfg.MODEL.YOLOV3.NUM_CLASSES = classes
        cfg.DATASETS.TRAIN = cfg.DATASETS.TEST = ()  # not COCO
        use += f" MODEL.YOLOV3.NUM_CLASSES {classes}"
    return cfg, use


def make_state(cfg: CfgNode) -> dict[str, Tensor]:
    """Names and shapes of a detector's tensors, without memory for their values."""
    cfg = cfg.clone()
    cfg.MODEL.DEVICE = "meta"
    with torch.device("meta"):
        return build_model(cfg).state_dict()


def convert(source: str, path: Path, output: Path) -> None:
    converted = SOURCES[source](path)
    checkpoint = {"model": converted.tensors, "__author__": f"{source}, converted by asff"}
    if converted.cfg is not None:
        checkpoint.update(model_metadata(converted.cfg))
    save(checkpoint, output)
    print(f"Wrote {len(converted.tensors)} tensors to {output}; all have their place.")
    print(f"Use: {converted.use}")


def convert_back(path: Path, output: Path) -> None:
    ours = read_tensors(path)
    with naming(path):
        name, theirs = to_authors(ours)
        cfg, _ = config_of(name, ours)
        check_shapes(ours, make_state(cfg))
    save(theirs, output)
    print(
        f"Wrote {len(theirs)} tensors of the authors' '{name}' to {output}; all have their place."
    )


def save(checkpoint: dict, output: Path) -> None:
    try:
        torch.save(checkpoint, output)
    except (OSError, RuntimeError) as error:
        output.unlink(missing_ok=True)  # what there is of it
        raise ValueError(f"{output} cannot be written: {str(error).splitlines()[0]}") from error


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    ways = parser.add_mutually_exclusive_group(required=True)
    ways.add_argument("--source", choices=SOURCES, help="where the weights come from")
    ways.add_argument("--to", choices=["asff"], help="write weights of ours for others instead")
    parser.add_argument("input", type=Path, metavar="INPUT")
    parser.add_argument("output", type=Path, metavar="OUTPUT")
    args = parser.parse_args()
    setup_logger(name="asff")  # says which tensors of a classifier are not used
    with user_errors():
        if args.output.exists():
            raise ValueError(f"{args.output} exists and is not overwritten: name another file.")
        if args.output.suffix != ".pth":
            raise ValueError(f"{args.output} is to hold weights of torch: name it *.pth.")
        if not args.output.parent.is_dir():
            raise ValueError(f"{args.output} cannot be written: there is no such folder.")
        if args.to:
            convert_back(args.input, args.output)
        else:
            convert(args.source, args.input, args.output)


if __name__ == "__main__":
    main()
