"""An exported model with the interface of a Detectron2 detector.

Shape letters: N images, K classes, R all anchors of an image, D detections of an image at most.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Sequence
from itertools import groupby

import torch
from detectron2.config import CfgNode
from detectron2.modeling.postprocessing import detector_postprocess
from detectron2.structures import Boxes, Instances
from torch import Tensor
from torchvision.ops import batched_nms

from ..modeling.yolov3.letterbox import letterbox, undo_letterbox
from .metadata import Thresholds
from .runtimes import Run


class ExportedDetector:
    """Maps Detectron2's inputs to its outputs, as the detector that was exported.

    Args:
        path: the model; its suffix tells the runtime.
        cfg: the config in its metadata; the thresholds may be other ones, unless NMS is inside.
        metadata, run: see :func:`asff.export.load_model`.
    """

    def __init__(self, path: str | os.PathLike, cfg: CfgNode, metadata: dict[str, str], run: Run):
        self.run = run
        self.thresholds = Thresholds.from_config(cfg)
        self.input = json.loads(metadata["input"])
        self.fixed_size = self.input["shape"][2:] != ["H", "W"]
        self.strides = json.loads(metadata["strides"])
        self.nms = json.loads(metadata["nms"])
        if self.nms and self.thresholds != Thresholds(**json.loads(metadata["thresholds"])):
            raise ValueError(
                f"{path} has NMS inside, whose thresholds cannot be changed: "
                f"{metadata['thresholds']}. Export the detector without --nms, or with others."
            )

    def __call__(self, batched_inputs: Sequence[dict]) -> list[dict[str, Instances]]:
        """Detect the objects of images; see Detectron2's DenseDetector for inputs and outputs."""
        results = []
        # Padding an image to the shape of another would change its detections.
        for shape, group in groupby(batched_inputs, key=lambda x: tuple(x["image"].shape)):
            inputs, size = list(group), shape[-2:]
            batch = self.preprocess([x["image"] for x in inputs])
            for x, *values in zip(inputs, *self.run(batch)):
                found = self._find(size, self._level_areas(batch), *values)
                if self.input["position"] == "centre":
                    undo_letterbox(found.pred_boxes, size, batch.shape[-1])
                height, width = x.get("height", size[0]), x.get("width", size[1])
                results.append({"instances": detector_postprocess(found, height, width)})
        return results

    def preprocess(self, images: Sequence[Tensor]) -> Tensor:
        """Make a batch, float32, of images (3, H, W) of one shape, 0 to 255."""
        divisor = self.input["divisor"]
        if self.input["position"] == "centre":
            images = letterbox(images, divisor)
        sizes = images[0].shape[-2:]
        if self.fixed_size:
            fixed = self.input["shape"][2:]
            if sizes[0] > fixed[0] or sizes[1] > fixed[1]:
                raise ValueError(
                    f"An image has {sizes[0]}x{sizes[1]} pixels after resizing, but the model was "
                    f"exported for {fixed[0]}x{fixed[1]} at most. Export it without --size."
                )
            sizes = fixed
        height, width = (math.ceil(x / divisor) * divisor for x in sizes)
        padding = torch.tensor(self.input["padding"])[:, None, None]
        batch = padding.expand(3, height, width).repeat(len(images), 1, 1, 1)
        batch[..., : images[0].shape[-2], : images[0].shape[-1]] = torch.stack(images)
        return batch

    def _level_areas(self, batch: Tensor) -> list[int]:
        """Return the number of locations of each level."""
        height, width = batch.shape[-2:]
        return [math.ceil(height / x) * math.ceil(width / x) for x in self.strides]

    def _find(
        self,
        size: tuple[int, int],
        areas: list[int],
        boxes: Tensor,
        scores: Tensor,
        *classes: Tensor,
    ) -> Instances:
        """Turn the outputs for an image of a size (height, width) into detections, best first."""
        if self.nms:
            found = scores > 0
            boxes, scores, classes = boxes[found], scores[found], classes[0][found]
        else:
            boxes, scores, classes = select(boxes, scores, areas, self.thresholds)
        return Instances(size, pred_boxes=Boxes(boxes), scores=scores, pred_classes=classes)


def select(
    boxes: Tensor, scores: Tensor, areas: Sequence[int], thresholds: Thresholds
) -> tuple[Tensor, Tensor, Tensor]:
    """Select the detections of an image from all its anchors, best first.

    Args:
        boxes: (R, 4).
        scores: (R, K).
        areas: number of locations of each level, in the order of the anchors.

    Returns:
        Boxes (D, 4), scores (D,) and classes (D,).
    """
    if thresholds.best_class:
        best = scores.argmax(dim=1, keepdim=True)
        scores = torch.zeros_like(scores).scatter_(1, best, scores.gather(1, best))
    anchors_per_location = len(scores) // sum(areas)
    sizes = [x * anchors_per_location for x in areas] if thresholds.per_level else [len(scores)]
    found = []
    for level_boxes, level_scores in zip(boxes.split(sizes), scores.split(sizes)):
        anchor_idx, classes = (level_scores > thresholds.score).nonzero(as_tuple=True)
        values, order = level_scores[anchor_idx, classes].sort(descending=True, stable=True)
        order = order[: thresholds.candidates]
        found.append((level_boxes[anchor_idx[order]], values[: len(order)], classes[order]))
    boxes, scores, classes = map(torch.cat, zip(*found))
    # It shifts boxes by multiples of their class: float64 keeps all of their digits.
    keep = batched_nms(boxes.double(), scores.double(), classes, thresholds.nms)
    keep = keep[: thresholds.detections]
    return boxes[keep], scores[keep], classes[keep]
