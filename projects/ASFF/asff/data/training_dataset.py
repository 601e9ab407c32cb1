"""Map-style dataset from the sample specs of a batch plan to training examples."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
from torch.utils.data import Dataset

from .batch_plan import SampleSpec
from .image_io import UnreadableImage

MAX_REPLACEMENTS = 10


class TrainingDataset(Dataset):
    """Map sample specs to training examples.

    Args:
        dataset_dicts: a DatasetFromList of Detectron2, so that workers do not copy the dicts.
        mapper: called with a dataset dict, that of the partner or None, ``weight`` and ``size``.
    """

    def __init__(self, dataset_dicts: Sequence[dict], mapper: Callable[..., dict]):
        self.dataset_dicts = dataset_dicts
        self.mapper = mapper

    def __len__(self) -> int:
        return len(self.dataset_dicts)

    def __getitem__(self, spec: SampleSpec) -> dict:
        """Map a sample; an unreadable one is replaced by another that its seed determines.

        Returns:
            The mapper's dict, with ``reads``, the number of images that were read or tried, and
            ``unreadable``, the reasons of those that failed. It holds only these two keys if
            MAX_REPLACEMENTS replacements in a row are unreadable, too.
        """
        index, partner, mixed = spec.index, spec.partner, spec.partner >= 0
        reads, unreadable = 0, []
        with _seeded(spec.seed):
            for _ in range(1 + MAX_REPLACEMENTS):
                reads += 1 + mixed
                first = self.dataset_dicts[index]
                second = self.dataset_dicts[partner] if mixed else None
                try:
                    mapped = self.mapper(first, second, weight=spec.weight, size=spec.size)
                except UnreadableImage as error:
                    unreadable.append(str(error))
                    index, partner = np.random.randint(len(self), size=2).tolist()
                else:
                    return {**mapped, "reads": reads, "unreadable": unreadable}
        return {"reads": reads, "unreadable": unreadable}


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Seed the global generators that augmentations draw from; restore them afterwards."""
    states = np.random.get_state(), random.getstate()
    np.random.seed(seed)
    random.seed(seed)
    try:
        yield
    finally:
        np.random.set_state(states[0])
        random.setstate(states[1])
