"""The neck of YOLOv3: spatial pyramid pooling, DropBlock, and sizes of the levels."""

from __future__ import annotations

import torch
from detectron2.layers import ShapeSpec
from torch import nn

from asff.modeling import DropBlock
from asff.modeling.neck.yolov3_neck import SpatialPyramidPooling, YOLOv3Neck

SHAPES = [ShapeSpec(channels=24, stride=32), ShapeSpec(channels=16, stride=16)]


def test_spatial_pyramid_pooling():
    """Identity and three separate max poolings of 5, 9, 13, in this order."""
    x = torch.randn(2, 3, 19, 10)
    pools = [nn.MaxPool2d(size, stride=1, padding=size // 2)(x) for size in (5, 9, 13)]
    assert torch.equal(SpatialPyramidPooling()(x), torch.cat([x, *pools], dim=1))


def test_blocks_drop_where_the_authors_do():
    """After the fourth convolution of the coarsest level, after the second of the others."""
    neck = YOLOv3Neck(in_shapes=SHAPES, width=0.125, keep_prob=0.9)
    before = []
    for convs in neck.conv_sets:
        names = [name for name, _ in convs.named_children()]
        before.append(names[names.index("drop_block") - 1])
    assert before == ["conv4", "conv2"]
    plain = YOLOv3Neck(in_shapes=SHAPES, width=0.125)
    assert not any(isinstance(x, DropBlock) for x in plain.modules())


def test_levels_of_odd_sizes():
    """What comes from the coarser level takes the size of the finer one."""
    neck = YOLOv3Neck(in_shapes=SHAPES, width=0.125, widen_finest=True)
    levels = neck([torch.randn(1, 24, 4, 3), torch.randn(1, 16, 7, 5)])
    assert [tuple(x.shape[1:]) for x in levels] == [(64, 4, 3), (64, 7, 5)]
    assert neck.out_channels == [64, 64]
