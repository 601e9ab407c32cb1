"""Convert weights of the authors' code, darknet, torchvision or timm into a Detectron2 checkpoint.

    asff convert asff.pth --source authors --output converted.pth
    asff convert yolov3.weights --source darknet --output converted.pth
    asff convert converted.pth --to authors --output back.pth

Every tensor is used and none is missing, or nothing is written. --to authors is the inverse of
--source authors, equal to the bit.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from . import VerbParser


def add_arguments(parser: VerbParser) -> None:
    from ..checkpoint.convert import CONVERTERS

    parser.add_argument("file", type=Path, metavar="FILE")
    directions = parser.add_mutually_exclusive_group(required=True)
    kinds = "; ".join(f"{name}: {converter.needs}" for name, converter in CONVERTERS.items())
    directions.add_argument("--source", choices=CONVERTERS, help=f"the kind of FILE. {kinds}")
    directions.add_argument(
        "--to", choices=["authors"], help="convert a checkpoint of ours for the authors' code"
    )
    parser.add_output(metavar="FILE", required=True, help="the file to write, *.pth")


def run(args: argparse.Namespace) -> None:
    from detectron2.utils.logger import setup_logger

    from ..checkpoint.convert import convert_file, convert_to_authors

    setup_logger(name="asff")  # logs which tensors of a classifier are not used
    if args.to:
        name, tensors = convert_to_authors(args.file, args.output)
        print(f"Wrote all {len(tensors)} tensors of the authors' '{name}' to {args.output}.")
        return
    converted = convert_file(args.source, args.file, args.output)
    print(f"Wrote all {len(converted.tensors)} tensors to {args.output}.")
    print(f"Use: {converted.use}")
