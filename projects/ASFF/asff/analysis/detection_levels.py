"""Which level of a dense detector each detection came from.

Shape letters: N images, R rows of the dense output (every anchor at every place), K classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from detectron2.modeling import RetinaNet
from detectron2.structures import Boxes, Instances
from torch import Tensor, nn

from ..modeling.yolov3 import DensePredictions, YOLOv3, to_corners


@dataclass
class DenseBoxes:
    """All boxes that a head predicts, before any threshold.

    Attributes:
        boxes: (N, R, 4): x1, y1, x2, y2 in pixels of the network's input.
        scores: (N, R, K).
        counts: rows of every level; rows run over the levels.
    """

    boxes: Tensor
    scores: Tensor
    counts: list[int]


def yolov3_boxes(
    model: YOLOv3, features: list[Tensor], predictions: DensePredictions
) -> DenseBoxes:
    """The :class:`DenseBoxes` of a YOLOv3."""
    dense = predictions.decode()
    num_anchors, shapes = model.head.anchor_generator.num_anchors, predictions.grid.level_shapes
    counts = [count * height * width for count, (height, width) in zip(num_anchors, shapes)]
    return DenseBoxes(to_corners(dense[..., :4]), dense[..., 4:5] * dense[..., 5:], counts)


def retinanet_boxes(model: RetinaNet, features: list[Tensor], predictions: Sequence) -> DenseBoxes:
    """The :class:`DenseBoxes` of a RetinaNet."""
    logits, deltas = model._transpose_dense_predictions(predictions, [model.num_classes, 4])
    anchors = model.anchor_generator(features)
    boxes = [
        torch.stack([model.box2box_transform.apply_deltas(x, base.tensor) for x in level])
        for level, base in zip(deltas, anchors)
    ]
    scores = [level.sigmoid() for level in logits]
    return DenseBoxes(torch.cat(boxes, dim=1), torch.cat(scores, dim=1), list(map(len, anchors)))


class LevelFinder:
    """Listens to a detector's head, while its context lasts, and finds detections in its output.

    Detections do not say where they come from, but NMS takes boxes and scores as they are.

    Args:
        model: of other detectors than YOLOv3 and RetinaNet nothing can be told.
    """

    def __init__(self, model: nn.Module):
        kinds = {YOLOv3: yolov3_boxes, RetinaNet: retinanet_boxes}
        self.model = model
        self.dense_boxes = next((kinds[x] for x in kinds if isinstance(model, x)), None)
        self.dense: DenseBoxes | None = None

    def __enter__(self) -> LevelFinder:
        if self.dense_boxes is not None:
            self.handle = self.model.head.register_forward_hook(self.keep)
        return self

    def __exit__(self, *error: object) -> None:
        if self.dense_boxes is not None:
            self.handle.remove()

    def keep(self, head: nn.Module, inputs: tuple, predictions: object) -> None:
        # At once: RetinaNet overwrites its logits.
        self.dense = self.dense_boxes(self.model, inputs[0], predictions)

    def levels(
        self, index: int, instances: Instances, input_size: tuple[int, int]
    ) -> list[str] | None:
        """Name the level that each detection came from; None where the detector is not known.

        Args:
            index: of the image in the batch.
            instances: what the model returned for it.
            input_size: height and width of the image at the network's input, in pixels.
        """
        if self.dense is None:
            return None
        if not len(instances):
            return []
        # As detector_postprocess does it with those that NMS left.
        (height, width), (input_height, input_width) = instances.image_size, input_size
        boxes = Boxes(self.dense.boxes[index].clone())
        boxes.scale(width / input_width, height / input_height)
        boxes.clip(instances.image_size)
        scores = self.dense.scores[index]
        found = zip(instances.pred_boxes.tensor, instances.scores, instances.pred_classes)
        rows = [
            # The closest one, for on some devices the last bits differ.
            ((boxes.tensor - box).abs().amax(dim=1) + (scores[:, category] - score).abs()).argmin()
            for box, score, category in found
        ]
        ends = torch.tensor(self.dense.counts).cumsum(dim=0)
        levels = torch.searchsorted(ends, torch.stack(rows).cpu(), right=True)
        return [self.model.head_in_features[level] for level in levels]
