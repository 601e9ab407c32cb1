"""A detector with known fusion weights: at bright pixels, every level uses only itself."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from detectron2.layers import ShapeSpec
from detectron2.modeling import Backbone
from detectron2.structures import Boxes, Instances
from torch import Tensor, nn

from asff.modeling import AdaptiveFusion, PyramidFusion, YOLOv3Pyramid

STRIDES = {"p5": 32, "p4": 16, "p3": 8}
# Self weights of all levels at bright and at dark pixels.
LOGIT = 10.0
BRIGHT, DARK = (math.exp(x) / (math.exp(x) + 2) for x in (LOGIT, -LOGIT))


class MeanPixels(Backbone):
    """Features of one channel: the mean of the pixels, from 0 to 1, of every location."""

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        grey = images.mean(dim=1, keepdim=True) / 255
        return {name: F.avg_pool2d(grey, stride) for name, stride in STRIDES.items()}

    def output_shape(self) -> dict[str, ShapeSpec]:
        return {name: ShapeSpec(channels=1, stride=stride) for name, stride in STRIDES.items()}


class GatedDetector(nn.Module):
    """A detector without detections.

    The logit of a level's self weight is 10 where its feature is 1, and -10 where it is 0; those
    of the other levels are 0.
    """

    def __init__(self):
        super().__init__()
        fusion = PyramidFusion(
            lambda channels, levels: AdaptiveFusion(
                channels, levels, weight_channels=1, norm="", activation=""
            ),
            in_channels=[1, 1, 1],
            strides=list(STRIDES.values()),
            norm="",
            activation="",
        )
        with torch.no_grad():
            for own, fuse in enumerate(fusion.fuse):
                for conv in fuse.compress:
                    conv.weight.fill_(1)
                    conv.bias.zero_()
                fuse.logits.weight.zero_()
                fuse.logits.bias.zero_()
                fuse.logits.weight[own, own] = 2 * LOGIT
                fuse.logits.bias[own] = -LOGIT
        self.backbone = YOLOv3Pyramid(
            bottom_up=MeanPixels(), in_features=list(STRIDES), neck=nn.Identity(), fusion=fusion
        )

    def forward(self, inputs: list[dict]) -> list[dict]:
        self.backbone(torch.stack([x["image"] for x in inputs]).float())
        outputs = []
        for x in inputs:
            instances = Instances((x["height"], x["width"]))
            instances.pred_boxes = Boxes(torch.zeros(0, 4))
            instances.scores = torch.zeros(0)
            instances.pred_classes = torch.zeros(0, dtype=torch.int64)
            outputs.append({"instances": instances})
        return outputs


def image_with_square(
    box: tuple[int, int, int, int],
    *,
    size: tuple[int, int] = (128, 192),
    shown_as: tuple[int, int] | None = None,
) -> dict:
    """Create a black image with a white box x1, y1, x2, y2.

    Args:
        size: height and width at the network's input.
        shown_as: height and width of the image itself, if others.
    """
    x1, y1, x2, y2 = box
    image = torch.zeros(3, *size, dtype=torch.uint8)
    image[:, y1:y2, x1:x2] = 255
    height, width = shown_as or size
    return {"image": image, "height": height, "width": width}
