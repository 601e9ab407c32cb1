from __future__ import annotations

from collections import Counter
from itertools import islice

import numpy as np
import pytest

from asff.data.batch_plan import (
    BatchPlan,
    BatchPlanSampler,
    MixupSchedule,
    SizeSchedule,
    epoch_length,
    group_batches,
)

SIZES = tuple(range(320, 609, 32))
NEVER = 10**9
SIZE = {"choices": SIZES, "period": 10, "first": 608, "final": 608, "final_start": NEVER}
MIXUP = {"prob": 1.0, "alpha": 1.5, "end": NEVER}


def make_plan(num_images: int = 50, batch_size: int = 8, *, factors=None, **options) -> BatchPlan:
    """Build a plan whose schedules differ from ``SIZE`` and ``MIXUP`` by ``options``."""
    return BatchPlan(
        np.ones(num_images) if factors is None else np.array(factors, float),
        batch_size=batch_size,
        seed=options.get("seed", 7),
        sizes=SizeSchedule(**{key: options.get(key, value) for key, value in SIZE.items()}),
        mixup=MixupSchedule(**{key: options.get(key, value) for key, value in MIXUP.items()}),
        groups=options.get("groups"),
    )


def first_batches(sampler: BatchPlanSampler, count: int) -> list:
    return list(islice(sampler, count))


def test_any_order_of_iterations_gives_the_same_batches():
    straight = [make_plan()(k) for k in range(40)]
    plan = make_plan()
    assert [plan(k) for k in reversed(range(40))] == straight[::-1]
    assert plan(13) == straight[13]
    plan.seed = 8
    assert plan(13) == make_plan(seed=8)(13) != straight[13]


def test_no_two_samples_share_a_seed():
    plans = (make_plan(), make_plan(seed=8))
    assert len({spec.seed for plan in plans for k in range(40) for spec in plan(k)}) == 2 * 40 * 8


