"""Batches for training, and an account of what became of their images and boxes."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass, field

import cv2
from detectron2.data.build import trivial_batch_collator
from torch.utils.data import DataLoader

from .batch_plan import BatchPlanSampler
from .image_io import UnreadableImage
from .training_dataset import TrainingDataset

logger = logging.getLogger("asff")


@dataclass
class LoaderStats:
    """What this process has seen so far.

    Attributes:
        reads: images read, or tried to.
        unreadable: why they failed, by message, and how often.
        boxes, dropped_boxes: after augmentation, and those it left too little of.
    """

    reads: int = 0
    unreadable: dict[str, int] = field(default_factory=dict)
    boxes: int = 0
    dropped_boxes: int = 0


class TrainingLoader:
    """Endless batches of this process's share of the training stream: lists of dicts.

    Args:
        dataset, sampler: what to read, and in which order.
        num_workers: processes that read; 0 reads in this one.
        max_unreadable: share of all reads; where more fail, training stops.
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
        self.account = LoaderStats()
        self.batches = DataLoader(
            dataset,
            batch_sampler=sampler,
            num_workers=num_workers,
            collate_fn=trivial_batch_collator,
            worker_init_fn=start_worker,
        )

    def resume(self, iteration: int, seed: int) -> None:
        """Let the next pass begin at an iteration of the stream that has this seed."""
        self.sampler.iteration = iteration
        self.sampler.stream = self.sampler.stream.with_seed(seed)

    def __iter__(self) -> Iterator[list[dict]]:
        """Batches from the sampler's ``iteration`` on.

        Raises:
            UnreadableImage: more than ``max_unreadable`` of the images cannot be read.
        """
        for batch in self.batches:
            for example in batch:
                self.count(example)
            yield batch

    def count(self, example: dict) -> None:
        """Move what an example says of its making into the account."""
        account = self.account
        account.reads += example.pop("reads")
        account.boxes += len(example.get("instances", ()))
        account.dropped_boxes += example.pop("dropped_boxes", 0)
        for reason in example.pop("unreadable"):
            if reason not in account.unreadable:
                logger.warning(f"Another image takes the place of an unreadable one: {reason}")
            account.unreadable[reason] = account.unreadable.get(reason, 0) + 1
        # Early on, a single one is a large share of the few that were read: an epoch's are counted.
        reads = max(account.reads, self.sampler.share * len(self.dataset))
        allowed = self.max_unreadable * reads
        if sum(account.unreadable.values()) > allowed or "image" not in example:
            raise UnreadableImage(self.complaint())

    def complaint(self) -> str:
        account = self.account
        listed = "\n".join(f"  {reason}" for reason in account.unreadable)
        return (
            f"{sum(account.unreadable.values())} of {account.reads} reads of images failed; "
            f"DATALOADER.MAX_UNREADABLE allows {self.max_unreadable:.2%}:\n{listed}\n"
            "Repair or remove these images (tools/check_dataset.py --fix), or raise the key."
        )

    def report(self) -> list[str]:
        """What was left out, in sentences; nothing where nothing was."""
        account, lines = self.account, []
        if account.dropped_boxes:
            share = account.dropped_boxes / (account.boxes + account.dropped_boxes)
            lines.append(
                f"{share:.1%} of this process's training boxes were not used: crops left too "
                "little of them (INPUT.MIN_BOX_SIDE, INPUT.MIN_BOX_VISIBLE), or they have no area."
            )
        if account.unreadable:
            lines.append(
                f"{sum(account.unreadable.values())} of {account.reads} reads in this process "
                f"failed, of {len(account.unreadable)} images; others took their places."
            )
        return lines


def start_worker(worker: int) -> None:
    # There are as many workers as there are cores to spare.
    cv2.setNumThreads(0)
