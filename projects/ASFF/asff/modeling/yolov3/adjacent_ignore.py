"""Ignored anchors near ground truth of an adjacent level (paper 4.1, Table 2).

Shape letters: N images, M ground-truth boxes of the fullest image, R all anchors of an image, H and
W of a level.
"""

from __future__ import annotations

import torch
from detectron2.config import CfgNode
from torch import Tensor

from ...config import choose
from .anchor_generator import AnchorGrid, YOLOv3AnchorGenerator, location_index


class AdjacentIgnore:
    """Find anchors without objectness loss: those near objects of an adjacent level.

    An object is positive at one level, but background at the same position of adjacent levels.
    Ignoring it there avoids gradients that contradict each other.

    Args:
        anchor_generator: that of the head.
        scale: epsilon_ignore of the paper, in (0, 1]: ignored are the locations whose centres lie
            in the ground-truth box, its sides scaled by this. None: the location that holds the
            centre of the box.
    """

    def __init__(self, anchor_generator: YOLOv3AnchorGenerator, *, scale: float | None):
        if scale is not None and not 0 < scale <= 1:
            raise ValueError(
                f"MODEL.YOLOV3.IGNORE_ADJACENT_SCALE is {scale}: the share of a box's sides must "
                "be above 0 and at most 1; the paper has 0.2 and 0.5. To ignore nothing, set "
                "MODEL.YOLOV3.IGNORE_ADJACENT to 'none'."
            )
        self.anchor_generator = anchor_generator
        self.scale = scale

    def __call__(
        self, grid: AnchorGrid, gt_boxes: Tensor, valid: Tensor, anchor_idx: Tensor
    ) -> Tensor:
        """Mark anchors of N images; all anchors of a location alike.

        Args:
            grid: the base anchors.
            gt_boxes: (N, M, 4): cx, cy, w, h in pixels.
            valid: (N, M), False for padding.
            anchor_idx: (N, M), the anchor that a box is matched to; it gives the box's level.

        Returns:
            (N, R), bool.
        """
        gt_levels = grid.levels[anchor_idx]
        generator = self.anchor_generator
        levels = zip(generator.strides, generator.num_anchors, grid.level_shapes)
        ignored = []
        for level, (stride, num_anchors, (height, width)) in enumerate(levels):
            adjacent = valid & ((gt_levels - level).abs() == 1)
            x = self._covered(gt_boxes[..., 0], gt_boxes[..., 2], stride, width)
            y = self._covered(gt_boxes[..., 1], gt_boxes[..., 3], stride, height)
            y = y & adjacent[..., None]
            # A product that sums over the boxes: no tensor of N M H W has to fit into memory.
            locations = y.float().transpose(1, 2) @ x.float() > 0
            ignored.append(locations.flatten(1).repeat(1, num_anchors))
        return torch.cat(ignored, dim=1)

    def _covered(self, centers: Tensor, sizes: Tensor, stride: int, length: int) -> Tensor:
        """Mark which of ``length`` locations boxes cover along one axis: (N, M, length), bool.

        Args:
            centers, sizes: (N, M), of the boxes, in pixels.
        """
        locations = torch.arange(length, device=centers.device)
        if self.scale is None:
            return locations == location_index(centers, stride, length)[..., None]
        distances = ((locations + 0.5) * stride - centers[..., None]).abs()
        return distances <= self.scale * sizes[..., None] / 2


def build_adjacent_ignore(
    cfg: CfgNode, anchor_generator: YOLOv3AnchorGenerator
) -> AdjacentIgnore | None:
    """Build what ``cfg.MODEL.YOLOV3.IGNORE_ADJACENT`` names; None for "none"."""
    options = cfg.MODEL.YOLOV3
    scales = {"none": None, "center": None, "box": options.IGNORE_ADJACENT_SCALE}
    scale = choose(scales, options.IGNORE_ADJACENT, "MODEL.YOLOV3.IGNORE_ADJACENT")
    if options.IGNORE_ADJACENT == "none":
        return None
    return AdjacentIgnore(anchor_generator, scale=scale)
