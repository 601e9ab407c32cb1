from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from detectron2.data import DatasetFromList
from detectron2.data import transforms as T

from asff.data import UnreadableImage
from asff.data.augmentation import RandomColor, RandomMinIoUCrop
from asff.data.batch_plan import SampleSpec
from asff.data.mapper import SquareMapper
from asff.data.training_dataset import MAX_REPLACEMENTS, TrainingDataset
from tests.data.rectangles import write

COUNT = 6
DICTS = [{"image_id": i} for i in range(COUNT)]


def global_state() -> tuple[bytes, object]:
    return np.random.get_state()[1].tobytes(), np.random.get_state()[2], random.getstate()


def draw() -> tuple[list, list]:
    """Draw numbers from both global generators."""
    return np.random.randint(1000, size=5).tolist(), [random.randrange(1000) for _ in range(5)]


class Recorder:
    """Mapper that keeps what it was called with, and cannot read some images."""

    def __init__(self, *broken: int):
        self.broken = broken
        self.calls: list[tuple[int, int]] = []

    def __call__(self, first: dict, partner: dict | None, *, weight: float, size: int) -> dict:
        ids = [x["image_id"] for x in (first, partner) if x]
        self.calls.append((ids[0], ids[1] if partner else -1))
        for number in ids:
            if number in self.broken:
                raise UnreadableImage(f"{number}.png: broken")
        return {"image": (ids[0], draw()), "weight": weight, "size": size}


def test_the_mapper_gets_what_the_spec_says():
    mapper = Recorder()
    dataset = TrainingDataset(DICTS, mapper)
    alone, mixed = dataset[SampleSpec(2, -1, 1.0, 96, 5)], dataset[SampleSpec(3, 1, 0.3, 64, 6)]
    assert mapper.calls == [(2, -1), (3, 1)]
    assert (alone["weight"], alone["size"], alone["reads"], alone["unreadable"]) == (1, 96, 1, [])
    assert (mixed["weight"], mixed["size"], mixed["reads"], mixed["unreadable"]) == (0.3, 64, 2, [])
    assert len(dataset) == COUNT


def test_same_spec_same_pixels_whatever_was_drawn_before(tmp_path):
    dicts = [write(tmp_path / f"{i}.png", 40, 50, {0: (5 + i, 5, 30, 30)}) for i in range(3)]
    augmentations = [RandomColor(), RandomMinIoUCrop(), T.RandomFlip()]
    mapper = SquareMapper(augmentations=augmentations, interpolations=(0, 1, 2))
    dataset = TrainingDataset(DatasetFromList(dicts), mapper)
    specs = [SampleSpec(1, 2, 0.4, 64, seed) for seed in (11, 12, 13, 14)]
    results = []
    for run, order in enumerate((specs, specs[::-1])):
        np.random.seed(run)
        random.seed(run)
        before = global_state()
        mapped = {spec.seed: dataset[spec] for spec in order}
        assert global_state() == before
        results.append([mapped[seed] for seed in (11, 12, 13, 14)])
    for first, second in zip(*results):
        assert torch.equal(first["image"], second["image"])
        boxes = [x["instances"].gt_boxes.tensor for x in (first, second)]
        assert torch.equal(*boxes)
    assert len({x["image"].numpy().tobytes() for x in results[0]}) == 4


@pytest.mark.parametrize("pair", [(4, -1), (4, 0), (0, 4), (4, 5)])
def test_unreadable_images_are_replaced(pair):
    """Both images of a mixture are replaced, by those that the seed determines."""
    results = []
    for before in (0, 1):
        np.random.seed(before)
        mapper = Recorder(4, 5)
        results.append(TrainingDataset(DICTS, mapper)[SampleSpec(*pair, 0.3, 96, 3)])
    assert results[0] == results[1]
    result, calls, mixed = results[1], mapper.calls, pair[1] >= 0
    assert calls[0] == pair and len(calls) >= 2
    assert not {4, 5} & set(calls[-1]) and result["image"][0] == calls[-1][0]
    assert all((partner >= 0) is mixed for _, partner in calls)
    assert result["reads"] == (1 + mixed) * len(calls)
    assert len(result["unreadable"]) == len(calls) - 1
    assert result["unreadable"][0] == "4.png: broken"
    assert (result["weight"], result["size"]) == (0.3, 96)


def test_replacements_differ_by_seed():
    """Of 5 other images, 60 seeds leave one out once in 100000 runs."""
    dataset = TrainingDataset(DICTS, Recorder(4))
    chosen = {dataset[SampleSpec(4, -1, 1.0, 96, seed)]["image"][0] for seed in range(60)}
    assert chosen == {0, 1, 2, 3, 5}


@pytest.mark.parametrize(("count", "partner"), [(COUNT, 1), (1, -1)])
def test_all_images_unreadable(count, partner):
    """The tries end with a result without image; a single image can only replace itself."""
    mapper, before = Recorder(*range(COUNT)), global_state()
    result = TrainingDataset(DICTS[:count], mapper)[SampleSpec(0, partner, 0.5, 96, 3)]
    assert result.keys() == {"reads", "unreadable"}
    assert len(result["unreadable"]) == len(mapper.calls) == 1 + MAX_REPLACEMENTS
    assert result["reads"] == (1 + (partner >= 0)) * len(mapper.calls)
    assert global_state() == before


def test_other_errors_are_not_hidden():
    """They, too, restore the random generators; the seed is the largest that numpy takes."""

    def fail(*args, **kwargs):
        draw()
        raise ValueError("a fault")

    before = global_state()
    with pytest.raises(ValueError, match="a fault"):
        TrainingDataset(DICTS, fail)[SampleSpec(0, -1, 1.0, 96, 2**32 - 1)]
    assert global_state() == before


def test_random_numbers_follow_the_seed():
    dataset = TrainingDataset(DICTS, Recorder())
    first, other, again = (dataset[SampleSpec(0, -1, 1.0, 96, k)]["image"][1] for k in (7, 8, 7))
    assert first == again and all(x != y for x, y in zip(first, other))
