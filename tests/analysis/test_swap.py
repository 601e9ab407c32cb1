"""Changes between two detectors, counted by hand."""

from __future__ import annotations

import pytest
import torch
from detectron2.structures import Boxes, Instances
from torch import nn

from asff.analysis.swap import compare_detectors, found_again


def make_detections(*detections: tuple[list[float], float, int]) -> Instances:
    boxes, scores, classes = zip(*detections)
    result = Instances((100, 100))
    result.pred_boxes = Boxes(torch.tensor(boxes, dtype=torch.float32))
    result.scores = torch.tensor(scores)
    result.pred_classes = torch.tensor(classes)
    return result


def test_found_again_by_class_and_overlap():
    box = [0.0, 0.0, 100.0, 100.0]
    before = make_detections((box, 0.9, 0), (box, 0.8, 1), (box, 0.31, 2), (box, 0.3, 3))
    after = make_detections(
        ([0.0, 0.0, 100.0, 95.0], 0.1, 0),  # an IoU of 0.95, a low score
        ([0.0, 0.0, 100.0, 94.9], 0.9, 1),  # an IoU of 0.949
        (box, 0.9, 3),  # of another class than 2
    )
    # The fourth has too low a score to be asked for.
    assert found_again(before, after).tolist() == [True, False, False]


class Detector(nn.Module):
    """Features of a given value at two levels, and given detections."""

    def __init__(self, values: tuple[float, float], detections: Instances):
        super().__init__()
        self.backbone = nn.Identity()
        self.values, self.detections = values, detections

    def forward(self, batch: list[dict]) -> list[dict]:
        self.backbone({f"p{n}": torch.full((1, 2, 3, 3), x) for n, x in enumerate(self.values)})
        return [{"instances": self.detections}] * len(batch)


def test_change_over_batches():
    box, other = [0.0, 0.0, 10.0, 10.0], [50.0, 50.0, 60.0, 60.0]
    first = Detector((2.0, 5.0), make_detections((box, 0.9, 0), (other, 0.9, 0)))
    second = Detector((2.2, 5.0), make_detections((box, 0.9, 0), (other, 0.9, 1), (box, 0.9, 2)))
    change = compare_detectors(first, second, [[{}, {}], [{}]])
    assert (change.kept, change.lost, change.new) == (3, 3, 6)
    assert change.moved == pytest.approx({"p0": 0.1, "p1": 0.0})
