"""Records of runs."""

from __future__ import annotations

from asff.ablation.records import training_seconds


def test_training_seconds():
    # Up to iteration 19, 20 steps of 1 s; then 5 steps of 4 s.
    lines = [{"iteration": 19, "time": 1.0}, {"iteration": 22, "bbox/AP": 3.0}]
    lines += [{"iteration": 24, "time": 4.0}]
    assert training_seconds(lines) == 20 * 1.0 + 5 * 4.0
    assert training_seconds([{"iteration": 2, "bbox/AP": 3.0}]) is None
