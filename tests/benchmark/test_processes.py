"""Which candidate a ratio refers to, and what a row holds."""

from __future__ import annotations

from collections.abc import Mapping

from asff.benchmark.processes import Candidate, measure
from asff.benchmark.results import to_markdown


class FakeWorker:
    """Answer every request as a process would."""

    def __init__(self, seconds: float, memory: int):
        self.seconds, self.memory = seconds, memory

    def ask(self, request: Mapping) -> dict:
        seconds = self.seconds * request["batch"]
        return {"stages": {"forward": seconds, "NMS": 0.001}, "memory": self.memory * 2**20}


def test_ratios_are_to_the_first_candidate_with_the_same_inputs():
    workers = {"a": FakeWorker(0.099, 10), "b": FakeWorker(0.049, 20)}
    candidates = [
        Candidate(name, worker, {"batch": batch}, {"batch": batch}, {"parameters_m": 5.0})
        for batch in (1, 2)
        for name, worker in workers.items()
    ]
    rows = measure(candidates, rounds=2)
    assert [(row["name"], row["batch"], row["memory_mib"]) for row in rows] == [
        *(("a", 1, 10), ("b", 1, 20)),
        *(("a", 2, 10), ("b", 2, 20)),
    ]
    # (49 + 1) / (99 + 1) and (98 + 1) / (198 + 1) ms.
    ratios = [row["stages"]["total"]["ratio"] for row in rows]
    assert ratios == [1.0, 0.5, 1.0, 0.4975]

    result = {"date": "today", "hardware": "this", "versions": {"torch": "2"}, "rows": rows}
    head, _, titles, _, _, line, *_ = to_markdown(result).splitlines()
    assert head.startswith("today, this, torch 2")
    cells = [[x.strip() for x in text.strip("|").split("|")] for text in (titles, line)]
    assert list(zip(*cells)) == [
        ("name", "b"),
        ("batch", "1"),
        ("parameters (M)", "5.0"),
        ("memory (MiB)", "20"),
        ("forward (ms)", "49.0"),
        ("NMS (ms)", "1.0"),
        ("total (ms)", "50.0 (50.0 to 50.0)"),
        ("ratio of total", "0.50 (0.50 to 0.50)"),
    ]


def test_no_rounds_start_no_process():
    (row,) = measure([Candidate("a", None, {}, {}, {"parameters_m": 1.0})], rounds=0)
    assert row == {"name": "a", "parameters_m": 1.0, "stages": {}}
