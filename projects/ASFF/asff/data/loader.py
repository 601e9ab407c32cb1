"""Loader of training batches, which counts unreadable images and dropped boxes."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass, field

import cv2
from detectron2.data.build import trivial_batch_collator
from torch.multiprocessing import set_sharing_strategy
from torch.utils.data import DataLoader

from .batch_plan import BatchPlanSampler
from .image_io import UnreadableImage
from .training_dataset import TrainingDataset

logger = logging.getLogger("asff")


@dataclass
class LoaderStats:
    """Counters of one process's loader.

    Attributes:
        reads: images that were read or tried.
        unreadable: failed reads by reason.
        boxes, dropped_boxes: boxes after augmentation, and boxes that it made too small.
    """

    reads: int = 0
    unreadable: dict[str, int] = field(default_factory=dict)
    boxes: int = 0
    dropped_boxes: int = 0

    @property
    def failures(self) -> int:
        return sum(self.unreadable.values())

    def summary(self) -> list[str]:
        """Return a sentence for each kind of data that was not used."""
        lines = []
        if self.dropped_boxes:
            share = self.dropped_boxes / (self.boxes + self.dropped_boxes)
            lines.append(
                f"{share:.1%} of this process's training boxes were not used: after augmentation "
                "they were too small (INPUT.MIN_BOX_SIDE, INPUT.MIN_BOX_VISIBLE) or degenerate."
            )
        if self.unreadable:
            lines.append(
                f"{self.failures} of {self.reads} reads in this process failed, of "
                f"{len(self.unreadable)} images, which were replaced by others."
            )
        return lines


class TrainingLoader:
    """Endless training batches of this process: lists of dicts.

    Args:
        num_workers: number of processes that read; 0 reads in this one.
        max_unreadable: largest share of failed reads; beyond it, training stops.
    """

    def __init__(
        self,
        dataset: TrainingDataset,
        sampler: BatchPlanSampler,
        *,
        num_workers: int = 0,
        max_unreadable: float = 0.01,
    ):
        self.dataset = dataset
        self.sampler = sampler
        self.max_unreadable = max_unreadable
        self.stats = LoaderStats()
        self.batches = DataLoader(
            dataset,
            batch_sampler=sampler,
            num_workers=num_workers,
            collate_fn=trivial_batch_collator,
            worker_init_fn=start_worker,
        )

    def resume(self, iteration: int, seed: int) -> None:
        """Let the next pass begin at an iteration of the batch plan with this seed."""
        self.sampler.iteration = iteration
        self.sampler.batch_plan.seed = seed

    def __iter__(self) -> Iterator[list[dict]]:
        """Yield batches from the sampler's ``iteration`` on.

        Raises:
            UnreadableImage: more than ``max_unreadable`` of the reads failed.
        """
        for batch in self.batches:
            for example in batch:
                self.count(example)
            yield batch

    def count(self, example: dict) -> None:
        """Move the counters of an example into ``stats``.

        Raises:
            UnreadableImage: too many reads failed, or no image could be read for this example.
        """
        stats = self.stats
        stats.reads += example.pop("reads")
        stats.boxes += len(example.get("instances", ()))
        stats.dropped_boxes += example.pop("dropped_boxes", 0)
        for reason in example.pop("unreadable"):
            if reason not in stats.unreadable:
                logger.warning(f"Another image replaces an unreadable one: {reason}")
            stats.unreadable[reason] = stats.unreadable.get(reason, 0) + 1
        # Early on, a single failure is a large share of the reads so far: an epoch's reads count.
        reads = max(stats.reads, self.sampler.share * len(self.dataset))
        if stats.failures > self.max_unreadable * reads or "image" not in example:
            reasons = "\n".join(f"  {reason}" for reason in stats.unreadable)
            raise UnreadableImage(
                f"{stats.failures} of {stats.reads} reads of images failed; "
                f"DATALOADER.MAX_UNREADABLE allows {self.max_unreadable:.2%}:\n{reasons}\n"
                "Repair or remove these images (asff check-data --fix), or raise the key."
            )


def start_worker(worker: int) -> None:
    if hasattr(os, "setpgrp"):  # not on Windows
        os.setpgrp()  # after a signal to the group of a training, its next step needs the workers
    cv2.setNumThreads(0)  # the cores are shared out among the workers
    # By descriptors, each tensor would be an open file: 128 images exceed the usual 1024.
    set_sharing_strategy("file_system")
