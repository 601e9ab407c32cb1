"""The training stream: a pure function of seed and iteration, however it is read."""

from __future__ import annotations

from collections import Counter
from itertools import islice

import numpy as np
import pytest

from asff.data import build_batch_plan
from asff.data.batch_plan import (
    BATCH,
    ORDER,
    SIZE,
    BatchPlan,
    BatchPlanSampler,
    MixupSchedule,
    SizeSchedule,
    epoch_length,
    group_batches,
    phase_length,
)
from tests.helpers import detector_cfg

SIZES = tuple(range(320, 609, 32))
NEVER = 10**9


def make_stream(num_images: int = 50, batch_size: int = 8, *, factors=None, **options):
    sizes = SizeSchedule(
        options.get("sizes", SIZES),
        options.get("period", 10),
        options.get("first", 608),
        options.get("final", 608),
        options.get("final_start", NEVER),
    )
    mixup = MixupSchedule(
        options.get("prob", 1.0), options.get("alpha", 1.5), options.get("end", NEVER)
    )
    factors = np.ones(num_images) if factors is None else np.array(factors, float)
    return BatchPlan(
        factors,
        batch_size=batch_size,
        seed=options.get("seed", 7),
        sizes=sizes,
        mixup=mixup,
        groups=options.get("groups"),
    )


def batches(sampler: BatchPlanSampler, count: int) -> list:
    return list(islice(sampler, count))


def test_any_order_of_questions_gives_the_same_answers():
    straight = [make_stream()(k) for k in range(40)]
    stream = make_stream()
    assert [stream(k) for k in reversed(range(40))] == straight[::-1]
    assert stream(13) == straight[13]
    assert make_stream(seed=8)(13) != straight[13]
    assert make_stream(seed=8).with_seed(7)(13) == straight[13]


def test_no_two_draws_share_a_generator():
    """Neither purposes, nor numbers, nor seeds; and each image has a seed of its own."""
    places = [(7, purpose, number) for purpose in (ORDER, SIZE, BATCH) for number in (0, 1)]
    places += [(8, purpose, 0) for purpose in (ORDER, SIZE, BATCH)]
    draws = {make_stream(seed=seed)._generator(*place).random() for seed, *place in places}
    assert len(draws) == len(places)
    stream = make_stream()
    assert len({sample.seed for k in range(40) for sample in stream(k)}) == 40 * 8


def test_with_seed_leaves_the_other_stream_alone():
    stream = make_stream()
    before = stream(3)
    assert stream.with_seed(8)(3) == make_stream(seed=8)(3) != before
    assert stream(3) == before


