"""Statistics and the page of an ablation, against numbers worked out by hand."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from asff.ablation.plot import draw_plot
from asff.ablation.runs import Grid
from asff.ablation.table import deviation, make_row, make_table, margin, mean, to_markdown
from tests.training import ROOT

COSTS = {"hardware": "a machine", "threads": 1, "rounds": 9, "date": "2020-02-02"}


def test_mean_deviation_and_interval():
    # Deviations of -2, 0, 2: a variance of 8 / 2.
    assert mean([10.0, 12.0, 14.0]) == 12.0 and deviation([10.0, 12.0, 14.0]) == 2.0
    # From a table of Student's t, two-sided 95 %: 12.706, 4.303, 3.182 for 1, 2, 3 degrees.
    assert margin([1.0, 3.0]) == pytest.approx(12.706 * 2**0.5 / 2**0.5, rel=1e-4)
    assert margin([10.0, 12.0, 14.0]) == pytest.approx(4.303 * 2 / 3**0.5, rel=1e-4)
    assert margin([0.0, 0.0, 2.0, 2.0]) == pytest.approx(3.182 * (4 / 3) ** 0.5 / 2, rel=1e-3)
    assert margin([5.0, 5.0]) == 0.0


@pytest.mark.parametrize("values", [[], [3.0], [3.0, None]])
def test_what_cannot_be_told(values):
    assert deviation(values) is None and margin(values) is None
    assert mean(values) == (3.0 if values == [3.0] else None)


def metrics(ap: float | None, small: float | None = 1.0) -> dict:
    return {"AP": ap, "AP50": 50.0, "APs": small, "APm": 2.0, "APl": 3.0}


def test_differences_are_of_the_same_seed():
    first = {1: metrics(10.0), 2: metrics(11.0), 3: metrics(12.0), 4: metrics(90.0)}
    row = make_row({3: metrics(15.0), 1: metrics(12.0), 2: metrics(12.0), 5: metrics(0.0)}, first)
    assert row["seeds"] == [1, 2, 3, 5] and row["AP"]["values"] == [12.0, 12.0, 15.0, 0.0]
    # 2, 1 and 3; seeds 4 and 5 have no partner.
    difference = row["differences"]["AP"]
    assert difference["seeds"] == [1, 2, 3] and difference["mean"] == 2.0
    assert difference["low"] == pytest.approx(2 - 4.303 / 3**0.5, rel=1e-3)
    assert difference["high"] == pytest.approx(2 + 4.303 / 3**0.5, rel=1e-3)
    assert row["differences"]["AP50"] == {"seeds": [1, 2, 3], "mean": 0.0, "low": 0.0, "high": 0.0}


def record(config_file: str, seed: int, **metrics: float | None) -> dict:
    return {
        "config_file": config_file,
        "seed": seed,
        "metrics": metrics,
        "training_seconds": 60.0 * seed,
        "threads": 1,
        "jobs": 2,
        "date": f"2020-01-0{seed}",
        "hardware": "a machine",
    }


def table_rows(page: str) -> list[list[str]]:
    lines = [line for line in page.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_page_and_plot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(ROOT)
    files = ["configs/quickstart.yaml", "elsewhere/b.yaml", "elsewhere/c.yaml"]
    a, b, c = files
    grid = Grid(files, [1, 2, 3], ["INPUT.TRAIN_SIZES", "[64, 96]"], jobs=2, threads=1)
    records = [record(a, seed, **metrics(9.0 + seed)) for seed in (1, 2, 3)]
    records += [record(b, 1, **metrics(12.0)), record(b, 2, **metrics(12.0, None))]
    cost = {"parameters": 1_234_567, "multiply_adds": 2_000_400_000, "latency_ratio": 1.25}
    costs = {"configs": {b: {**cost, "not_counted": ["aten::pad"]}}, **COSTS}
    folder = tmp_path / "fusion"
    folder.mkdir()
    table = make_table(folder, grid, records, costs)
    page = to_markdown(folder, table)
    headers, _, *cells = table_rows(page)
    head = "config seeds AP AP50 APs APm APl".split()
    assert headers[:9] == [*head, "Δ AP", "Δ AP50"]
    assert headers[9:] == ["parameters (M)", "multiply-adds (G)", "latency ratio"]
    name, *rest = cells[0]
    assert re.fullmatch(r"\[quickstart\]\(\S+\)", name)
    assert (folder / name.split("(")[1].rstrip(")")).resolve() == ROOT / a
    sizes = ["50.0 ± 0.0", "1.0 ± 0.0", "2.0 ± 0.0", "3.0 ± 0.0"]
    assert rest == ["3", "11.0 ± 1.0", *sizes, "", "", "n/a", "n/a", "n/a"]
    sizes[1] = "n/a"
    # Differences of 2 and 1: 1.5 +- 12.706 x 0.7071 / sqrt(2).
    differences = ["+1.5 [-4.9, +7.9]", "+0.0 [+0.0, +0.0]"]
    assert cells[1] == ["b", "2 of 3", "12.0 ± 0.0", *sizes, *differences, "1.23", "2.000", "1.25"]
    assert cells[2] == ["c", "0 of 3", *["n/a"] * 10]

    assert "--config-files configs/quickstart.yaml elsewhere/b.yaml elsewhere/c.yaml " in page
    assert page.count(" INPUT.TRAIN_SIZES '[64, 96]'\n") == 1 + 3
    assert "dates: 2020-01-01, 2020-01-02, 2020-01-03; hardware: a machine" in page
    assert "training steps of a run: 1.0 to 3.0 minutes." in page
    assert "`aten::pad`" in page and "9 rounds" in page

    draw_plot(table, folder / "plot.png")
    assert (folder / "plot.png").read_bytes()[:4] == b"\x89PNG"
    assert (folder / "plot.png").stat().st_size < 100_000


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (
            {"a.yaml": metrics(10.0), "b.yaml": metrics(9.0, None)},
            ["9.0", "50.0", "n/a", "-1.0 n/a"],
        ),
        ({"b.yaml": metrics(None)}, ["n/a", "50.0", "1.0", "n/a"]),
    ],
    ids=["one seed has no interval", "nothing is known of the first row"],
)
def test_what_is_not_known_of_a_row(tmp_path: Path, values: dict, expected: list[str]):
    grid = Grid(["a.yaml", "b.yaml"], [1], [], jobs=1, threads=1)
    records = [record(file, 1, **numbers) for file, numbers in values.items()]
    table = make_table(tmp_path, grid, records, {})
    *_, row = table_rows(to_markdown(tmp_path, table))
    assert [*row[2:5], row[7]] == expected
    draw_plot(table, tmp_path / "plot.png")
