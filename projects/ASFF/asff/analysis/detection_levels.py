"""Find the pyramid level of each detection of a dense detector.

Shape letters: N images, R all anchors of an image, K classes.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from detectron2.modeling import RetinaNet
from detectron2.structures import Boxes, Instances
from torch import Tensor, nn


class LevelFinder:
    """Find the levels of the detections that a model returns within this context.

    Detections of YOLOv3 have ``pred_levels``. RetinaNet does not keep them: its detections are
    searched among the dense boxes and scores, which NMS does not change. Levels of other detectors
    are unknown.
    """

    def __init__(self, model: nn.Module):
        self.model = model
        self._boxes: Tensor | None = None  # (N, R, 4), corners in pixels of the network's input
        self._scores: Tensor | None = None  # (N, R, K)
        self._level_ends: Tensor | None = None  # sums of the anchors of the levels

    def __enter__(self) -> LevelFinder:
        if isinstance(self.model, RetinaNet):
            self._handle = self.model.head.register_forward_hook(self._keep)
        return self

    def __exit__(self, *error: object) -> None:
        if isinstance(self.model, RetinaNet):
            self._handle.remove()

    def _keep(self, head: nn.Module, inputs: tuple[list[Tensor]], predictions: Sequence) -> None:
        """Decode the head's output at once: RetinaNet overwrites its logits."""
        model, (features,) = self.model, inputs
        logits, deltas = model._transpose_dense_predictions(predictions, [model.num_classes, 4])
        anchors = model.anchor_generator(features)
        boxes = [
            torch.stack([model.box2box_transform.apply_deltas(x, base.tensor) for x in level])
            for level, base in zip(deltas, anchors)
        ]
        self._boxes = torch.cat(boxes, dim=1)
        self._scores = torch.cat([level.sigmoid() for level in logits], dim=1)
        self._level_ends = torch.tensor(list(map(len, anchors))).cumsum(dim=0)

    def levels(
        self, index: int, instances: Instances, input_size: tuple[int, int]
    ) -> list[str] | None:
        """Return the name of each detection's level; None if they are unknown.

        Args:
            index: of the image in the batch.
            instances: detections that the model returned for it.
            input_size: height and width of the image at the network's input, in pixels.
        """
        if instances.has("pred_levels"):
            levels = instances.pred_levels.tolist()
        elif self._boxes is not None:
            levels = self._search(index, instances, input_size)
        else:
            return None
        return [self.model.head_in_features[level] for level in levels]

    def _search(self, index: int, instances: Instances, input_size: tuple[int, int]) -> list[int]:
        """Find the level of the dense box that is closest to each detection."""
        # Scaled and clipped as detector_postprocess does it.
        (height, width), (input_height, input_width) = instances.image_size, input_size
        boxes = Boxes(self._boxes[index].clone())
        boxes.scale(width / input_width, height / input_height)
        boxes.clip(instances.image_size)
        scores = self._scores[index]
        detections = zip(instances.pred_boxes.tensor, instances.scores, instances.pred_classes)
        anchor_idx = [
            # The closest one, since on some devices the last bits differ.
            ((boxes.tensor - box).abs().amax(dim=1) + (scores[:, category] - score).abs()).argmin()
            for box, score, category in detections
        ]
        anchor_idx = torch.tensor([int(i) for i in anchor_idx], dtype=torch.int64)
        return torch.searchsorted(self._level_ends, anchor_idx, right=True).tolist()