@pytest.mark.parametrize("world_size", [2, 4])
def test_processes_share_the_batch(world_size):
    whole = batches(BatchPlanSampler(make_stream()), 30)
    shares = [
        batches(BatchPlanSampler(make_stream(), rank=rank, world_size=world_size), 30)
        for rank in range(world_size)
    ]
    assert [sum(parts, []) for parts in zip(*shares)] == whole
    assert {len(part) for share in shares for part in share} == {8 // world_size}


def test_batch_that_processes_do_not_divide_is_refused():
    with pytest.raises(ValueError, match=r"SOLVER\.IMS_PER_BATCH is 8.*3 processes"):
        BatchPlanSampler(make_stream(), rank=0, world_size=3)


def test_resumed_sampler_goes_on():
    sampler = BatchPlanSampler(make_stream())
    sampler.iteration = 17
    assert batches(sampler, 5) == batches(BatchPlanSampler(make_stream()), 22)[17:]


def test_epochs_see_every_image_once():
    """7 images in batches of 3: epochs end within batches."""
    stream = make_stream(7, 3)
    seen = [sample.index for k in range(70) for sample in stream(k)]
    epochs = [tuple(seen[i : i + 7]) for i in range(0, 210, 7)]
    assert all(sorted(epoch) == list(range(7)) for epoch in epochs)
    assert len(set(epochs)) > 20  # of 5040 orders
    assert len(stream._orders) <= 3  # those long past take no memory


def test_batches_larger_than_the_dataset():
    counts = Counter(sample.index for sample in make_stream(3, 8)(5))
    assert sorted(counts.values()) == [2, 3, 3]


def test_repeat_factors_are_kept_on_average_and_in_total():
    factors = [1.0, 1.0, 1.5, 2.25, 3.25]  # 9 in all
    stream = make_stream(5, 3, factors=factors)
    assert stream.epoch_length == 9
    counts = np.array([np.bincount(stream.order(e), minlength=5) for e in range(2000)])
    assert (counts.sum(axis=1) == 9).all()
    assert (np.abs(counts - factors) < 1).all()  # rounded up or down, no more
    # The standard error of a share of 0.5 over 2000 epochs is 0.011.
    assert np.abs(counts.mean(axis=0) - factors).max() < 0.05
    assert len({tuple(stream.order(e)) for e in range(50)}) == 50


def test_roundings_of_two_images_are_not_tied():
    """Of four images seen 1.5 times, any two are those seen twice."""
    stream = make_stream(4, 3, factors=[1.5] * 4)
    counts = [np.bincount(stream.order(e), minlength=4) for e in range(100)]
    twice = {tuple(np.flatnonzero(count == 2).tolist()) for count in counts}
    assert twice == {(0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)}


def test_large_sums_do_not_drift():
    """100,000 images, each seen once or now and then twice; in float32 one came 62 times."""
    sampler = ("DATALOADER.SAMPLER_TRAIN", "RepeatFactorTrainingSampler")
    many = [{"annotations": [{"category_id": 0}]} for _ in range(100_000)]
    # The square root of 1.006009 / 1 is 1.003.
    stream = build_batch_plan(
        config(*sampler, "DATALOADER.REPEAT_THRESHOLD", 1.006009), many, seed=1
    )
    assert set(np.bincount(stream.order(0))) == {1, 2}


def test_total_of_factors_is_rounded():
    assert epoch_length(np.array([1.0, 1.2])) == 2
    assert epoch_length(np.array([1.0, 1.7])) == 3
    stream = make_stream(2, 2, factors=[1.0, 1.7])
    # Both grow alike.
    assert stream.repeat_factors.tolist() == pytest.approx([3 / 2.7, 5.1 / 2.7])
    assert {len(stream.order(e)) for e in range(50)} == {3}


@pytest.mark.parametrize("batch_size", [4, 7])
def test_groups_share_batches(batch_size):
    """60 wide and 43 high images: at most the two batches at each border of epochs are mixed."""
    groups = np.random.default_rng(0).permutation([0] * 60 + [1] * 43)
    plain = make_stream(103, batch_size)
    stream = make_stream(103, batch_size, groups=groups)
    epochs = 20
    batches = [stream.indices(k) for k in range(epochs * 103 // batch_size)]
    mixed = sum(len(set(groups[batch])) > 1 for batch in batches)
    assert (
        mixed
        <= 3 * epochs
        < sum(len(set(groups[plain.indices(k)])) > 1 for k in range(len(batches)))
    )
    for epoch in range(epochs):
        assert sorted(stream.order(epoch)) == list(range(103))
    # Which group comes when is left to chance.
    first = [groups[stream.order(epoch)[50]] for epoch in range(epochs)]
    assert set(first) == {0, 1}


def test_small_groups_are_mixed():
    stream = make_stream(5, 8, groups=np.array([0, 0, 0, 1, 1]))
    seen = [sample.index for k in range(10) for sample in stream(k)]
    assert np.bincount(seen).tolist() == [16] * 5


def test_begun_batch_is_completed_first():
    """1 image of 8 is there, and only 1 is left over: 6 of a whole batch help, then come others."""
    groups = np.array([0] * 16 + [1] * 9)
    for seed in range(10):
        order = group_batches(np.arange(25), groups, 8, 1, np.random.default_rng(seed))
        assert sorted(order) == list(range(25))
        assert all(len(set(groups[order[place : place + 8]])) == 1 for place in (7, 15))


def test_first_size_is_the_largest_and_sizes_last_ten_iterations():
    stream = make_stream()
    sizes = [{sample.size for sample in stream(k)} for k in range(200)]
    assert all(len(batch) == 1 for batch in sizes)
    blocks = [set.union(*sizes[i : i + 10]) for i in range(0, 200, 10)]
    assert all(len(block) == 1 for block in blocks)
    assert blocks[0] == {608} and len(set.union(*blocks)) > 5
    # The first ten iterations alone are not left to chance.
    assert len({make_stream(seed=seed).size(10) for seed in range(20)}) > 5


def test_sizes_are_uniform():
    """Chi-square of 1000 blocks over ten sizes; 27.88 is the 0.999 quantile for 9 degrees."""
    stream = make_stream()
    counts = Counter(stream.size(10 * block) for block in range(1, 1001))
    assert set(counts) == set(SIZES)
    assert sum((count - 100) ** 2 / 100 for count in counts.values()) < 27.88


def test_final_size_begins_at_its_iteration():
    stream = make_stream(final=416, final_start=25, seed=3)
    assert [stream.size(k) for k in range(25, 60)] == [416] * 35
    assert stream.size(24) == make_stream(seed=3).size(24) != 416


def test_mixup_ends_at_its_iteration():
    stream = make_stream(end=25)
    assert all(sample.partner >= 0 and 0 < sample.weight < 1 for sample in stream(24))
    assert {(sample.partner, sample.weight) for k in (25, 26) for sample in stream(k)} == {(-1, 1)}
    # All else stays as it would have been.
    for mixed, plain in zip(make_stream()(25), stream(25)):
        assert (mixed.index, mixed.size, mixed.seed) == (plain.index, plain.size, plain.seed)


def test_partners_are_all_other_images():
    stream = make_stream(5, 8)
    pairs = {(s.index, s.partner) for k in range(100) for s in stream(k)}
    assert pairs == {(i, j) for i in range(5) for j in range(5) if i != j}


def test_weights_follow_beta():
    """Beta(a, a) has mean 1/2 and variance 1 / (4 (2 a + 1)): 1/16 for a = 1.5."""
    weights = np.array([s.weight for k in range(500) for s in make_stream()(k)])
    assert abs(weights.mean() - 0.5) < 0.015
    assert abs(weights.var() - 1 / 16) < 0.005


def test_share_of_mixed_images():
    partners = [s.partner >= 0 for k in range(250) for s in make_stream(prob=0.25)(k)]
    assert abs(np.mean(partners) - 0.25) < 0.05  # 5 standard errors of 2000 draws


def test_one_image_is_not_mixed():
    stream = make_stream(1, 4)
    assert [(s.index, s.partner) for s in stream(9)] == [(0, -1)] * 4
    assert len({s.seed for s in stream(9)}) == 4


@pytest.mark.parametrize(
    ("epochs", "iterations", "expected"), [(0.0, 0, 0), (2.0, 0, 25), (2.0, 30, 30), (0.1, 0, 2)]
)
def test_phase_length(epochs, iterations, expected):
    """100 images in batches of 8: 12.5 iterations an epoch, rounded up."""
    assert phase_length(epochs, iterations, per_epoch=12.5) == expected


def records(count: int) -> list[dict]:
    return [{"annotations": [{"category_id": int(i == 0)}]} for i in range(count)]


def config(*options):
    square = ("INPUT.SQUARE", True, "SOLVER.MAX_ITER", 100, "SOLVER.IMS_PER_BATCH", 8)
    return detector_cfg(*square, *options)


def test_first_size_of_the_config():
    """The largest of all that will come: a final size counts where there is a final phase."""
    sizes = ("INPUT.TRAIN_SIZES", [32, 96, 64], "INPUT.FINAL_SIZE", 128)
    assert build_batch_plan(config(*sizes), records(9), seed=1).size(0) == 96
    final = ("INPUT.FINAL_SIZE_ITERS", 1)
    assert build_batch_plan(config(*sizes, *final), records(9), seed=1).size(0) == 128


def test_phases_of_the_config():
    cfg = config(
        *("INPUT.MIXUP.PROB", 1.0, "INPUT.MIXUP.OFF_EPOCHS", 2.0, "INPUT.MIXUP.MIN_IMAGES", 100),
        *("INPUT.FINAL_SIZE", 64, "INPUT.FINAL_SIZE_ITERS", 10, "INPUT.TRAIN_SIZES", [32]),
    )
    stream = build_batch_plan(cfg, records(100), seed=1)
    assert [stream(k)[0].partner >= 0 for k in (74, 75)] == [True, False]
    assert [stream.size(k) for k in (89, 90)] == [32, 64]


def test_wide_images_share_batches_where_they_keep_their_shape():
    wide = [{"width": 2 + i % 2, "height": 2, "annotations": []} for i in range(40)]
    cfg = config("INPUT.SQUARE", False)
    stream = build_batch_plan(cfg, wide, seed=1)
    # 20 of each: two batches of 8 each, and one of the 4 that are left of both.
    kinds = [{index % 2 for index in stream.indices(k)} for k in range(5)]
    assert sorted(map(len, kinds)) == [1, 1, 1, 1, 2]
    off = config("INPUT.SQUARE", False, "DATALOADER.ASPECT_RATIO_GROUPING", False)
    assert build_batch_plan(off, wide, seed=1).groups is None
    assert build_batch_plan(config(), wide, seed=1).groups is None
    # Images of unknown size are with the high ones, and so are square ones.
    sizes = ({"width": 3, "height": 2}, {"width": 2, "height": 2}, {})
    odd = [{"annotations": [], **size} for size in sizes]
    assert build_batch_plan(cfg, odd, seed=1).groups.tolist() == [1, 0, 0]


def test_mixup_needs_enough_images(caplog):
    cfg = config("INPUT.MIXUP.PROB", 1.0)
    with caplog.at_level("INFO", logger="asff"):
        stream = build_batch_plan(cfg, records(99), seed=1)
    assert stream(0)[0].partner == -1
    assert (
        "Mixup is off: there are 99 images, fewer than 100 (INPUT.MIXUP.MIN_IMAGES)" in caplog.text
    )


def test_repeat_factors_of_the_config():
    """One of 25 images has class 1: for a threshold of 0.16 it is seen sqrt(0.16 / 0.04) times."""
    sampler = ("DATALOADER.SAMPLER_TRAIN", "RepeatFactorTrainingSampler")
    cfg = config(*sampler, "DATALOADER.REPEAT_THRESHOLD", 0.16)
    stream = build_batch_plan(cfg, records(25), seed=1)
    assert stream.epoch_length == 26
    assert np.bincount(stream.order(4)).tolist() == [2, *[1] * 24]


def test_phases_count_repeats():
    """2 epochs of 26 are 26 batches of 2; of 25 images without repeats they would be 25."""
    sampler = ("DATALOADER.SAMPLER_TRAIN", "RepeatFactorTrainingSampler")
    cfg = config(*sampler, "DATALOADER.REPEAT_THRESHOLD", 0.16, "INPUT.MIXUP.OFF_EPOCHS", 2.0)
    cfg.SOLVER.IMS_PER_BATCH = 2
    assert build_batch_plan(cfg, records(25), seed=1).mixup.end == 100 - 26
