"""The dense output of the YOLOv3 head.

Shape letters: N images, R all anchors of an image, K classes.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .anchor_generator import AnchorGrid
from .box_regression import apply_deltas, predict_anchors


@dataclass
class DensePredictions:
    """Predictions of the head for every anchor, in float32.

    Attributes:
        box_logits: (N, R, 4), see :func:`apply_deltas`.
        obj_logits: (N, R).
        cls_logits: (N, R, K).
        shape_logits: (N, R, 2), logarithms of the predicted anchor over the base anchor, or None
            without guided anchoring.
        grid: the base anchors.
    """

    box_logits: Tensor
    obj_logits: Tensor
    cls_logits: Tensor
    shape_logits: Tensor | None
    grid: AnchorGrid

    def anchor_sizes(self, anchor_idx: Tensor | None = None) -> Tensor:
        """Return the sizes of the predicted anchors or, without these, base anchors, in pixels.

        Args:
            anchor_idx: (N, M), the anchors; None: all.

        Returns:
            (N, M, 2); of all anchors (N, R, 2), or (R, 2) without predicted ones.
        """
        sizes, logits = self.grid.sizes, self.shape_logits
        if anchor_idx is not None:
            sizes = sizes[anchor_idx]
            logits = None if logits is None else gather_anchors(logits, anchor_idx)
        return sizes if logits is None else predict_anchors(logits, sizes)

    def boxes(self) -> Tensor:
        """Decode the boxes: (N, R, 4), cx, cy, w, h in pixels."""
        return apply_deltas(
            self.box_logits, self.anchor_sizes(), self.grid.locations, self.grid.strides
        )

    def boxes_at(self, image_idx: Tensor, anchor_idx: Tensor) -> Tensor:
        """Decode the boxes of M anchors, each of an image: (M,), (M,) to (M, 4), as above."""
        grid, sizes = self.grid, self.grid.sizes[anchor_idx]
        if self.shape_logits is not None:
            sizes = predict_anchors(self.shape_logits[image_idx, anchor_idx], sizes)
        logits = self.box_logits[image_idx, anchor_idx]
        return apply_deltas(logits, sizes, grid.locations[anchor_idx], grid.strides[anchor_idx])

    def decode(self) -> Tensor:
        """Decode to (N, R, 5 + K): boxes (see :meth:`boxes`), objectness, class probabilities."""
        objectness = self.obj_logits.sigmoid()[..., None]
        return torch.cat([self.boxes(), objectness, self.cls_logits.sigmoid()], dim=-1)


def gather_anchors(x: Tensor, anchor_idx: Tensor) -> Tensor:
    """Take values of x (N, R, C) at anchors (N, M): (N, M, C)."""
    return x.gather(1, anchor_idx[..., None].expand(-1, -1, x.shape[-1]))
