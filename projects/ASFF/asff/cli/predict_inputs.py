"""What demo.py and visualize_fusion.py are given: a detector, and files, videos or a camera."""

from __future__ import annotations

import argparse
import glob
import math
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np

from ..data.datasets.files import IMAGE_SUFFIXES

VIDEO_SUFFIXES = (".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".wmv")
# Containers often estimate their number of frames; what ends before this share of it breaks off.
LEAST_FRAMES = 0.9
# A batch is cut short where its images together have more: what is decoded has to fit in memory.
MAX_PIXELS = 50_000_000

# What OpenCV and FFmpeg would print, our own messages say.
os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
cv2.setLogLevel(0)


def add_detector_arguments(parser: argparse.ArgumentParser, *, output: str, scores: str) -> None:
    """Add the options of both tools.

    Args:
        output: the folder to write to, if none is named.
        scores: what --min-score is the least score of.
    """
    parser.add_argument("--weights", required=True, metavar="FILE", help="checkpoint")
    parser.add_argument("--config-file", metavar="FILE", help="default: the checkpoint's own")
    parser.add_argument("--output", type=Path, default=Path(output), metavar="FOLDER")
    parser.add_argument("--min-score", type=score, default=0.3, help=f"of {scores}")
    parser.add_argument(
        "--opts", nargs="*", default=[], metavar="KEY VALUE", help="config keys; put it last"
    )


def score(text: str) -> float:
    """Reads a score of the command line."""
    if not 0 <= float(text) <= 1:
        raise argparse.ArgumentTypeError(f"{text} is not from 0 to 1")
    return float(text)


class UnreadableVideo(ValueError):
    """A video or camera that gives no frames, or a video that breaks off."""


def find_files(inputs: Sequence[str]) -> tuple[list[str], list[str]]:
    """The image files and the video files that inputs stand for, each once.

    Args:
        inputs: files; folders, for the images and videos right in them; or patterns as
            ``data/**/*.jpg``.

    Raises:
        ValueError: an input stands for nothing.
    """
    files = dict.fromkeys(file for item in inputs for file in expand(item))
    videos = [file for file in files if is_video(file)]
    return [file for file in files if not is_video(file)], videos


def expand(item: str) -> list[str]:
    path = Path(item)
    if path.is_dir():
        suffixes = (*IMAGE_SUFFIXES, *VIDEO_SUFFIXES)
        files = [str(x) for x in path.iterdir() if x.suffix.lower() in suffixes and x.is_file()]
        missing = f"the folder holds no images or videos ({', '.join(suffixes)})"
    elif path.is_file():
        return [item]
    else:
        files = [x for x in glob.glob(item, recursive=True) if os.path.isfile(x)]
        missing = "no file is like that" if glob.has_magic(item) else "there is no such file"
    if not files:
        raise ValueError(f"{item}: {missing}.")
    return sorted(files)


def is_video(file: str) -> bool:
    return file.lower().endswith(VIDEO_SUFFIXES)


class Video:
    """The frames of a video file or of a camera.

    Args:
        source: a path, or the number of a camera.

    Attributes:
        fps: frames a second.
        num_frames: as the file says; 0 where nothing does.

    Raises:
        UnreadableVideo: it cannot be opened.
    """

    def __init__(self, source: str | int):
        self.source = source
        self.capture = cv2.VideoCapture(source)
        if not self.capture.isOpened():
            if isinstance(source, int):
                raise UnreadableVideo(f"--webcam {source}: there is no such camera.")
            raise UnreadableVideo(f"{source}: not a video that OpenCV can read.")
        fps, num_frames = self.capture.get(cv2.CAP_PROP_FPS), 0.0
        if not isinstance(source, int):
            num_frames = self.capture.get(cv2.CAP_PROP_FRAME_COUNT)
        self.fps = fps if math.isfinite(fps) and fps > 0 else 30.0
        self.num_frames = int(num_frames) if math.isfinite(num_frames) and num_frames > 0 else 0
        self.num_read, self.seconds = 0, 0.0

    def __iter__(self) -> Iterator[np.ndarray]:
        """Frames (H, W, 3), RGB, upright."""
        while True:
            there, frame = self.capture.read()
            if not there:
                return
            self.num_read += 1
            self.seconds = self.capture.get(cv2.CAP_PROP_POS_MSEC) / 1000
            yield cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)

    def check_end(self) -> None:
        """Raise an UnreadableVideo where there were no frames, or they end far too early."""
        if not self.num_read:
            raise UnreadableVideo(f"{self.source}: no frame can be read.")
        # Evenly spaced, there would be so many: of a changing frame rate the number is too large.
        reached = max(self.num_read, self.seconds * self.fps + 1)
        if reached < LEAST_FRAMES * self.num_frames:
            raise UnreadableVideo(
                f"{self.source}: breaks off after {reached / self.fps:.1f} of "
                f"{self.num_frames / self.fps:.1f} seconds."
            )


def batches(
    images: Iterable[tuple[dict, np.ndarray]], size: int
) -> Iterator[list[tuple[dict, np.ndarray]]]:
    """Images and what is known of them, ``size`` at a time, or fewer where they are huge."""
    batch: list[tuple[dict, np.ndarray]] = []
    for image in images:
        batch.append(image)
        pixels = sum(x.shape[0] * x.shape[1] for _, x in batch)
        if len(batch) == size or pixels > MAX_PIXELS:
            yield batch
            batch = []
    if batch:
        yield batch
