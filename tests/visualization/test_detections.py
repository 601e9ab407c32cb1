"""Images of training samples and of detections."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.data import Metadata
from detectron2.structures import Boxes, BoxMode, Instances
from PIL import Image

from asff.visualization import draw_detections, draw_instances, draw_samples
from asff.visualization.overlay import COLORS, Overlay
from asff.visualization.samples import GAP
from tests.helpers import make_instances

NAMES = ["cell", "dust"]
SIDE = 480  # large enough not to be enlarged


def make_sample(*boxes: list[float], color=(255, 255, 255), side: int = SIDE, **fields) -> dict:
    """Create a sample of one colour with boxes, by default of the first class."""
    image = torch.tensor(color, dtype=torch.uint8)[:, None, None].expand(3, side, side)
    classes = fields.pop("classes", [0] * len(boxes))
    return {
        "image": image,
        "instances": make_instances(boxes, classes, image_size=(side, side), **fields),
    }


def test_samples_lie_in_rows():
    grey = [make_sample(color=(i, i, i)) for i in range(5)]
    image = draw_samples(grey, NAMES, columns=3)
    assert image.shape == (2 * SIDE + GAP, 3 * SIDE + 2 * GAP, 3) and image.dtype == np.uint8
    for i in range(5):
        top, left = i // 3 * (SIDE + GAP), i % 3 * (SIDE + GAP)
        assert (image[top : top + SIDE, left : left + SIDE] == i).all()
    assert (image[SIDE + GAP :, 2 * (SIDE + GAP) :] == 255).all()
    assert (image[SIDE : SIDE + GAP] == 255).all() and (image[:, SIDE : SIDE + GAP] == 255).all()


def test_few_samples_of_different_shapes():
    wide = {"image": torch.zeros(3, 300, 500, dtype=torch.uint8)}
    high = {"image": torch.zeros(3, 500, 300, dtype=torch.uint8)}
    image = draw_samples([wide, high], NAMES)
    assert image.shape == (500, 1000 + GAP, 3)
    assert (image[:300, :500] == 0).all() and (image[300:, :500] == 255).all()


def test_channels_in_any_order():
    sample = make_sample(color=(200, 100, 50))
    assert draw_samples([sample], NAMES)[0, 0].tolist() == [200, 100, 50]
    assert draw_samples([sample], NAMES, image_format="BGR")[0, 0].tolist() == [50, 100, 200]


def test_small_samples_are_enlarged_with_their_boxes():
    image = draw_samples([make_sample([10, 20, 40, 50], side=96)], NAMES)
    assert image.shape == (5 * 96, 5 * 96, 3)
    for x, y in ((50, 175), (200, 175), (125, 250)):  # left, right and lower border
        assert tuple(image[y, x]) == COLORS[0]
    assert tuple(image[175, 125]) == (255, 255, 255)


def test_weights_of_mixed_samples(texts):
    """Boxes of low weight are faint and lie below; labels have the weights."""
    boxes = [[50, 50, 150, 150], [250, 250, 350, 350]]
    image = draw_samples([make_sample(*boxes, classes=[0, 1], weights=[1.0, 0.2])], NAMES)
    assert texts == ["cell", "dust 0.20"]  # those of weight 1 have none
    assert tuple(image[100, 50]) == COLORS[0]
    share = (80 + 0.2 * 175) / 255
    faint = share * np.array(COLORS[1]) + (1 - share) * 255
    assert image[300, 250] == pytest.approx(faint, abs=1.5)
    for weights in ([1.0, 0.2], [0.2, 1.0]):
        sample = make_sample(boxes[0], boxes[0], classes=[0, 1], weights=weights)
        assert tuple(draw_samples([sample], NAMES)[100, 50]) == COLORS[weights.index(1.0)]


@pytest.mark.parametrize("fields", [{}, {"weights": [1.0] * 3}], ids=["no mixup", "not mixed"])
def test_classes_have_labels_and_colors(texts, fields):
    names = [f"class {i}" for i in range(len(COLORS) + 1)]  # more classes than colours
    boxes = [[50, 50, 150, 150], [250, 250, 350, 350], [50, 250, 150, 350]]
    image = draw_samples([make_sample(*boxes, classes=[1, 0, len(COLORS)], **fields)], names)
    assert {*texts} == {"class 0", "class 1", f"class {len(COLORS)}"}
    for y, x, color in ((100, 50, COLORS[1]), (300, 250, COLORS[0]), (300, 50, COLORS[0])):
        assert tuple(image[y, x]) == color


def test_labels_keep_clear_of_each_other_and_stay_inside():
    overlay = Overlay(Image.new("RGB", (200, 200)))
    for box in ([60, 60, 140, 140],) * 8 + ([-5, -5, 30, 30], [180, 190, 210, 210]):
        overlay.draw_label("cell", box, COLORS[0], 1.0)
    labels = np.array(overlay.labels)
    assert len(labels) == 10
    assert (labels >= 0).all() and (labels < 200).all()
    for i, (x1, y1, x2, y2) in enumerate(labels):
        for other in np.delete(labels, i, axis=0):
            assert x1 >= other[2] or x2 <= other[0] or y1 >= other[3] or y2 <= other[1]


def test_no_samples():
    with pytest.raises(ValueError, match="There are no samples to draw"):
        draw_samples([], NAMES)


def detections(*boxes: list[float], scores: list[float], classes: list[int], size=(40, 60)):
    """Create detections on an image of this height and width."""
    instances = Instances(size)
    instances.pred_boxes = Boxes(torch.tensor(boxes).view(-1, 4))
    instances.scores = torch.tensor(scores)
    instances.pred_classes = torch.tensor(classes, dtype=torch.int64)
    return instances


def grey(height: int, width: int) -> np.ndarray:
    return np.full((height, width, 3), 128, np.uint8)


@pytest.mark.parametrize("scores", [[], [0.9], [0.9, 0.1]])
def test_detections_beside_the_ground_truth(tmp_path: Path, scores):
    path = tmp_path / "grey.png"
    Image.fromarray(grey(400, 600)).save(path)
    annotation = {"bbox": [50, 50, 200, 200], "bbox_mode": BoxMode.XYWH_ABS, "category_id": 1}
    dataset_dict = {"file_name": str(path), "width": 600, "height": 400}
    dataset_dict["annotations"] = [annotation]
    boxes = [[300.0, 100.0, 500.0, 300.0]] * len(scores)
    found = detections(*boxes, scores=scores, classes=[0] * len(scores), size=(400, 600))
    image = draw_detections(dataset_dict, found, Metadata(thing_classes=NAMES))
    assert image.shape == (400, 1200, 3) and image.dtype == np.uint8
    left, right = image[:, :600], image[:, 600:]
    for x, y in ((50, 150), (249, 150), (150, 249)):
        assert tuple(left[y, x]) == COLORS[1] and (right[y, x] == 128).all()
    assert (right != 128).any() == bool(scores)
    if scores:
        assert tuple(right[200, 300]) == COLORS[0] and (left[200, 300] == 128).all()
    del dataset_dict["annotations"]
    image = draw_detections(dataset_dict, found, Metadata(thing_classes=NAMES))
    assert (image[:, :600] == 128).all() and (image[:, 600:] == right).all()


def test_labels_have_class_and_score_the_best_on_top(texts):
    box = [300.0, 100.0, 500.0, 300.0]
    found = detections(box, box, box, scores=[0.5, 0.914, 0.29], classes=[0, 1, 0], size=(400, 600))
    pixels = grey(400, 600)
    image = draw_instances(pixels, found, NAMES)
    assert texts == ["dust 0.91", "cell 0.50"]
    assert tuple(image[200, 300]) == COLORS[1] and (pixels == 128).all()


@pytest.mark.parametrize(
    "size, expected",
    [
        ((40, 60), (320, 480)),  # eight times
        ((400, 600), (400, 600)),
        ((100, 8192), (50, 4096)),
        ((1, 8192), (1, 4096)),
    ],
)
def test_drawings_have_legible_sizes(size, expected):
    """Boxes are scaled with the image: here around the left half."""
    found = detections([0.0, 0, size[1] / 2, size[0]], scores=[1.0], classes=[0], size=size)
    image = draw_instances(grey(*size), found, NAMES)
    assert image.shape == (*expected, 3)
    middle = image[expected[0] // 2]
    drawn = np.flatnonzero((middle == COLORS[0]).all(axis=1))
    assert abs(int(drawn.max()) - expected[1] // 2) <= 2