@pytest.mark.parametrize("world_size", [2, 4])
def test_processes_share_the_batch(world_size):
    whole = first_batches(BatchPlanSampler(make_plan()), 30)
    shares = [
        first_batches(BatchPlanSampler(make_plan(), rank=rank, world_size=world_size), 30)
        for rank in range(world_size)
    ]
    assert [sum(parts, []) for parts in zip(*shares)] == whole
    assert {len(part) for share in shares for part in share} == {8 // world_size}


def test_batch_that_processes_do_not_divide_is_refused():
    with pytest.raises(ValueError, match=r"SOLVER\.IMS_PER_BATCH is 8.*3 processes"):
        BatchPlanSampler(make_plan(), rank=0, world_size=3)


def test_resumed_sampler_goes_on():
    sampler = BatchPlanSampler(make_plan())
    sampler.iteration = 17
    assert first_batches(sampler, 5) == first_batches(BatchPlanSampler(make_plan()), 22)[17:]


def test_epochs_see_every_image_once():
    """7 images in batches of 3: epochs end within batches."""
    plan = make_plan(7, 3)
    seen = [spec.index for k in range(70) for spec in plan(k)]
    epochs = [tuple(seen[i : i + 7]) for i in range(0, 210, 7)]
    assert all(sorted(epoch) == list(range(7)) for epoch in epochs)
    assert len(set(epochs)) > 20  # of 5040 orders


def test_repeat_factors_are_kept_on_average_and_in_total():
    factors = [1.0, 1.0, 1.5, 2.25, 3.25]  # 9 in all
    plan = make_plan(5, 3, factors=factors)
    assert plan.epoch_length == 9
    counts = np.array([np.bincount(plan.order(e), minlength=5) for e in range(2000)])
    assert (counts.sum(axis=1) == 9).all()
    assert (np.abs(counts - factors) < 1).all()  # rounded up or down, no more
    # The standard error of a share of 0.5 over 2000 epochs is 0.011.
    assert np.abs(counts.mean(axis=0) - factors).max() < 0.05
    assert len({tuple(plan.order(e)) for e in range(50)}) == 50


def test_roundings_of_two_images_are_not_tied():
    """Of four images seen 1.5 times, any two are those seen twice."""
    plan = make_plan(4, 3, factors=[1.5] * 4)
    counts = [np.bincount(plan.order(e), minlength=4) for e in range(100)]
    twice = {tuple(np.flatnonzero(count == 2).tolist()) for count in counts}
    assert twice == {(0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)}


def test_total_of_factors_is_rounded():
    assert epoch_length(np.array([1.0, 1.2])) == 2
    assert epoch_length(np.array([1.0, 1.7])) == 3
    plan = make_plan(2, 2, factors=[1.0, 1.7])
    assert plan.repeat_factors.tolist() == pytest.approx([3 / 2.7, 5.1 / 2.7])
    assert {len(plan.order(e)) for e in range(50)} == {3}


@pytest.mark.parametrize("batch_size", [4, 7])
def test_groups_share_batches(batch_size):
    """60 wide and 43 high images: at most the two batches at each border of epochs are mixed."""
    groups = np.random.default_rng(0).permutation([0] * 60 + [1] * 43)
    plan, plain = make_plan(103, batch_size, groups=groups), make_plan(103, batch_size)
    iterations = range(20 * 103 // batch_size)
    mixed, plainly_mixed = (
        sum(len(set(groups[p.indices(k)])) > 1 for k in iterations) for p in (plan, plain)
    )
    assert mixed <= 3 * 20 < plainly_mixed
    for epoch in range(20):
        assert sorted(plan.order(epoch)) == list(range(103))
    # Which group comes when is left to chance.
    assert {groups[plan.order(epoch)[50]] for epoch in range(20)} == {0, 1}


def test_small_groups_are_mixed():
    plan = make_plan(5, 8, groups=np.array([0, 0, 0, 1, 1]))
    seen = [spec.index for k in range(10) for spec in plan(k)]
    assert np.bincount(seen).tolist() == [16] * 5


def test_begun_batch_is_completed_first():
    """1 image of 8 is there, and only 1 remains: 6 of a whole batch help, then come others."""
    groups = np.array([0] * 16 + [1] * 9)
    for seed in range(10):
        order = group_batches(np.arange(25), groups, 8, 1, np.random.default_rng(seed))
        assert sorted(order) == list(range(25))
        assert all(len(set(groups[order[start : start + 8]])) == 1 for start in (7, 15))


def test_first_size_is_fixed_and_sizes_last_ten_iterations():
    plan = make_plan()
    sizes = [{spec.size for spec in plan(k)} for k in range(200)]
    periods = [set.union(*sizes[i : i + 10]) for i in range(0, 200, 10)]
    assert all(len(period) == 1 for period in periods)
    assert periods[0] == {608} and len(set.union(*periods)) > 5
    assert len({make_plan(seed=seed).size(10) for seed in range(20)}) > 5


def test_sizes_are_uniform():
    """Chi-square of 1000 periods over ten sizes; 27.88 is the 0.999 quantile for 9 degrees."""
    plan = make_plan()
    counts = Counter(plan.size(10 * period) for period in range(1, 1001))
    assert set(counts) == set(SIZES)
    assert sum((count - 100) ** 2 / 100 for count in counts.values()) < 27.88


def test_final_size_begins_at_its_iteration():
    plan = make_plan(final=416, final_start=25, seed=3)
    assert [plan.size(k) for k in range(25, 60)] == [416] * 35
    assert plan.size(24) == make_plan(seed=3).size(24) != 416


def test_mixup_ends_at_its_iteration():
    plan = make_plan(end=25)
    assert all(spec.partner >= 0 and 0 < spec.weight < 1 for spec in plan(24))
    assert {(spec.partner, spec.weight) for k in (25, 26) for spec in plan(k)} == {(-1, 1)}
    # All else stays as it would have been.
    for mixed, plain in zip(make_plan()(25), plan(25)):
        assert (mixed.index, mixed.size, mixed.seed) == (plain.index, plain.size, plain.seed)


def test_partners_are_all_other_images():
    plan = make_plan(5, 8)
    pairs = {(spec.index, spec.partner) for k in range(100) for spec in plan(k)}
    assert pairs == {(i, j) for i in range(5) for j in range(5) if i != j}


def test_weights_follow_beta():
    """Beta(a, a) has mean 1/2 and variance 1 / (4 (2 a + 1)): 1/16 for a = 1.5."""
    plan = make_plan()
    weights = np.array([spec.weight for k in range(500) for spec in plan(k)])
    assert abs(weights.mean() - 0.5) < 0.015
    assert abs(weights.var() - 1 / 16) < 0.005


def test_share_of_mixed_images():
    plan = make_plan(prob=0.25)
    mixed = [spec.partner >= 0 for k in range(250) for spec in plan(k)]
    assert abs(np.mean(mixed) - 0.25) < 0.05  # 5 standard errors of 2000 draws


def test_one_image_is_not_mixed():
    specs = make_plan(1, 4)(9)
    assert [(spec.index, spec.partner) for spec in specs] == [(0, -1)] * 4
    assert len({spec.seed for spec in specs}) == 4
