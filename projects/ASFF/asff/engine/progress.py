"""Progress lines of a training, with throughput and memory."""

from __future__ import annotations

import logging
import sys

import torch
from detectron2.utils.events import CommonMetricPrinter, EventStorage, get_event_storage

MIB = 2**20


class ProgressPrinter(CommonMetricPrinter):
    """Detectron2's progress line with throughput, memory and image size at its end.

    The writers that follow (metrics.json, TensorBoard) find the same numbers in the event storage:
    ``images_per_second`` of all processes together and ``data_time_share``, the share of the time
    that the slowest process waits for images, both over the last 20 steps without the time between
    them, as of an evaluation; and ``max_memory_mib``.

    Args:
        max_iter: of the training.
        batch_size: of all processes together.
        device: of this process.
    """

    def __init__(self, max_iter: int, *, batch_size: int, device: torch.device):
        super().__init__(max_iter)
        self.batch_size, self.device = batch_size, device
        self.logger = _SuffixLogger(self.logger)

    def write(self) -> None:
        storage = get_event_storage()
        latest = storage.latest()
        if storage.iter < self._max_iter and "image_size" in latest:  # a step has been taken
            numbers = measure_throughput(storage, self.batch_size, self._window_size)
            numbers["max_memory_mib"] = max_memory(self.device) / MIB
            storage.put_scalars(**numbers, smoothing_hint=False)
            self.logger.suffix = self._describe({**numbers, "image_size": latest["image_size"][0]})
        super().write()

    def _describe(self, numbers: dict[str, float]) -> str:
        parts = []
        if "images_per_second" in numbers:
            parts.append(f"images/s: {numbers['images_per_second']:.4g}")
            parts.append(f"data_share: {numbers['data_time_share']:.0%}")
        if self.device.type != "cuda":  # there Detectron2's line has max_mem
            parts.append(f"max_rss: {numbers['max_memory_mib']:.0f}M")
        return "  ".join([*parts, f"image_size: {numbers['image_size']:.0f}"])


class _SuffixLogger(logging.LoggerAdapter):
    """Logger that appends ``suffix`` to every message."""

    suffix = ""

    def process(self, msg: str, kwargs: dict) -> tuple[str, dict]:
        return f"{msg.rstrip()}  {self.suffix}".rstrip(), kwargs


def measure_throughput(storage: EventStorage, batch_size: int, window: int) -> dict[str, float]:
    """Compute ``images_per_second`` and ``data_time_share`` of the last ``window`` steps.

    They are means, because the median hides a loader that is late now and then; empty before a step
    was timed.

    Args:
        storage: with ``time`` and ``data_time``, in seconds.
        batch_size: images of a step.
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
    """Return this process's peak memory in bytes.

    On CUDA that of tensors on the device, else the resident memory, Python and libraries included.
    Data workers are not counted.
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated()
    import resource  # not on Windows

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak
