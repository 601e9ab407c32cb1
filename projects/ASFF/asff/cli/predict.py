#!/usr/bin/env python
"""Detects objects in images, videos or a camera's pictures, and draws them.

    python tools/demo.py INPUT... --weights FILE [--config-file FILE] [--output FOLDER]
    python tools/demo.py photo.jpg folder 'data/**/*.png' clip.mp4 --weights model_final.pth
    python tools/demo.py --webcam --show --weights model_final.pth

An INPUT is an image, a video, a folder of them, or a pattern in quotes. Without --config-file, the
checkpoint's own config is used. FOLDER gets NAME.jpg for every image (small ones enlarged, and none
above 4096 pixels), NAME.mp4 for every video, and detections.json in COCO's format. Files that
cannot be read are left out and named at the end.
Exit code 0; 2 where the command line is wrong, or a video or all images cannot be read.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator, Sequence

# First, for it says what is not installed.
from ..data.image_io import UnreadableImage
from ..engine import Predictor, user_errors
from ..visualization import draw_instances

# isort: split
import numpy as np
from detectron2.utils.logger import setup_logger
from tqdm import tqdm

from .predict_inputs import UnreadableVideo, Video, add_detector_arguments, batches, find_files
from .predict_outputs import CocoFile, OutputFolder, VideoFile, open_window, show


class Demo:
    """Detects, draws and writes, batch by batch: nothing of an image is kept.

    Attributes:
        unreadable: a line for every file that is left out.
        failed: whether one of them is a video.
    """

    def __init__(
        self,
        predictor: Predictor,
        folder: OutputFolder,
        results: CocoFile,
        *,
        min_score: float,
        show: bool,
    ):
        self.predictor, self.folder, self.results = predictor, folder, results
        self.min_score, self.show = min_score, show
        self.unreadable: list[str] = []
        self.failed = False

    def run_images(self, files: Sequence[str]) -> None:
        with tqdm(total=len(files), unit=" images") as bar:
            for batch in batches(self.read(files, bar), self.predictor.batch_size):
                for info, picture in self.detect(batch):
                    self.folder.save(info["file_name"], picture)
                    if self.show:
                        show(picture, wait=True)
                    bar.update()

    def read(self, files: Sequence[str], bar: tqdm) -> Iterator[tuple[dict, np.ndarray]]:
        """The images that can be read."""
        for file in files:
            try:
                yield {"file_name": file}, self.predictor.read(file)
            except UnreadableImage as error:
                self.unreadable.append(str(error))
                bar.update()

    def run_video(self, source: str | int) -> None:
        """Go through a video file, or through the pictures of a camera until a key ends it."""
        name = f"webcam{source}" if isinstance(source, int) else source
        size = 1 if isinstance(source, int) else self.predictor.batch_size  # a camera is live
        try:
            video = Video(source)
            frames = (({"file_name": name, "frame": i}, x) for i, x in enumerate(video))
            with (
                VideoFile(self.folder.name(name, ".mp4"), video.fps) as output,
                tqdm(total=video.num_frames or None, unit=" images") as bar,
            ):
                for batch in batches(frames, size):
                    for _, picture in self.detect(batch):
                        output.write(picture)
                        if self.show:
                            show(picture, wait=False)
                        bar.update()
            video.check_end()
        except UnreadableVideo as error:
            self.unreadable.append(str(error))
            self.failed = True

    def detect(self, batch: list[tuple[dict, np.ndarray]]) -> Iterator[tuple[dict, np.ndarray]]:
        """Note the detections of a batch; what the images are called, and their pictures."""
        for (info, image), found in zip(batch, self.predictor([image for _, image in batch])):
            found = found[found.scores >= self.min_score]
            self.results.add(info, image.shape, found)
            names = self.predictor.class_names
            yield info, draw_instances(image, found, names, min_score=self.min_score)


def run(args: argparse.Namespace) -> None:
    """Do what the command line says.

    Raises:
        ValueError: it is wrong, or what it names cannot be read.
    """
    images, videos = find_files(args.inputs)
    folder = OutputFolder(args.output, [*images, *videos])
    if args.show:
        open_window()
    predictor = Predictor(
        args.config_file, args.weights, batch_size=args.batch_size, opts=args.opts
    )
    path = args.output / "detections.json"
    start = time.perf_counter()
    with CocoFile(path, predictor.class_names) as results:
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
    report_unreadable(demo, len(images) + len(videos))


def report_unreadable(demo: Demo, num_files: int) -> None:
    """Name the files that were left out.

    Raises:
        ValueError: one was a video, or nothing was left.
    """
    lines = demo.unreadable
    if not lines:
        return
    message = lines[0]
    if num_files > 1:
        message = "\n  ".join([f"{len(lines)} of {num_files} files cannot be read:", *lines])
    if demo.failed or not demo.results.num_images:
        raise ValueError(message)
    print(message)


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("inputs", nargs="*", metavar="INPUT", help="image, video, folder, pattern")
    parser.add_argument(
        "--webcam", nargs="?", type=int, const=0, metavar="NUMBER", help="a camera; 0 is the first"
    )
    add_detector_arguments(parser, output="output/demo", scores="what is kept")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--show", action="store_true", help="also in a window; q ends it")
    args = parser.parse_args()
    if not args.inputs and args.webcam is None:
        parser.error("name an INPUT, or --webcam")
    if args.batch_size < 1:
        parser.error(f"--batch-size is {args.batch_size}, but must be at least 1")
    return args


def main() -> None:
    args = parse_args()
    setup_logger(name="asff")
    with user_errors():
        run(args)


if __name__ == "__main__":
    main()
