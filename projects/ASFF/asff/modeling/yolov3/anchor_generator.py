"""The rows of YOLOv3's dense output: which anchor, cell and stride each prediction belongs to.

Shape letters: L levels, A slots of a level (its anchors, then the anchor-free one), H and W of a
level, R = sum of A H W over the levels. AnchorGrid run over levels (coarsest first), slots, y, x.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass
class AnchorGrid:
    """What is known of every row before the network has seen an image.

    Attributes:
        anchors: (R, 2), width and height of the base anchor in pixels.
        cells: (R, 2), x and y index of the cell.
        strides: (R, 1), pixels per cell.
        sizes: (H, W) of every level.
    """

    anchors: Tensor
    cells: Tensor
    strides: Tensor
    sizes: list[tuple[int, int]]


class YOLOv3AnchorGenerator(nn.Module):
    """Base anchors of all slots, and the rows they span.

    Args:
        sizes: per level, coarsest first, its anchors as (width, height) in pixels.
        strides: per level, in pixels.
        anchor_free: adds a slot whose base is a square of 4 x stride (authors' code).
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
        self.num_preset_anchors = [len(level) for level in sizes]
        self.num_anchors = [count + anchor_free for count in self.num_preset_anchors]
        for level, (level_sizes, stride) in enumerate(zip(sizes, strides)):
            slots = [tuple(map(float, size)) for size in level_sizes]
            slots += [(4.0 * stride, 4.0 * stride)] * anchor_free
            # Not in checkpoints: they follow from the config.
            self.register_buffer(f"level{level}", torch.tensor(slots), persistent=False)

    @property
    def base(self) -> list[Tensor]:
        """Per level, (A, 2): width and height of the slots' base anchors in pixels."""
        return [getattr(self, f"level{level}") for level in range(len(self.strides))]

    def forward(self, sizes: Sequence[tuple[int, int]]) -> AnchorGrid:
        """Lay out the rows of levels with these (H, W)."""
        anchors, cells, strides = [], [], []
        for base, stride, (height, width) in zip(self.base, self.strides, sizes):
            like = {"device": base.device, "dtype": base.dtype}
            y, x = torch.meshgrid(
                torch.arange(height, **like), torch.arange(width, **like), indexing="ij"
            )
            cell = torch.stack([x, y], dim=-1).view(-1, 2)
            anchors.append(base.repeat_interleave(height * width, dim=0))
            cells.append(cell.repeat(len(base), 1))
            strides.append(torch.full((len(base) * height * width, 1), float(stride), **like))
        return AnchorGrid(torch.cat(anchors), torch.cat(cells), torch.cat(strides), list(sizes))


def location_index(centers: Tensor, stride: int, length: int) -> Tensor:
    """Index, along one axis of ``length`` cells, of the cell that holds a centre in pixels."""
    # A centre on the right or lower border belongs to the last cell.
    return (centers / stride).long().clamp(0, length - 1)
