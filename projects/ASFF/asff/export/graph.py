"""The part of a detector that is exported: from pixels to the boxes and scores of all anchors.

Shape letters: N images, K classes, R all anchors of an image.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from detectron2.modeling.meta_arch import RetinaNet
from detectron2.modeling.meta_arch.dense_detector import DenseDetector
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from ..modeling import YOLOv3, fuse_norms
from ..modeling.layers import DeformConv2d
from ..modeling.yolov3.box_regression import to_corners


class ExportGraph(nn.Module, ABC):
    """A detector without its thresholds and NMS; the normalisation of the pixels is inside.

    Args:
        model: the detector, of which a copy is exported, its norms folded into convolutions.
        half: compute in float16; pixels, boxes and scores stay float32.
        deformable: write deformable convolutions as an "operator" or, for runtimes that lack it, as
            "samplings".
    """

    def __init__(self, model: DenseDetector, *, half: bool = False, deformable: str = "operator"):
        super().__init__()
        self.model = fuse_norms(model)
        for module in self.model.modules():
            if isinstance(module, DeformConv2d):
                module.method = "torchvision" if deformable == "operator" else deformable
        self.dtype = torch.float16 if half else torch.float32
        if half:
            self.model.backbone.half()
            self.model.head.half()

    @property
    def divisor(self) -> int:
        """What height and width must be divisible by."""
        return self.model.backbone.size_divisibility

    @property
    def strides(self) -> list[int]:
        """Of the head's levels, in pixels."""
        shapes = self.model.backbone.output_shape()
        return [shapes[name].stride for name in self.model.head_in_features]

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Predict the boxes and scores of all anchors.

        Args:
            images: (N, 3, H, W), 0 to 255, in the order of INPUT.FORMAT; H and W are divisible by
                ``divisor``.

        Returns:
            Boxes (N, R, 4), x1, y1, x2, y2 in pixels; scores (N, R, K).
        """
        normalised = (images - self.model.pixel_mean) / self.model.pixel_std
        features = self.model.backbone(normalised.to(self.dtype))
        return self.decode([features[name] for name in self.model.head_in_features])

    @abstractmethod
    def decode(self, features: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Predict boxes and scores from the features of the head's levels."""


class YOLOv3Graph(ExportGraph):
    """YOLOv3: scores are objectness x class probability."""

    def decode(self, features: list[Tensor]) -> tuple[Tensor, Tensor]:
        predictions = self.model.head(features)
        objectness = predictions.obj_logits.sigmoid()[..., None]
        return to_corners(predictions.boxes()), objectness * predictions.cls_logits.sigmoid()


class RetinaNetGraph(ExportGraph):
    """RetinaNet: scores are class probabilities."""

    def decode(self, features: list[Tensor]) -> tuple[Tensor, Tensor]:
        model = self.model
        anchors = torch.cat([x.tensor for x in model.anchor_generator(features)])
        logits, deltas = model._transpose_dense_predictions(
            model.head(features), [model.num_classes, 4]
        )
        logits, deltas = torch.cat(logits, dim=1), torch.cat(deltas, dim=1)
        repeated = anchors.expand(deltas.shape[0], -1, -1).reshape(-1, 4)
        boxes = model.box2box_transform.apply_deltas(deltas.reshape(-1, 4), repeated)
        return boxes.view(deltas.shape), logits.float().sigmoid()


GRAPHS = {YOLOv3: YOLOv3Graph, RetinaNet: RetinaNetGraph}


def build_graph(model: nn.Module, **options: object) -> ExportGraph:
    """Build the graph of a detector.

    Args:
        options: of :class:`ExportGraph`.

    Raises:
        ValueError: there is none for its meta-architecture.
    """
    for kind, graph in GRAPHS.items():
        if isinstance(model, kind):
            return graph(model, **options)
    raise ValueError(
        f"MODEL.META_ARCHITECTURE is '{type(model).__name__}', which cannot be exported: its boxes "
        f"do not follow from the features alone. Use {' or '.join(x.__name__ for x in GRAPHS)}."
    )


@torch.no_grad()
def trace(graph: ExportGraph, size: int | None = None) -> ExportedProgram:
    """Trace a graph for any number of images.

    Args:
        size: height and width of its input; None: any multiples of ``graph.divisor``.
    """
    divisor = graph.divisor
    dynamic = {0: Dim("N")}
    if size is None:
        dynamic.update({2: divisor * Dim("H", min=2), 3: divisor * Dim("W", min=2)})
    # Not so small that a level has a dimension of 1, which would be taken for a constant.
    height, width = (size, size) if size else (12 * divisor, 16 * divisor)
    images = torch.rand(2, 3, height, width, device=graph.model.device)
    return torch.export.export(graph, (images,), dynamic_shapes={"images": dynamic})
