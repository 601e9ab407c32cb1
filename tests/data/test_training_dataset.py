"""The dataset obeys its samples: the same one, the same pixels; another where one is unreadable."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from detectron2.data import DatasetFromList
from detectron2.data import transforms as T

from asff.data.augmentation import RandomColor, RandomMinIoUCrop
from asff.data.batch_plan import SampleSpec
from asff.data.image_io import UnreadableImage
from asff.data.mapper import SquareMapper
from asff.data.training_dataset import MAX_REPLACEMENTS, TrainingDataset, seeded
from tests.data.rectangles import write

COUNT = 6


@pytest.fixture
def records(tmp_path) -> list[dict]:
    return [
        {**write(tmp_path / f"{i}.png", 40, 50, {0: (5 + i, 5, 30, 30)}), "image_id": i}
        for i in range(COUNT)
    ]


def global_state() -> tuple[bytes, object]:
    return np.random.get_state()[1].tobytes(), np.random.get_state()[2], random.getstate()


def draw() -> tuple[list, list]:
    """Some numbers of both global generators."""
    return np.random.randint(1000, size=5).tolist(), [random.randrange(1000) for _ in range(5)]


def test_seeded_draws_the_same_and_leaves_no_trace():
    np.random.seed(1)
    random.seed(2)
    wanted = draw()
    np.random.seed(1)
    random.seed(2)
    with seeded(7):
        first = draw()
    assert draw() == wanted
    with seeded(7):
        assert draw() == first
    with seeded(8):
        assert all(other != drawn for other, drawn in zip(draw(), first))


def test_state_is_restored_after_an_error():
    before = global_state()
    with pytest.raises(KeyError), seeded(2**32 - 1):  # the largest that numpy takes
        draw()
        raise KeyError
    assert global_state() == before


class Recorder:
    """In place of a mapper: what it was called with, refusing some images."""

    def __init__(self, *broken: int):
        self.broken = broken
        self.calls: list[tuple[int, int]] = []

    def __call__(self, record: dict, other: dict | None, *, weight: float, size: int) -> dict:
        ids = [x["image_id"] for x in (record, other) if x]
        self.calls.append((ids[0], ids[1] if other else -1))
        for number in ids:
            if number in self.broken:
                raise UnreadableImage(f"{number}.png: broken")
        return {"image": (record["image_id"], draw()), "weight": weight, "size": size}


def test_the_mapper_gets_what_the_sample_says(records):
    mapper = Recorder()
    dataset = TrainingDataset(records, mapper)
    alone = dataset[SampleSpec(2, -1, 1.0, 96, 5)]
    mixed = dataset[SampleSpec(3, 1, 0.3, 64, 6)]
    assert mapper.calls == [(2, -1), (3, 1)]
    assert (alone["weight"], alone["size"], alone["reads"], alone["unreadable"]) == (1, 96, 1, [])
    assert (mixed["weight"], mixed["size"], mixed["reads"], mixed["unreadable"]) == (0.3, 64, 2, [])
    assert len(dataset) == COUNT


def test_same_sample_same_pixels_whatever_was_drawn_before(records):
    augmentations = [RandomColor(), RandomMinIoUCrop(), T.RandomFlip()]
    mapper = SquareMapper(augmentations=augmentations, interpolations=(0, 1, 2))
    dataset = TrainingDataset(DatasetFromList(records), mapper)
    samples = [SampleSpec(1, 2, 0.4, 64, seed) for seed in (11, 12, 13, 14)]
    pictures = []
    for round_, order in enumerate((samples, samples[::-1])):
        np.random.seed(round_)
        random.seed(round_)
        before = global_state()
        mapped = {sample.seed: dataset[sample] for sample in order}
        assert global_state() == before
        pictures.append([mapped[seed] for seed in (11, 12, 13, 14)])
    for first, second in zip(*pictures):
        assert torch.equal(first["image"], second["image"])
        boxes = [x["instances"].gt_boxes.tensor for x in (first, second)]
        assert torch.equal(*boxes)
    assert len({x["image"].numpy().tobytes() for x in pictures[0]}) == 4


def test_unreadable_image_is_replaced(records):
    """By one that the sample's seed determines; size and weight stay."""
    results = []
    for before in (0, 1):
        np.random.seed(before)
        mapper = Recorder(4)
        results.append(TrainingDataset(records, mapper)[SampleSpec(4, -1, 1.0, 96, 5)])
        calls = mapper.calls
    assert results[0] == results[1]
    (result, _), tries = results, len(calls)
    assert tries >= 2 and calls[0] == (4, -1)
    assert calls[-1] == (result["image"][0], -1) and result["image"][0] != 4
    assert result["reads"] == tries and result["unreadable"] == ["4.png: broken"] * (tries - 1)
    assert (result["weight"], result["size"]) == (1, 96)


def test_replacements_differ_by_seed(records):
    """Of 5 other images, 60 seeds leave one out once in 100000 runs."""
    dataset = TrainingDataset(records, Recorder(4))
    chosen = {dataset[SampleSpec(4, -1, 1.0, 96, seed)]["image"][0] for seed in range(60)}
    assert chosen == {0, 1, 2, 3, 5}


@pytest.mark.parametrize("pair", [(4, 0), (0, 4), (4, 5)])
def test_unreadable_partner(records, pair):
    """Both images are replaced, and mixup stays: two reads for each try."""
    mapper = Recorder(4, 5)
    result = TrainingDataset(records, mapper)[SampleSpec(*pair, 0.3, 96, 3)]
    assert mapper.calls[0] == pair and len(mapper.calls) >= 2
    assert not {4, 5} & set(mapper.calls[-1]) and -1 not in mapper.calls[-1]
    assert result["reads"] == 2 * len(mapper.calls)
    assert len(result["unreadable"]) == len(mapper.calls) - 1
    assert result["unreadable"][0] == ("5.png: broken" if pair[0] == 5 else "4.png: broken")
    assert result["weight"] == 0.3


def test_all_images_unreadable(records):
    """There is an end to it, and a result without image."""
    mapper = Recorder(*range(COUNT))
    before = global_state()
    result = TrainingDataset(records, mapper)[SampleSpec(0, 1, 0.5, 96, 3)]
    assert result.keys() == {"reads", "unreadable"}
    assert len(result["unreadable"]) == len(mapper.calls) == 1 + MAX_REPLACEMENTS
    assert result["reads"] == 2 * len(mapper.calls)
    assert global_state() == before


def test_other_errors_are_not_hidden(records):
    """A fault of an augmentation is no unreadable image."""

    def fail(*args, **kwargs):
        raise ValueError("a fault")

    with pytest.raises(ValueError, match="a fault"):
        TrainingDataset(records, fail)[SampleSpec(0, -1, 1.0, 96, 3)]


def test_one_image(records):
    """Its replacement can only be itself."""
    result = TrainingDataset(records[:1], Recorder(0))[SampleSpec(0, -1, 1.0, 96, 3)]
    assert "image" not in result and len(result["unreadable"]) == 1 + MAX_REPLACEMENTS
