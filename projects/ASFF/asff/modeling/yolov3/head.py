"""The YOLOv3 head with guided anchoring (arXiv 1901.03278): first shapes, then boxes and classes.

Shape letters: N images, A anchors per location of a level (the anchor-free one included), C
channels, H and W of a level, K classes, R all anchors of an image.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..layers import DeformConv2d, ReceptiveFieldBlock, conv_norm_act, msra_init, scale_channels
from .anchor_generator import YOLOv3AnchorGenerator
from .predictions import DensePredictions


class FeatureAdaption(nn.Module):
    """Deformable convolution whose offsets follow from the predicted shapes (guided anchoring).

    From the authors' code: there are as many offset groups as anchors per location (where they
    divide the channels), and the shape logits are detached, so that this path does not train the
    shapes.

    Args:
        channels: C.
        num_anchors: A.
        rfb: widen the receptive field of the feature first (ASFF*).
        deform_conv: method of :class:`DeformConv2d`.
    """

    def __init__(
        self, channels: int, num_anchors: int, *, rfb: bool = False, deform_conv: str = "auto"
    ):
        super().__init__()
        self.rfb = ReceptiveFieldBlock(channels) if rfb else nn.Identity()
        groups = math.gcd(channels, num_anchors)
        self.offset = nn.Conv2d(2 * num_anchors, 2 * 9 * groups, 1, groups=groups)
        self.deform = DeformConv2d(channels, channels, method=deform_conv)

    def forward(self, x: Tensor, shape_logits: Tensor) -> Tensor:
        """Adapt features (N, C, H, W) to shape logits (N, 2 A, H, W)."""
        # Positions need all bits that the weights have, also under autocast.
        with torch.autocast(x.device.type, enabled=False):
            offsets = self.offset(shape_logits.detach().to(self.offset.weight.dtype))
        return self.deform(self.rfb(x), offsets)


class YOLOv3HeadLevel(nn.Module):
    """The head at one level.

    Args:
        in_channels, channels: of the level's feature, and of the 3x3 convolution that widens it.
        num_anchors: A.
        guided_anchoring: predict the anchors' shapes.
        feature_adaption, rfb, deform_conv: see :class:`FeatureAdaption`.
    """

    def __init__(
        self,
        in_channels: int,
        channels: int,
        num_anchors: int,
        num_classes: int,
        *,
        guided_anchoring: bool,
        feature_adaption: bool,
        rfb: bool,
        deform_conv: str,
        norm: str,
        activation: str,
    ):
        super().__init__()
        self.num_anchors = num_anchors
        self.num_classes = num_classes
        self.conv = conv_norm_act(in_channels, channels, 3, norm=norm, activation=activation)
        self.shape = nn.Conv2d(channels, 2 * num_anchors, 1) if guided_anchoring else None
        self.adaption = None
        if feature_adaption:
            self.adaption = FeatureAdaption(channels, num_anchors, rfb=rfb, deform_conv=deform_conv)
        self.predict = nn.Conv2d(channels, num_anchors * (5 + num_classes), 1)
        self._init_weights(activation)

    def _init_weights(self, activation: str) -> None:
        msra_init(self, activation)
        # Predictions hardly depend on the image at first, as in RetinaNet.
        if self.shape is not None:
            nn.init.normal_(self.shape.weight, std=0.01)
        nn.init.normal_(self.predict.weight, std=0.01)
        if self.adaption is not None:
            nn.init.normal_(self.adaption.offset.weight, std=0.01)
            # No activation follows.
            nn.init.kaiming_normal_(self.adaption.deform.weight, nonlinearity="linear")
            nn.init.zeros_(self.adaption.deform.bias)
            if isinstance(self.adaption.rfb, ReceptiveFieldBlock):
                self.adaption.rfb.init_weights()
        # A handful of ten thousands of anchors are objects. Start from there (as RetinaNet does),
        # or the first loss, a sum over all anchors, is in the ten thousands and its step ruins all.
        bias = torch.zeros(self.num_anchors, 5 + self.num_classes)
        bias[:, 4] = -math.log(1000.0)
        bias[:, 5:] = -math.log(self.num_classes)
        self.predict.bias.data.copy_(bias.flatten())

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """Map (N, C, H, W) to logits (N, A (5 + K), H, W), shape logits (N, 2 A, H, W) or None."""
        x = self.conv(x)
        shape_logits = self.shape(x) if self.shape is not None else None
        if self.adaption is not None:
            x = self.adaption(x, shape_logits)
        return self.predict(x), shape_logits


class YOLOv3Head(nn.Module):
    """The heads of all levels; their outputs are concatenated in the order of the anchors.

    Args:
        in_channels: of the levels, coarsest first.
        anchor_generator: gives the anchors of the same levels.
        width: multiplier of the channels, which are 1024, 512, 256 from the coarsest level on.
        style: norm and activation.
    """

    def __init__(
        self,
        *,
        in_channels: Sequence[int],
        anchor_generator: YOLOv3AnchorGenerator,
        num_classes: int,
        width: float = 1.0,
        guided_anchoring: bool = True,
        feature_adaption: bool = True,
        rfb: bool = False,
        deform_conv: str = "auto",
        **style: str,
    ):
        super().__init__()
        if feature_adaption and not guided_anchoring:
            raise ValueError(
                "MODEL.YOLOV3.FEATURE_ADAPTION is True but MODEL.YOLOV3.GUIDED_ANCHORING is False: "
                "features are adapted to predicted shapes. Switch both on, or the first off."
            )
        if rfb and not feature_adaption:
            raise ValueError(
                "MODEL.YOLOV3.RFB is True but MODEL.YOLOV3.FEATURE_ADAPTION is False, of which the "
                "receptive field block is a part. Switch both on, or the first off."
            )
        self.anchor_generator = anchor_generator
        self.num_classes = num_classes
        self.levels = nn.ModuleList(
            YOLOv3HeadLevel(
                channels,
                scale_channels(1024 / 2**level, width),
                num_anchors,
                num_classes,
                guided_anchoring=guided_anchoring,
                feature_adaption=feature_adaption,
                rfb=rfb,
                deform_conv=deform_conv,
                **style,
            )
            for level, (channels, num_anchors) in enumerate(
                zip(in_channels, anchor_generator.num_anchors)
            )
        )

    def forward(self, features: Sequence[Tensor]) -> DensePredictions:
        """Predict from the levels' features, coarsest first."""
        outputs = [level(x) for level, x in zip(self.levels, features)]
        logits = _flatten_levels([logits for logits, _ in outputs], 5 + self.num_classes)
        box_logits, obj_logits, cls_logits = logits.split([4, 1, self.num_classes], dim=-1)
        shape_logits = [shape for _, shape in outputs if shape is not None]
        return DensePredictions(
            box_logits=box_logits,
            obj_logits=obj_logits.squeeze(-1),
            cls_logits=cls_logits,
            shape_logits=_flatten_levels(shape_logits, 2) if shape_logits else None,
            grid=self.anchor_generator([tuple(x.shape[-2:]) for x in features]),
        )


def _flatten_levels(levels: Sequence[Tensor], num_values: int) -> Tensor:
    """Concatenate (N, A x values, H, W) of all levels to (N, R, values), in float32."""
    flat = []
    for x in levels:
        num_images, _, height, width = x.shape
        x = x.float().view(num_images, -1, num_values, height * width)
        flat.append(x.transpose(2, 3).reshape(num_images, -1, num_values))
    return torch.cat(flat, dim=1)
