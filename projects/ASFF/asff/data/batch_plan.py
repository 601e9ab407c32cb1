"""The training stream: everything random about a batch, as a pure function of seed and iteration.

The same batches come from 1 or N processes (each takes its slots), from any number of workers, and
after a resume. Phases (mixup off, final size) are values of the function, so prefetching cannot
shift them.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from torch.utils.data import Sampler

# What a generator is for: no two draws share one.
ORDER, SIZE, BATCH = range(3)


class Sample(NamedTuple):
    """What the dataset is told about one image of a batch.

    Attributes:
        index: of the image.
        partner: of the image mixed with it; -1 without mixup.
        weight: lambda, share of the first image in the mixture; 1 without mixup.
        size: side of the square in pixels.
        seed: of all else that is random about the image.
    """

    index: int
    partner: int
    weight: float
    size: int
    seed: int


@dataclass(frozen=True)
class Mixup:
    """Mix with this probability by lambda ~ Beta(alpha, alpha), up to iteration ``end``."""

    prob: float
    alpha: float
    end: int


@dataclass(frozen=True)
class Sizes:
    """Another one of ``choices`` every ``period`` iterations.

    But ``first`` in the first period, and ``final`` from iteration ``final_start`` on.
    """

    choices: Sequence[int]
    period: int
    first: int
    final: int
    final_start: int


class BatchPlan:
    """Maps an iteration to the samples of its batch, over all processes.

    Args:
        repeat_factors: (images,), how often each image is seen in an epoch; all 1 for plain epochs.
        batch_size: of all processes together.
        seed: not negative.
        sizes, mixup: see there.
        groups: (images,), numbers of groups to keep together: all images of a batch are of one,
            but for a batch or two an epoch.
    """

    def __init__(
        self,
        repeat_factors: np.ndarray,
        *,
        batch_size: int,
        seed: int,
        sizes: Sizes,
        mixup: Mixup,
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
        self._orders: dict[int, np.ndarray] = {}

    def __call__(self, iteration: int) -> list[Sample]:
        """The samples of a batch; every process computes the same ones."""
        generator = self.generator(BATCH, iteration)
        size = self.size(iteration)
        seeds = generator.integers(2**32, size=self.batch_size).tolist()
        mixed = generator.random(self.batch_size) < self.mixup.prob
        steps = generator.integers(1, max(self.num_images, 2), size=self.batch_size).tolist()
        weights = generator.beta(self.mixup.alpha, self.mixup.alpha, self.batch_size).tolist()
        if self.num_images == 1 or iteration >= self.mixup.end:
            mixed[:] = False
        samples = []
        for slot, index in enumerate(self.indices(iteration)):
            if mixed[slot]:
                # Any image but itself.
                partner = (index + steps[slot]) % self.num_images
                samples.append(Sample(index, partner, weights[slot], size, seeds[slot]))
            else:
                samples.append(Sample(index, -1, 1.0, size, seeds[slot]))
        return samples

    def with_seed(self, seed: int) -> BatchPlan:
        """The same stream from another seed."""
        stream = copy.copy(self)
        stream.seed, stream._orders = seed, {}
        return stream

    def generator(self, purpose: int, number: int) -> np.random.Generator:
        return np.random.default_rng([self.seed, purpose, number])

    def size(self, iteration: int) -> int:
        """Side of the squares of a batch in pixels."""
        if iteration >= self.sizes.final_start:
            return self.sizes.final
        block = iteration // self.sizes.period
        if block == 0:
            return self.sizes.first
        return int(self.generator(SIZE, block).choice(self.sizes.choices))

    def indices(self, iteration: int) -> list[int]:
        """Images of a batch: the next ones of epochs that follow each other without a gap."""
        start = iteration * self.batch_size
        epochs = [divmod(start + slot, self.epoch_length) for slot in range(self.batch_size)]
        return [int(self.order(epoch)[place]) for epoch, place in epochs]

    def order(self, epoch: int) -> np.ndarray:
        """Images of an epoch in their order; (epoch_length,)."""
        if epoch not in self._orders:
            # A batch larger than the dataset goes on through several epochs.
            self._orders = {e: order for e, order in self._orders.items() if e >= epoch - 1}
            generator = self.generator(ORDER, epoch)
            images = generator.permutation(self.num_images)
            # Factors are rounded up or down at random, but their total stays: with the factors laid
            # end to end, a comb with teeth 1 apart is put at random, and each tooth takes an image.
            ends = np.cumsum(self.repeat_factors[images])
            places = np.arange(self.epoch_length) + generator.random()
            copies = images[np.searchsorted(ends, places, side="right").clip(max=len(images) - 1)]
            order = generator.permutation(copies)
            if self.groups is not None:
                start = epoch * self.epoch_length % self.batch_size
                order = group_batches(order, self.groups[order], self.batch_size, start, generator)
            self._orders[epoch] = order
        return self._orders[epoch]


def group_batches(
    images: np.ndarray,
    groups: np.ndarray,
    batch_size: int,
    start: int,
    generator: np.random.Generator,
) -> np.ndarray:
    """Order images so that those of a batch are of one group; what is left over is mixed.

    Args:
        images, groups: (M,), in random order, and the group of each.
        start: place in its batch at which the first image stands.
    """
    parts = [images[groups == group] for group in np.unique(groups)]
    wholes = [len(part) // batch_size * batch_size for part in parts]
    batches = np.concatenate([part[:n].reshape(-1, batch_size) for part, n in zip(parts, wholes)])
    batches = generator.permutation(batches)
    rest = generator.permutation(np.concatenate([part[n:] for part, n in zip(parts, wholes)]))
    # The rest first completes the batch that the last epoch began.
    head = -start % batch_size
    if len(rest) < head and len(batches):
        rest, batches = np.concatenate([rest, batches[-1]]), batches[:-1]
    return np.concatenate([rest[:head], batches.ravel(), rest[head:]])


def epoch_length(repeat_factors: np.ndarray) -> int:
    """Images of an epoch, repeats included."""
    return max(round(float(repeat_factors.sum())), 1)


def phase_length(epochs: float, iterations: int, *, per_epoch: float) -> int:
    """Iterations of a phase given by epochs and by iterations, of which the larger counts.

    Args:
        per_epoch: iterations of an epoch.
    """
    return max(math.ceil(epochs * per_epoch), iterations)


class BatchPlanSampler(Sampler):
    """Batches of this process for a DataLoader (``batch_sampler``), without end.

    Args:
        stream: shared by all processes.
        rank, world_size: this process and the number of all.

    Attributes:
        share: of each batch that is this process's.
        iteration: at which the next pass begins; set it before, to resume.

    Raises:
        ValueError: the processes do not divide the batch.
    """

    def __init__(self, stream: BatchPlan, *, rank: int = 0, world_size: int = 1):
        if stream.batch_size % world_size:
            raise ValueError(
                f"SOLVER.IMS_PER_BATCH is {stream.batch_size}, which {world_size} processes do not "
                "divide."
            )
        self.stream = stream
        share = stream.batch_size // world_size
        self.slots = slice(rank * share, (rank + 1) * share)
        self.share = 1 / world_size
        self.iteration = 0

    def __iter__(self) -> Iterator[list[Sample]]:
        iteration = self.iteration
        while True:
            yield self.stream(iteration)[self.slots]
            iteration += 1
