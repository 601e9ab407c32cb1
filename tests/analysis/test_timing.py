"""Medians, percentiles and ratios of interleaved measurements, by hand."""

from __future__ import annotations

import numpy as np
import pytest

from asff.analysis.timing import interleave, summarize


def test_candidates_take_turns():
    calls = []

    def candidate(name: str):
        def call() -> dict[str, float]:
            calls.append(name)
            return {"first": len(calls), "second": 10.0}

        return call

    a, b = interleave([candidate("a"), candidate("b")], rounds=2, warm_up=1)
    assert calls == ["a", "b"] * 3
    # The warm-up, calls 1 and 2, does not count.
    assert {key: x.tolist() for key, x in a.items()} == {
        "first": [3, 5],
        "second": [10, 10],
        "total": [13, 15],
    }
    assert b["total"].tolist() == [14, 16]


def test_one_stage_is_the_total():
    (times,) = interleave([lambda: {"total": 2.0}], rounds=3, warm_up=0)
    assert {key: x.tolist() for key, x in times.items()} == {"total": [2.0] * 3}


def test_summary_by_hand():
    """The machine is twice as slow in each round as in the one before; the ratio does not see it.

    Five rounds: the 10th percentile lies at 0.4 between the first two values.
    """
    first = np.array([1.0, 2, 4, 8, 16])
    own = first * [0.5, 0.5, 0.5, 0.6, 0.4]
    stages = summarize({"total": own, "extra": own}, {"total": first})
    assert stages["total"] == pytest.approx(
        {
            "ms": 2000,
            "ms_p10": 1e3 * (0.5 + 0.4 * 0.5),
            "ms_p90": 1e3 * (4.8 + 0.6 * (6.4 - 4.8)),
            "ratio": 0.5,
            "ratio_p10": 0.4 + 0.4 * 0.1,
            "ratio_p90": 0.5 + 0.6 * 0.1,
        }
    )
    assert "ratio" not in stages["extra"]
