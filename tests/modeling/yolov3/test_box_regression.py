"""Boxes and their logits: decoding undoes encoding, and a box by hand."""

from __future__ import annotations

import math

import torch

from asff.modeling.yolov3.box_regression import apply_deltas, get_deltas, to_centers, to_corners


def test_encoding_and_decoding_are_inverse():
    torch.manual_seed(0)
    anchors = torch.rand(50, 2) * 300 + 10, torch.randint(12, (50, 2)), torch.full((50, 1), 16.0)
    logits = torch.randn(50, 4)
    boxes = apply_deltas(logits, *anchors)
    deltas = get_deltas(boxes, *anchors)
    torch.testing.assert_close(deltas[:, :2], logits[:, :2].sigmoid(), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(deltas[:, 2:], logits[:, 2:], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(to_centers(to_corners(boxes)), boxes, rtol=1e-4, atol=1e-2)


def test_decoding_by_hand():
    """sigmoid(ln 3) = 3/4: 4.75 x 16 and 2.5 x 16 pixels; 10 x 2 by 20 / 2 pixels."""
    logits = torch.tensor([math.log(3), 0, math.log(2), -math.log(2)])
    size, location = torch.tensor([10.0, 20.0]), torch.tensor([4.0, 2.0])
    found = apply_deltas(logits, size, location, torch.tensor([16.0]))
    torch.testing.assert_close(found, torch.tensor([76.0, 40, 20, 10]))
    torch.testing.assert_close(to_corners(found), torch.tensor([66.0, 35, 86, 45]))
