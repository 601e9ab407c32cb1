"""The log's line of progress: Detectron2's, and what tells whether a machine is used well."""

from __future__ import annotations

import logging
import sys

import torch
from detectron2.utils.events import CommonMetricPrinter, EventStorage, get_event_storage

MIB = 2**20


class ProgressPrinter(CommonMetricPrinter):
    """Ends Detectron2's line with pace, memory and image size.

    What it measures it also puts into the event storage, for the writers that come after it
    (metrics.json, TensorBoard): ``images_per_second`` of all processes together and
    ``data_time_share``, the share of the time that the slowest process waits for images, both over
    the last 20 steps without what is between them, as evaluation; and ``max_memory_mib``.

    Args:
        max_iter: of the training.
        batch_size: of all processes together.
        device: that this process trains on.
    """

    def __init__(self, max_iter: int, *, batch_size: int, device: torch.device):
        super().__init__(max_iter)
        self.batch_size, self.device = batch_size, device
        self.logger = Continued(self.logger)

    def write(self) -> None:
        storage = get_event_storage()
        latest = storage.latest()
        if storage.iter < self._max_iter and "image_size" in latest:  # a step has been taken
            numbers = measure_pace(storage, self.batch_size, self._window_size)
            numbers["max_memory_mib"] = max_memory(self.device) / MIB
            storage.put_scalars(**numbers, smoothing_hint=False)
            self.logger.end = self.describe({**numbers, "image_size": latest["image_size"][0]})
        super().write()

    def describe(self, numbers: dict[str, float]) -> str:
        """The end of the line."""
        parts = []
        if "images_per_second" in numbers:
            parts.append(f"images/s: {numbers['images_per_second']:.4g}")
            parts.append(f"data_share: {numbers['data_time_share']:.0%}")
        if self.device.type != "cuda":  # else it is Detectron2's max_mem
            parts.append(f"max_rss: {numbers['max_memory_mib']:.0f}M")
        return "  ".join([*parts, f"image_size: {numbers['image_size']:.0f}"])


class Continued(logging.LoggerAdapter):
    """A logger that lets every message end with ``end``."""

    end = ""

    def process(self, msg: str, kwargs: dict) -> tuple[str, dict]:
        return f"{msg.rstrip()}  {self.end}".rstrip(), kwargs


def measure_pace(storage: EventStorage, batch_size: int, window: int) -> dict[str, float]:
    """``images_per_second`` and ``data_time_share`` of the last steps; empty before any was timed.

    Means, for a loader that is late now and then has a small median.

    Args:
        storage: with ``time`` and ``data_time``, in seconds.
        batch_size: images of a step.
        window: the number of steps.
    """
    if "time" not in storage.histories():  # Detectron2 does not time the first ones
        return {}
    times = storage.history("time").values()[-window:]
    waits = {step: wait for wait, step in storage.history("data_time").values()[-window:]}
    seconds = sum(time for time, _ in times)
    return {
        "images_per_second": batch_size * len(times) / seconds,
        "data_time_share": sum(waits[step] for _, step in times) / seconds,
    }


def max_memory(device: torch.device) -> float:
    """The most bytes that this process has had so far.

    On CUDA: of tensors on the device. Else: resident in the machine's memory, Python and libraries
    included; processes that read images are not counted.
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated()
    import resource  # not on Windows

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak
