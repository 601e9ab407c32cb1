#!/usr/bin/env python
"""Weights of others as a Detectron2 checkpoint: the authors', darknet's, torchvision's, timm's.

    python tools/convert_weights.py --source asff INPUT.pth OUTPUT.pth
    python tools/convert_weights.py --source darknet yolov3.weights OUTPUT.pth
    python tools/convert_weights.py --to asff INPUT.pth OUTPUT.pth

Every tensor finds its place, or nothing is written. --to asff is the way back, equal to the bit.
"""

from __future__ import annotations

import argparse
from pathlib import Path

# First, for it says what is not installed.
from asff.checkpoint import describe_model
from asff.checkpoint.authors import VARIANTS, from_authors, to_authors
from asff.checkpoint.classification import convert_timm, convert_torchvision
from asff.checkpoint.darknet import convert_darknet
from asff.checkpoint.files import read_tensors
from asff.engine import user_errors
from asff.engine.setup import load_config, resolve_sync_norm

# isort: split
import torch
from detectron2.modeling import build_model
from detectron2.utils.logger import setup_logger
from torch import Tensor

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
BACKBONE_ADVICE = "any config with {}, as its MODEL.WEIGHTS"
# darknet divides pixels by 255 and does nothing else.
DARKNET_INPUT = " MODEL.PIXEL_MEAN [0.0,0.0,0.0] MODEL.PIXEL_STD [255.0,255.0,255.0]"
ORIGINAL = CONFIGS / "coco" / "yolov3_d53_original.yaml"


def convert_authors(path: Path) -> tuple[dict[str, Tensor], Path | str]:
    name, tensors = from_authors(read_tensors(path))
    if name in VARIANTS:
        return tensors, CONFIGS / "authors" / VARIANTS[name].config
    return tensors, BACKBONE_ADVICE.format("DarkNet-53")


def convert_darknet_file(path: Path) -> tuple[dict[str, Tensor], Path | str]:
    cfg = load_config(str(ORIGINAL), ["MODEL.DEVICE", "meta"])
    resolve_sync_norm(cfg, world_size=1)
    with torch.device("meta"):
        state = build_model(cfg).state_dict()
    tensors = convert_darknet(str(path), state)
    whole = len(tensors) == len(state)
    return tensors, ORIGINAL if whole else BACKBONE_ADVICE.format("DarkNet-53") + DARKNET_INPUT


def convert_mobilenet(path: Path) -> tuple[dict[str, Tensor], Path | str]:
    return convert_torchvision(read_tensors(path)), BACKBONE_ADVICE.format("MobileNetV2")


def convert_darknet_of_timm(path: Path) -> tuple[dict[str, Tensor], Path | str]:
    return convert_timm(read_tensors(path)), BACKBONE_ADVICE.format("DarkNet-53")


SOURCES = {
    "asff": convert_authors,
    "darknet": convert_darknet_file,
    "torchvision": convert_mobilenet,
    "timm": convert_darknet_of_timm,
}


def convert(source: str, path: Path, output: Path) -> None:
    tensors, config = SOURCES[source](path)
    checkpoint = {"model": tensors, "__author__": f"{source}, converted by asff"}
    if isinstance(config, Path):
        checkpoint.update(describe_model(load_config(str(config))))
        config = config.relative_to(CONFIGS.parent)
    torch.save(checkpoint, output)
    print(f"Wrote {len(tensors)} tensors to {output}; all have their place.\nUse: {config}")


def convert_back(path: Path, output: Path) -> None:
    name, tensors = to_authors(read_tensors(path))
    torch.save(tensors, output)
    print(
        f"Wrote {len(tensors)} tensors of the authors' '{name}' to {output}; all have their place."
    )


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
        if not args.output.parent.is_dir():
            raise ValueError(f"{args.output} cannot be written: there is no such folder.")
        if args.to:
            convert_back(args.input, args.output)
        else:
            convert(args.source, args.input, args.output)


if __name__ == "__main__":
    main()
