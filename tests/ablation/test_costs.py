"""Costs of the configs of an ablation."""

from __future__ import annotations

from pathlib import Path

from asff.ablation.costs import measure_costs
from asff.ablation.runs import Grid


def test_costs_of_configs(config: Path, tmp_path: Path, one_thread: None):
    wide = tmp_path / "wide.yaml"
    wide.write_text(f'_BASE_: "{config}"\nMODEL:\n  DARKNET:\n    WIDTH: 0.25\n')
    opts = ["INPUT.TEST_SIZE", "96"]
    costs = measure_costs(Grid([str(config), str(wide)], [1], opts, jobs=1, threads=1))
    first, second = costs["configs"].values()
    assert list(costs["configs"]) == [str(config), str(wide)]
    assert first["image"] == second["image"] == [96, 96]
    assert first["latency_ratio"] == 1.0 and first["latency_ms"] > 0
    assert first["parameters"] < second["parameters"]
    assert first["multiply_adds"] < second["multiply_adds"]
    assert costs["threads"] == 1
