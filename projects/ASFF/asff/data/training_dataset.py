"""The dataset obeys the stream: a sample says all that is random about an image."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
from torch.utils.data import Dataset

from .batch_plan import Sample
from .image_io import UnreadableImage

MAX_REPLACEMENTS = 10


class TrainingDataset(Dataset):
    """Maps samples to training examples.

    Args:
        records: dataset dicts; Detectron2's DatasetFromList, so that workers do not copy them.
        mapper: called with a dataset dict, that of the partner or None, ``weight`` and ``size``.
    """

    def __init__(self, records: Sequence[dict], mapper: Callable[..., dict]):
        self.records = records
        self.mapper = mapper

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, sample: Sample) -> dict:
        """Map a sample; one that cannot be read is replaced by one that its seed determines.

        Returns:
            What the mapper returns, with ``reads``, the number of images that were tried, and
            ``unreadable``, the reasons of those that failed. These two alone where ten replacements
            in a row cannot be read either.
        """
        unreadable: list[str] = []
        reads = 0
        with seeded(sample.seed):
            for _ in range(1 + MAX_REPLACEMENTS):
                reads += 1 + (sample.partner >= 0)
                try:
                    mapped = self.map(sample)
                except UnreadableImage as error:
                    unreadable.append(str(error))
                    sample = self.replacement(sample)
                else:
                    return {**mapped, "reads": reads, "unreadable": unreadable}
        return {"reads": reads, "unreadable": unreadable}

    def map(self, sample: Sample) -> dict:
        partner = self.records[sample.partner] if sample.partner >= 0 else None
        return self.mapper(
            self.records[sample.index], partner, weight=sample.weight, size=sample.size
        )

    def replacement(self, sample: Sample) -> Sample:
        """Two random images, or one where none is mixed in."""
        index, partner = np.random.randint(len(self.records), size=2).tolist()
        return sample._replace(index=index, partner=partner if sample.partner >= 0 else -1)


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed the global generators that augmentations draw from; restore them afterwards."""
    states = np.random.get_state(), random.getstate()
    np.random.seed(seed)
    random.seed(seed)
    try:
        yield
    finally:
        np.random.set_state(states[0])
        random.setstate(states[1])
