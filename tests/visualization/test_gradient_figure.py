"""The table and the figure of measured gradients."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from asff.analysis import LevelGradients, Measurement
from asff.visualization import draw_gradients, gradient_table
from asff.visualization.overlay import COLORS


def make_measurement(label: str, stage: str) -> Measurement:
    """One level with positives and one without."""
    full = LevelGradients(32, 12, 0.5, 0.125, 0.2, -0.0625, [0.25, 0.75], 0.0312)
    return Measurement(label, stage, "a.yaml", "", [full, LevelGradients(8, 0)])


def test_table():
    header, _, *rows = (
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in gradient_table([make_measurement("a", "before")]).splitlines()
    )
    assert header[-2:] == ["weight at 32", "weight at 8"]
    numbers = ["0.5", "0.125", "20.0%", "-0.0625", "0.0312", "0.25", "0.75"]
    assert rows == [["a", "before", "32", "12", *numbers], ["a", "before", "8", "0", *[""] * 7]]


@pytest.mark.parametrize("trained", [False, True])
def test_figure(trained: bool, tmp_path: Path):
    path = tmp_path / "gradients.png"
    measurements = [make_measurement(label, "before") for label in ("sum", "asff")]
    if trained:
        measurements.append(make_measurement("asff", "after"))
    draw_gradients(measurements, path)
    image = Image.open(path).convert("RGB")
    # 3.5 inches for each stage and 1.5 beside them, at 120 pixels an inch.
    assert image.size == (1020 if trained else 600, 660)
    counts = {color: count for count, color in image.getcolors(1 << 20)}
    orange, blue = (counts[color] for color in COLORS[:2])
    # Both stages have bars of the second detector, of the same heights.
    assert blue / orange == pytest.approx(2 if trained else 1, rel=0.1)
