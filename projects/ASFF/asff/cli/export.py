"""Export a detector to a file that other programs run.

    asff export --weights output/quickstart/model_final.pth --format onnx
    asff export --weights model_final.pth --dataset shapes_val

The file takes images (N, 3, H, W) with values from 0 to 255 and returns the boxes and scores of all
anchors or, with --nms, the detections. It holds class names, sizes, preprocessing and thresholds:
`asff predict --weights FILE` and asff.OnnxPredictor need nothing else. It is written only if it
detects what the detector does in PyTorch, in images of --images, of --dataset, or generated ones,
and if its AP on --dataset is not lower by more than --max-drop.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from . import VerbParser, at_least


def add_arguments(parser: VerbParser) -> None:
    from ..export import FORMATS

    parser.add_weights(required=True, help="checkpoint")
    parser.add_argument(
        "--format", choices=FORMATS, default="onnx", help="of the file; default: %(default)s"
    )
    parser.add_argument(
        "--size",
        type=at_least(32),
        metavar="PIXELS",
        help="fix height and width of the input, of detectors whose inputs are squares; "
        "default: any",
    )
    parser.add_argument(
        "--deformable",
        choices=["operator", "samplings"],
        help="deformable convolutions as one operator, or as samplings, which more runtimes have; "
        "default: samplings for openvino and onnxruntime below 1.32, else operator",
    )
    parser.add_argument("--nms", action="store_true", help="put thresholds and NMS into the file")
    precisions = parser.add_mutually_exclusive_group()
    precisions.add_argument(
        "--half", dest="precision", action="store_const", const="float16", help="float16"
    )
    precisions.add_argument(
        "--int8",
        dest="precision",
        action="store_const",
        const="int8",
        help="quantise, calibrated by images of the training set, else of --dataset",
    )
    parser.set_defaults(precision="float32")
    parser.add_argument("--images", nargs="+", default=(), metavar="FILE", help="to verify with")
    parser.add_argument("--dataset", metavar="NAME", help="measure AP before and after on it")
    parser.add_argument(
        "--max-drop",
        type=float,
        default=1.0,
        metavar="AP",
        help="largest loss of AP, in points; default: %(default)s",
    )
    parser.add_output(metavar="FILE", help="default: beside the checkpoint")
    parser.add_config_file(help="default: the config inside the checkpoint")


def run(args: argparse.Namespace) -> None:
    from detectron2.utils.logger import setup_logger

    from ..engine.export import Verification, export
    from ..export import FORMATS, Options

    setup_logger(name="asff")
    if args.size and args.size % 32:
        raise ValueError(f"--size is {args.size}, but must be divisible by 32.")
    output = args.output or Path(args.weights).with_suffix(FORMATS[args.format][0])
    report = export(
        args.config_file,
        args.weights,
        output,
        args.format,
        Options(args.size, args.deformable, args.nms, args.precision),
        Verification(args.images, args.dataset, args.max_drop),
        args.opts,
    )
    print(f"Verified: {report.agreement}.")
    if report.ap:
        aps = ", ".join(f"{name} {ap:.2f}" for name, ap in report.ap.items())
        print(f"AP on {args.dataset}: {aps}.")
    print(f"Wrote {output} ({output.stat().st_size / 2**20:.1f} MiB).")
    print(f"Use: asff predict IMAGE --weights {output}")
