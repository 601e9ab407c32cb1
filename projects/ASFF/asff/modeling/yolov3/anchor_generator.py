"""The anchors of YOLOv3's dense output: their base sizes, locations and levels.

Shape letters: A anchors per location of a level (the preset ones, then the anchor-free one), H and
W of a level, R all anchors of an image: the sum of A H W over the levels. They are ordered by level
(coarsest first), then by anchor of the location, then by y, then by x.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from detectron2.modeling.anchor_generator import BufferList
from torch import Tensor, nn


@dataclass
class AnchorGrid:
    """The base anchors of an image, which follow from its size.

    Attributes:
        sizes: (R, 2), width and height of the base anchors in pixels.
        locations: (R, 2), x and y index of their locations.
        strides: (R, 1), pixels per location.
        levels: (R,), int64, index of their levels.
        level_shapes: (H, W) of every level.
    """

    sizes: Tensor
    locations: Tensor
    strides: Tensor
    levels: Tensor
    level_shapes: list[tuple[int, int]]


class YOLOv3AnchorGenerator(nn.Module):
    """Place the base anchors of every level at all of its locations.

    Args:
        sizes: per level, coarsest first, its preset anchors as (width, height) in pixels.
        strides: per level, in pixels.
        anchor_free: add an anchor that is a square of 4 x stride to each location (authors' code).

    Attributes:
        cell_anchors: per level, (A, 2): width and height in pixels of the anchors of a location.
        num_anchors: A of every level.
        num_preset_anchors: of every level, without the anchor-free one.
    """

    def __init__(
        self,
        sizes: Sequence[Sequence[Sequence[float]]],
        strides: Sequence[int],
        *,
        anchor_free: bool,
    ):
        super().__init__()
        self.strides = list(strides)
        self.anchor_free = anchor_free
        self.num_preset_anchors = [len(level_sizes) for level_sizes in sizes]
        self.num_anchors = [count + anchor_free for count in self.num_preset_anchors]
        # Not in checkpoints: they follow from the config.
        self.cell_anchors = BufferList(
            torch.tensor(
                [*map(tuple, level_sizes), *[(4 * stride, 4 * stride)] * anchor_free],
                dtype=torch.float32,
            )
            for level_sizes, stride in zip(sizes, strides)
        )

    def forward(self, level_shapes: Sequence[tuple[int, int]]) -> AnchorGrid:
        """Lay out the anchors of an image whose levels have these (H, W)."""
        sizes, locations, strides, levels = [], [], [], []
        levels_of_image = zip(self.cell_anchors, self.strides, level_shapes)
        for level, (cell_anchors, stride, (height, width)) in enumerate(levels_of_image):
            like = {"device": cell_anchors.device, "dtype": cell_anchors.dtype}
            y, x = torch.meshgrid(
                torch.arange(height, **like), torch.arange(width, **like), indexing="ij"
            )
            xy = torch.stack([x, y], dim=-1).view(-1, 2)
            # repeat_interleave with a dynamic size is exported to ONNX wrongly (torch 2.14).
            sizes.append(cell_anchors[:, None].expand(-1, height * width, -1).reshape(-1, 2))
            locations.append(xy.repeat(len(cell_anchors), 1))
            strides.append(torch.full_like(locations[-1][:, :1], stride))
            levels.append(torch.full_like(locations[-1][:, 0], level, dtype=torch.int64))
        return AnchorGrid(*map(torch.cat, (sizes, locations, strides, levels)), list(level_shapes))


def location_index(centers: Tensor, stride: int, length: int) -> Tensor:
    """Return the index, along an axis of ``length`` locations, of those that hold the centres.

    Args:
        centers: coordinates along the axis, in pixels.
    """
    # A centre on the right or lower border belongs to the last location.
    return (centers / stride).long().clamp(0, length - 1)
