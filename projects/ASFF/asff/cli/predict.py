"""Detect objects in images, videos or the frames of a camera, and draw them.

    asff predict photo.jpg folder 'data/**/*.png' clip.mp4 --weights model_final.pth
    asff predict --webcam --show --weights model_final.pth

An INPUT is an image, a video, a folder of them, or a pattern in quotes. Without --config-file, the
config inside the checkpoint is used. The output folder gets NAME.jpg for every image (small ones
enlarged, large ones reduced to 4096 pixels), NAME.mp4 for every video, and detections.json in
COCO's format. Files that cannot be read are skipped and named at the end; the exit code is 2 if one
of them is a video, or no image is left.
"""

from __future__ import annotations

import argparse
import time

from . import VerbParser, at_least


def add_arguments(parser: VerbParser) -> None:
    parser.add_argument(
        "inputs", nargs="*", metavar="INPUT", help="image, video, folder or pattern"
    )
    parser.add_argument(
        "--webcam", nargs="?", type=int, const=0, metavar="NUMBER", help="a camera; 0 is the first"
    )
    parser.add_weights(required=True, help="checkpoint, or an exported model")
    parser.add_output("output/predict")
    parser.add_min_score(help="lowest score of a detection; default: %(default)s")
    parser.add_argument("--batch-size", type=at_least(1), default=8, metavar="N")
    parser.add_argument("--show", action="store_true", help="also show in a window; q ends it")
    parser.add_config_file(help="default: the config inside the checkpoint")


def run(args: argparse.Namespace) -> None:
    """Detect in all inputs."""
    from detectron2.utils.logger import setup_logger

    from ..data.media import find_media
    from ..engine import build_predictor
    from ..engine.demo import Demo
    from ..visualization.files import DetectionsFile, OutputFolder
    from ..visualization.window import open_window

    setup_logger(name="asff")
    if not args.inputs and args.webcam is None:
        raise ValueError("name an INPUT, or --webcam.")
    images, videos = find_media(args.inputs)
    folder = OutputFolder(args.output, [*images, *videos])
    if args.show:
        open_window()
    predictor = build_predictor(
        args.config_file, args.weights, batch_size=args.batch_size, opts=args.opts
    )
    path = args.output / "detections.json"
    start = time.perf_counter()
    with DetectionsFile(path, predictor.class_names) as results:
        demo = Demo(predictor, folder, results, min_score=args.min_score, show=args.show)
        try:
            if images:
                demo.run_images(images)
            for video in (*videos, *([] if args.webcam is None else [args.webcam])):
                demo.run_video(video)
        except KeyboardInterrupt:
            print("Stopped.")
    seconds = time.perf_counter() - start
    if results.num_images:
        print(
            f"{results.num_detections} objects of a score of at least {args.min_score:g} in "
            f"{results.num_images} images ({results.num_images / seconds:.1f} images/s): "
            f"{args.output}, {path}"
        )
    if demo.unreadable:
        message, num_files = demo.unreadable[0], len(images) + len(videos)
        if num_files > 1:
            head = f"{len(demo.unreadable)} of {num_files} files cannot be read:"
            message = "\n  ".join([head, *demo.unreadable])
        if demo.failed or not results.num_images:
            raise ValueError(message)
        print(message)
