"""The tables of fusion statistics have the numbers of the JSON file."""

from __future__ import annotations

from asff.visualization import fusion_tables

LEVELS = ["p5", "p4"]


def make_statistics(*never_used: str) -> dict:
    """Regions with numbers of their own; no small and no large objects."""
    levels = {}
    for index, level in enumerate(LEVELS):
        regions = dict.fromkeys(("small", "medium", "large", "background", "everywhere"))
        for number, name in enumerate(("medium", "background", "everywhere"), start=1):
            value = 0.2 * number + 0.1 * index
            regions[name] = {
                "self_weight": value,
                "weights": dict(zip(LEVELS, (value, 1 - value))),
                "shares": dict(zip(LEVELS, (value + 0.01, 0.99 - value))),
                "entropy": value / 2,
            }
        levels[level] = {"stride": 32, "regions": regions}
    objects = {"small": 0, "medium": 3, "large": 0}
    return {"images": 7, "objects": objects, "levels": levels, "never_used": [*never_used]}


def test_numbers():
    text = fusion_tables(make_statistics())
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines]
    header = ["level", "small (0)", "medium (3)", "large (0)"]
    assert rows == [
        [*header, "background", "everywhere", "entropy"],
        ["p5", "-", "0.200", "-", "0.400", "0.600", "0.300"],
        ["p4", "-", "0.300", "-", "0.500", "0.700", "0.350"],
        ["level", "p5", "p4"],
        ["p5", "0.600", "0.400"],
        ["p4", "0.700", "0.300"],
        ["level", "p5", "p4"],
        ["p5", "0.610", "0.390"],
        ["p4", "0.710", "0.290"],
    ]
    assert "7 images" in text and "never used" not in text
    warned = fusion_tables(make_statistics("p4"))
    assert "Warning: p4 is never used." in warned
