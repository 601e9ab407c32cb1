"""Detect objects in images and videos, draw them, and write them to files."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from tqdm import tqdm

from ..data import read_ahead
from ..data.image_io import UnreadableImage
from ..data.media import UnreadableVideo, Video, batch_images
from ..visualization import draw_instances
from ..visualization.files import DetectionsFile, OutputFolder, VideoFile
from ..visualization.window import show_image
from .predictor import Predictor

# What is known of an image; its pixels (H, W, 3), RGB; and the detector's input.
Loaded = tuple[dict, np.ndarray, dict]


class Demo:
    """Detects, draws and writes batch by batch, so that memory does not grow.

    Args:
        folder: gets an image or a video for every input.
        results: gets all detections.
        min_score: lowest score of the detections that are drawn and written.
        show: show each image in the window of :func:`open_window`, too.

    Attributes:
        unreadable: a message for every file that was skipped.
        failed: whether one of them is a video.
    """

    def __init__(
        self,
        predictor: Predictor,
        folder: OutputFolder,
        results: DetectionsFile,
        *,
        min_score: float,
        show: bool,
    ):
        self.predictor, self.folder, self.results = predictor, folder, results
        self.min_score, self.show = min_score, show
        self.unreadable: list[str] = []
        self.failed = False

    def run_images(self, files: Sequence[str]) -> None:
        """Detect in image files, skipping those that cannot be read."""
        with tqdm(total=len(files), unit=" images") as bar:
            for batch in batch_images(self._load(files, bar), self.predictor.batch_size):
                for info, drawn in self._detect(batch):
                    self.folder.save(info["file_name"], drawn)
                    if self.show:
                        show_image(drawn, wait=True)
                    bar.update()

    def run_video(self, source: str | int) -> None:
        """Detect in a video file, or in the frames of a camera until a key ends it."""
        name = f"webcam{source}" if isinstance(source, int) else source
        # A camera is live.
        size, ahead = (1, 0) if isinstance(source, int) else [self.predictor.batch_size] * 2
        try:
            video = Video(source)
            loaded = enumerate(read_ahead(self.predictor.load, video, ahead))
            frames = (({"file_name": name, "frame": i}, *x.result()) for i, x in loaded)
            with (
                VideoFile(self.folder.name(name, ".mp4"), video.fps) as output,
                tqdm(total=video.num_frames or None, unit=" images") as bar,
            ):
                for batch in batch_images(frames, size):
                    for _, drawn in self._detect(batch):
                        output.write(drawn)
                        if self.show:
                            show_image(drawn, wait=False)
                        bar.update()
            video.check_end()
        except UnreadableVideo as error:
            self.unreadable.append(str(error))
            self.failed = True

    def _load(self, files: Sequence[str], bar: tqdm) -> Iterator[Loaded]:
        predictor = self.predictor
        for file, loaded in zip(files, read_ahead(predictor.load, files, predictor.batch_size)):
            try:
                yield {"file_name": file}, *loaded.result()
            except UnreadableImage as error:
                self.unreadable.append(str(error))
                bar.update()

    def _detect(self, batch: list[Loaded]) -> Iterator[tuple[dict, np.ndarray]]:
        """Record the detections of a batch; yield each image's fields and the drawn image."""
        inputs = [inputs for _, _, inputs in batch]
        for (info, image, _), found in zip(batch, self.predictor.detect(inputs)):
            found = found[found.scores >= self.min_score]
            self.results.add(info, image.shape, found)
            names = self.predictor.class_names
            yield info, draw_instances(image, found, names, min_score=self.min_score)
