"""Places at the levels next to a truth's own that are not background (paper 4.1, Table 2).

Shape letters: N images, M truths of the fullest image, R rows, H and W of a level.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ...config import choose
from .anchor_generator import AnchorGrid, YOLOv3AnchorGenerator, location_index


class AdjacentIgnore:
    """Find the rows that have no objectness loss because a truth of an adjacent level is there.

    A truth is positive at its own level alone, while the same place is background at the one or two
    adjacent levels: gradients that contradict each other. Ignoring that place there avoids them.

    Args:
        anchors: the base anchors; every stride is half of the one before.
        scale: epsilon_ignore of the paper, in (0, 1]: ignored are the cells whose centres lie in
            the truth's box, its sides scaled by this. None: the cell that holds its centre.

    Raises:
        ValueError: ``scale`` is out of range.
    """

    def __init__(self, anchors: YOLOv3AnchorGenerator, *, scale: float | None):
        if scale is not None and not 0 < scale <= 1:
            raise ValueError(
                f"MODEL.YOLOV3.IGNORE_ADJACENT_SCALE is {scale}: the share of a box's sides must "
                "be above 0 and at most 1; the paper has 0.2 and 0.5. To ignore nothing, set "
                "MODEL.YOLOV3.IGNORE_ADJACENT to 'none'."
            )
        self.anchors = anchors
        self.scale = scale

    def __call__(self, rows: AnchorGrid, boxes: Tensor, valid: Tensor, row: Tensor) -> Tensor:
        """Mark the rows of N images; all slots of a cell alike.

        Args:
            rows: of the dense output.
            boxes: (N, M, 4), truths: cx, cy, w, h in pixels.
            valid: (N, M), False for padding.
            row: (N, M), the row that answers for the truth; it gives the truth's level.

        Returns:
            (N, R), bool.
        """
        own_stride = rows.strides[row].squeeze(-1)
        levels = zip(self.anchors.strides, self.anchors.num_anchors, rows.sizes)
        ignored = []
        for stride, slots, (height, width) in levels:
            adjacent = valid & ((own_stride == 2 * stride) | (2 * own_stride == stride))
            x = self.covered(boxes[..., 0], boxes[..., 2], stride, width)
            y = self.covered(boxes[..., 1], boxes[..., 3], stride, height) & adjacent[..., None]
            # A product that sums over the truths: no tensor of N M H W has to fit into memory.
            cells = y.float().transpose(1, 2) @ x.float() > 0
            ignored.append(cells.flatten(1).repeat(1, slots))
        return torch.cat(ignored, dim=1)

    def covered(self, centers: Tensor, sizes: Tensor, stride: int, length: int) -> Tensor:
        """Cells of a level that truths cover along one axis.

        Args:
            centers, sizes: (N, M), of the truths, in pixels.
            stride: pixels per cell.
            length: cells along the axis.

        Returns:
            (N, M, length), bool.
        """
        cells = torch.arange(length, device=centers.device)
        if self.scale is None:
            return cells == location_index(centers, stride, length)[..., None]
        distances = ((cells + 0.5) * stride - centers[..., None]).abs()
        return distances <= self.scale * sizes[..., None] / 2


def build_adjacent_ignore(cfg, anchors: YOLOv3AnchorGenerator) -> AdjacentIgnore | None:
    """Build what ``cfg.MODEL.YOLOV3.IGNORE_ADJACENT`` names; None for "none".

    Raises:
        ValueError: the name is not known, or the scale is out of range.
    """
    options = cfg.MODEL.YOLOV3
    scales = {"none": None, "center": None, "box": options.IGNORE_ADJACENT_SCALE}
    scale = choose(scales, options.IGNORE_ADJACENT, "MODEL.YOLOV3.IGNORE_ADJACENT")
    return None if options.IGNORE_ADJACENT == "none" else AdjacentIgnore(anchors, scale=scale)
