"""The evaluation of generated detections."""

from __future__ import annotations

import pytest
from detectron2.data import MetadataCatalog

from asff.benchmark.evaluate import NAME, measure_evaluate


def test_rows(monkeypatch):
    """Both APIs get the same outputs, of which some are correct."""
    results = []
    monkeypatch.setattr(
        "asff.evaluation.Evaluator._derive_coco_results",
        lambda self, evaluator, *args, **options: results.append(evaluator.stats.tolist()),
    )
    rows = measure_evaluate(num_images=3, num_detections=20, num_classes=4, rounds=2)
    assert [row["name"] for row in rows] == ["pycocotools", "hotcoco"]
    for row in rows:
        assert (row["images"], row["detections"], row["classes"]) == (3, 20, 4)
        assert set(row["stages"]) == {"process", "evaluate", "total"}
    assert len(results) == 4 and results == results[:1] * 4
    assert 0 < results[0][0] < 1
    assert NAME not in MetadataCatalog.list()


def test_too_few_detections():
    """Two for each of seven objects are drawn."""
    with pytest.raises(ValueError, match="--detections is 13, but must be at least 14"):
        measure_evaluate(num_images=1, num_detections=13)
