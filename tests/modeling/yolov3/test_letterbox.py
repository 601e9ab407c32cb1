"""Letterboxed evaluation: images in the middle of grey squares, boxes in pixels of the image."""

from __future__ import annotations

import pytest
import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from detectron2.structures import Boxes
from torch import Tensor

from asff.modeling import YOLOv3
from asff.modeling.yolov3.letterbox import letterbox, undo_letterbox
from tests.helpers import TINY_DARKNET, detector_cfg

ON = ("MODEL.YOLOV3.LETTERBOX_TEST", True)


def make_cfg(*options: object) -> CfgNode:
    """Return a config without thresholds, under which grey is another number in each channel."""
    return detector_cfg(
        *TINY_DARKNET,
        *("MODEL.PIXEL_MEAN", [100.0, 110.0, 127.5], "MODEL.PIXEL_STD", [50.0, 70.0, 60.0]),
        *("MODEL.YOLOV3.SCORE_THRESH_TEST", 0.0, "MODEL.YOLOV3.NMS_THRESH_TEST", 1.0),
        *("MODEL.YOLOV3.TOPK_CANDIDATES_TEST", 100_000, "TEST.DETECTIONS_PER_IMAGE", 100_000),
        *options,
    )


def make_model(*options: object) -> YOLOv3:
    torch.manual_seed(0)
    return build_model(make_cfg(*ON, *options)).eval()


def make_image(height: int, width: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(256, (3, height, width), dtype=torch.uint8, generator=generator)


@pytest.mark.parametrize(
    ("size", "side", "left", "top"),
    # As darknet at 416 pixels: 640x480, 480x640 and a square one. Then margins of an odd number of
    # pixels, the greater part of which is right or below, and sides that are no multiple of 32.
    [
        ((312, 416), 416, 0, 52),
        ((416, 312), 416, 52, 0),
        ((416, 416), 416, 0, 0),
        ((277, 416), 416, 0, 69),
        ((416, 277), 416, 69, 0),
        ((30, 61), 64, 1, 17),
        ((1, 33), 64, 15, 31),
    ],
)
def test_image_is_in_the_middle(size, side, left, top):
    height, width = size
    (square,) = letterbox([torch.full((3, height, width), 200, dtype=torch.uint8)], 32)
    assert square.shape == (3, side, side) and square.dtype == torch.float32
    inside = torch.zeros(side, side, dtype=torch.bool)
    inside[top : top + height, left : left + width] = True
    assert (square[:, inside] == 200).all() and (square[:, ~inside] == 127.5).all()

    corners = Boxes(torch.tensor([[left, top, left + width, top + height]], dtype=torch.float32))
    undo_letterbox(corners, size, side)
    assert corners.tensor.tolist() == [[0, 0, width, height]]


@pytest.mark.parametrize(
    "sizes, margins, scale",
    [
        ([(40, 64)], [(0, 12)], 2.5),  # of an original of 100 x 160
        # Wide, high and small: each in the middle of a square as large as the largest needs.
        ([(33, 64), (64, 48), (20, 21)], [(0, 15), (8, 0), (21, 22)], 1),
    ],
    ids=str,
)
@torch.no_grad()
def test_detections_are_in_pixels_of_the_original(sizes, margins, scale):
    """All boxes of a grey square of 64 pixels, moved, scaled and clipped to the original."""
    model = make_model()
    images = [make_image(*size, seed) for seed, size in enumerate(sizes)]
    originals = [(int(height * scale), int(width * scale)) for height, width in sizes]
    results = model([{"image": x, "height": h, "width": w} for x, (h, w) in zip(images, originals)])
    for result, image, (left, top), (height, width) in zip(results, images, margins, originals):
        square = torch.full((3, 64, 64), 127.5)
        square[:, top : top + image.shape[1], left : left + image.shape[2]] = image.float()
        dense = model.forward_dense(((square - model.pixel_mean) / model.pixel_std)[None])[0]
        scores, classes = (dense[:, 4:5] * dense[:, 5:]).max(dim=1)
        x, y, w, h = dense[:, :4].unbind(dim=1)
        xs = [((edge - left) * scale).clamp(0, width) for edge in (x - w / 2, x + w / 2)]
        ys = [((edge - top) * scale).clamp(0, height) for edge in (y - h / 2, y + h / 2)]
        boxes = torch.stack([xs[0], ys[0], xs[1], ys[1]], dim=1)
        seen = ((boxes[:, 2:] - boxes[:, :2]) > 0).all(dim=1)
        assert 50 < seen.sum() < len(seen)  # some are within the margins
        order = scores[seen].argsort(descending=True, stable=True)
        found = result["instances"]
        assert found.image_size == (height, width) and len(found) == len(order)
        torch.testing.assert_close(found.scores, scores[seen][order], rtol=1e-5, atol=0.0)
        assert torch.equal(found.pred_classes, classes[seen][order])
        found_boxes = found.pred_boxes.tensor
        torch.testing.assert_close(found_boxes, boxes[seen][order], rtol=1e-4, atol=1e-3)


def test_training_and_other_evaluation_pad_right_and_below():
    """With zeros, so that ground truth stays in pixels of the image."""
    batch = [{"image": make_image(40, 64)}]
    for model in (make_model().train(), build_model(make_cfg()).eval()):
        images = model.preprocess_image(batch)
        assert images.tensor.shape == (1, 3, 64, 64) and images.image_sizes == [(40, 64)]
        assert (images.tensor[..., 40:, :] == 0).all()
        assert (images.tensor[..., :40, :] != 0).any()


def test_square_images_need_no_letterbox():
    with pytest.raises(ValueError, match="LETTERBOX_TEST is True, but .* INPUT.SQUARE is True"):
        make_model("INPUT.SQUARE", True)
