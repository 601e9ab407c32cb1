"""Read images and videos that a command line names: files, folders, patterns and cameras."""

from __future__ import annotations

import glob
import math
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np

from .datasets import IMAGE_SUFFIXES

VIDEO_SUFFIXES = (".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".wmv")
# Containers often estimate their number of frames; a video with a smaller share of it is truncated.
MIN_FRAMES = 0.9
# Limit of the pixels of a batch: its decoded images have to fit in memory.
MAX_PIXELS = 50_000_000

# Our own messages replace what OpenCV and FFmpeg would print.
os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
cv2.setLogLevel(0)


class UnreadableVideo(ValueError):
    """A video or camera without frames, or a truncated video."""


def find_media(inputs: Sequence[str]) -> tuple[list[str], list[str]]:
    """Find the images and the videos that inputs stand for, each once.

    Args:
        inputs: files; folders, for the images and videos directly in them; or patterns such as
            ``data/**/*.jpg``.

    Returns:
        Files of images, and files of videos.

    Raises:
        ValueError: an input stands for no file.
    """
    files = dict.fromkeys(file for item in inputs for file in _expand(item))
    videos = [file for file in files if _is_video(file)]
    return [file for file in files if not _is_video(file)], videos


def _expand(item: str) -> list[str]:
    path = Path(item)
    if path.is_dir():
        suffixes = (*IMAGE_SUFFIXES, *VIDEO_SUFFIXES)
        files = [str(x) for x in path.iterdir() if x.suffix.lower() in suffixes and x.is_file()]
        missing = f"the folder holds no images or videos ({', '.join(suffixes)})"
    elif path.is_file():
        return [item]
    else:
        files = [x for x in glob.glob(item, recursive=True) if os.path.isfile(x)]
        missing = "no file matches" if glob.has_magic(item) else "there is no such file"
    if not files:
        raise ValueError(f"{item}: {missing}.")
    return sorted(files)


def _is_video(file: str) -> bool:
    return file.lower().endswith(VIDEO_SUFFIXES)


class Video:
    """The frames of a video file or of a camera.

    Args:
        source: a path, or the number of a camera.

    Attributes:
        fps: frames per second.
        num_frames: number of frames by the file's header; 0 if unknown.

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
        """Iterate over the frames (H, W, 3), RGB, upright."""
        while True:
            success, frame = self.capture.read()
            if not success:
                return
            self.num_read += 1
            self.seconds = self.capture.get(cv2.CAP_PROP_POS_MSEC) / 1000
            yield cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)

    def check_end(self) -> None:
        """Raise an UnreadableVideo if no frame was read, or the video is truncated."""
        if not self.num_read:
            raise UnreadableVideo(f"{self.source}: no frame can be read.")
        # The header of a variable frame rate counts more frames than there are: use the time too.
        reached = max(self.num_read, self.seconds * self.fps + 1)
        if reached < MIN_FRAMES * self.num_frames:
            raise UnreadableVideo(
                f"{self.source}: breaks off after {reached / self.fps:.1f} of "
                f"{self.num_frames / self.fps:.1f} seconds."
            )


def batch_images(
    images: Iterable[tuple[dict, np.ndarray, dict]], batch_size: int
) -> Iterator[list[tuple[dict, np.ndarray, dict]]]:
    """Group metadata, pixels and inputs of images into batches, smaller ones of huge images."""
    batch: list[tuple[dict, np.ndarray, dict]] = []
    for image in images:
        batch.append(image)
        pixels = sum(x.shape[0] * x.shape[1] for _, x, _ in batch)
        if len(batch) == batch_size or pixels > MAX_PIXELS:
            yield batch
            batch = []
    if batch:
        yield batch
