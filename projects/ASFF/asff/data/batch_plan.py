"""Deterministic batch plan: all that is random about a batch is a function of seed and iteration.

Hence the batches are the same for any number of processes (each takes its share) and of workers,
and after a resume. The phases (without mixup, at the final size) depend on the iteration alone, so
prefetching cannot shift them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from torch.utils.data import Sampler

# Purposes of random generators, so that each draw has its own.
ORDER, SIZE, BATCH = range(3)


class SampleSpec(NamedTuple):
    """Everything random about one image of a batch.

    Attributes:
        index: of the image in the dataset.
        partner: index of the image mixed with it; -1 without mixup.
        weight: lambda, the share of the first image in the mixture; 1 without mixup.
        size: side of the square in pixels.
        seed: of the augmentations.
    """

    index: int
    partner: int
    weight: float
    size: int
    seed: int


@dataclass(frozen=True)
class MixupSchedule:
    """Mixup with probability ``prob`` and lambda ~ Beta(alpha, alpha), before iteration ``end``."""

    prob: float
    alpha: float
    end: int


@dataclass(frozen=True)
class SizeSchedule:
    """Sizes in pixels: one is drawn from ``choices`` every ``period`` iterations.

    The first period has the size ``first``, iterations from ``final_start`` on the size ``final``.
    """

    choices: Sequence[int]
    period: int
    first: int
    final: int
    final_start: int


class BatchPlan:
    """Map an iteration to the sample specs of its batch, over all processes.

    Args:
        repeat_factors: (images,), how often each image is seen in an epoch; 1 for plain epochs.
        batch_size: of all processes together.
        seed: not negative; another one may be set at any time.
        groups: (images,), group numbers, or None; a batch has images of one group, except one or
            two batches per epoch.
    """

    def __init__(
        self,
        repeat_factors: np.ndarray,
        *,
        batch_size: int,
        seed: int,
        sizes: SizeSchedule,
        mixup: MixupSchedule,
        groups: np.ndarray | None = None,
    ):
        self.batch_size = batch_size
        self.seed = seed
        self.sizes = sizes
        self.mixup = mixup
        self.groups = groups
        self.num_images = len(repeat_factors)
        self.epoch_length = epoch_length(repeat_factors)
        self.repeat_factors = repeat_factors * (self.epoch_length / repeat_factors.sum())
        self._drawn, self._order = (seed, -1), np.zeros(0, int)  # seed and epoch drawn last

    def __call__(self, iteration: int) -> list[SampleSpec]:
        """Return the sample specs of a batch; they are the same in every process."""
        generator = self._generator(BATCH, iteration)
        size = self.size(iteration)
        seeds = generator.integers(2**32, size=self.batch_size).tolist()
        mixed = generator.random(self.batch_size) < self.mixup.prob
        steps = generator.integers(1, max(self.num_images, 2), size=self.batch_size).tolist()
        weights = generator.beta(self.mixup.alpha, self.mixup.alpha, self.batch_size).tolist()
        if self.num_images == 1 or iteration >= self.mixup.end:
            mixed[:] = False
        specs = []
        for position, index in enumerate(self.indices(iteration)):
            partner, weight = -1, 1.0
            if mixed[position]:  # with any image but itself
                partner = (index + steps[position]) % self.num_images
                weight = weights[position]
            specs.append(SampleSpec(index, partner, weight, size, seeds[position]))
        return specs

    def size(self, iteration: int) -> int:
        """Return the side of the square in pixels of an iteration's images."""
        if iteration >= self.sizes.final_start:
            return self.sizes.final
        period = iteration // self.sizes.period
        if period == 0:
            return self.sizes.first
        return int(self._generator(SIZE, period).choice(self.sizes.choices))

    def indices(self, iteration: int) -> list[int]:
        """Return the indices of a batch's images; a batch may span epochs."""
        start = iteration * self.batch_size
        positions = [divmod(start + i, self.epoch_length) for i in range(self.batch_size)]
        return [int(self.order(epoch)[position]) for epoch, position in positions]

    def order(self, epoch: int) -> np.ndarray:
        """Return the indices of an epoch's images in their order: (epoch_length,)."""
        if (self.seed, epoch) != self._drawn:
            self._drawn, self._order = (self.seed, epoch), self._draw_order(epoch)
        return self._order

    def _draw_order(self, epoch: int) -> np.ndarray:
        generator = self._generator(ORDER, epoch)
        images = generator.permutation(self.num_images)
        # Systematic sampling rounds factors up or down at random, but keeps their total: with the
        # factors laid end to end, points at a distance of 1 with a random offset pick the images.
        ends = np.cumsum(self.repeat_factors[images])
        points = np.arange(self.epoch_length) + generator.random()
        picked = images[np.searchsorted(ends, points, side="right").clip(max=len(images) - 1)]
        order = generator.permutation(picked)
        if self.groups is not None:
            start = epoch * self.epoch_length % self.batch_size
            order = group_batches(order, self.groups[order], self.batch_size, start, generator)
        return order

    def _generator(self, purpose: int, number: int) -> np.random.Generator:
        return np.random.default_rng([self.seed, purpose, number])


def group_batches(
    images: np.ndarray,
    groups: np.ndarray,
    batch_size: int,
    start: int,
    generator: np.random.Generator,
) -> np.ndarray:
    """Order images so that those of a batch are of one group; only the remainders are mixed.

    Args:
        images, groups: (M,), images in random order, and the group of each.
        start: position of the first image in its batch.
    """
    parts = [images[groups == group] for group in np.unique(groups)]
    wholes = [len(part) // batch_size * batch_size for part in parts]
    batches = np.concatenate([part[:n].reshape(-1, batch_size) for part, n in zip(parts, wholes)])
    batches = generator.permutation(batches)
    rest = generator.permutation(np.concatenate([part[n:] for part, n in zip(parts, wholes)]))
    # The remainder first completes the batch that the previous epoch began.
    head = -start % batch_size
    if len(rest) < head and len(batches):
        rest, batches = np.concatenate([rest, batches[-1]]), batches[:-1]
    return np.concatenate([rest[:head], batches.ravel(), rest[head:]])


def epoch_length(repeat_factors: np.ndarray) -> int:
    """Return the number of images in an epoch, repeats included."""
    return max(round(float(repeat_factors.sum())), 1)


class BatchPlanSampler(Sampler):
    """Endless batch sampler of this process for a DataLoader (``batch_sampler``).

    Args:
        batch_plan: the same in all processes.
        rank, world_size: of this process, and the number of processes.

    Attributes:
        share: this process's share of each batch.
        iteration: at which the next pass begins; set it to resume.

    Raises:
        ValueError: the batch size is not divisible by the number of processes.
    """

    def __init__(self, batch_plan: BatchPlan, *, rank: int = 0, world_size: int = 1):
        if batch_plan.batch_size % world_size:
            raise ValueError(
                f"SOLVER.IMS_PER_BATCH is {batch_plan.batch_size}, which is not divisible by "
                f"{world_size} processes."
            )
        self.batch_plan = batch_plan
        count = batch_plan.batch_size // world_size
        self.positions = slice(rank * count, (rank + 1) * count)
        self.share = 1 / world_size
        self.iteration = 0

    def __iter__(self) -> Iterator[list[SampleSpec]]:
        iteration = self.iteration
        while True:
            yield self.batch_plan(iteration)[self.positions]
            iteration += 1
