"""Bottom-up, neck and fusion as one Detectron2 backbone."""

from __future__ import annotations

from collections.abc import Sequence

from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, Backbone
from torch import Tensor

from ...config import choose
from ..fusion.pyramid_fusion import PyramidFusion, build_fusion
from ..neck.yolov3_neck import YOLOv3Neck


class YOLOv3Pyramid(Backbone):
    """The pyramid that the head of YOLOv3 predicts from, as FPN is the pyramid of RetinaNet.

    Args:
        bottom_up: a Detectron2 backbone.
        in_features: names of three of its features, coarsest first.
        neck: maps them to the levels x^l.
        fusion: maps the levels x^l to the fused levels y^l of the same sizes; None: y^l is x^l.
    """

    def __init__(
        self,
        *,
        bottom_up: Backbone,
        in_features: Sequence[str],
        neck: YOLOv3Neck,
        fusion: PyramidFusion | None,
    ):
        super().__init__()
        self.bottom_up = bottom_up
        self.in_features = list(in_features)
        self.neck = neck
        self.fusion = fusion
        strides = [bottom_up.output_shape()[name].stride for name in in_features]
        # Named as FPN names its levels, by the logarithm of the stride.
        self._out_features = [f"p{stride.bit_length() - 1}" for stride in strides]
        self._out_feature_strides = dict(zip(self._out_features, strides))
        out_channels = neck.out_channels if fusion is None else fusion.out_channels
        self._out_feature_channels = dict(zip(self._out_features, out_channels))

    @property
    def size_divisibility(self) -> int:
        return max(self._out_feature_strides.values())

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Map images (N, 3, H, W) to ``{"p5": y^1, "p4": y^2, "p3": y^3}``, coarsest first."""
        features = self.bottom_up(images)
        levels = self.neck([features[name] for name in self.in_features])
        if self.fusion is not None:
            levels = self.fusion(levels)
        return dict(zip(self._out_features, levels))


def build_pyramid(cfg: CfgNode) -> YOLOv3Pyramid:
    """Build bottom-up (``cfg.MODEL.BACKBONE.NAME``), neck and fusion.

    Raises:
        ValueError: the bottom-up is not known, or lacks features at strides 8, 16 and 32.
    """
    builder = choose(dict(BACKBONE_REGISTRY), cfg.MODEL.BACKBONE.NAME, "MODEL.BACKBONE.NAME")
    bottom_up = builder(cfg, ShapeSpec(channels=len(cfg.MODEL.PIXEL_MEAN)))
    available, options = bottom_up.output_shape(), cfg.MODEL.YOLOV3
    in_features = list(options.IN_FEATURES)[::-1]
    shapes = [choose(available, name, "MODEL.YOLOV3.IN_FEATURES") for name in in_features]
    strides = [shape.stride for shape in shapes]
    if strides != [32, 16, 8]:
        raise ValueError(
            f"MODEL.YOLOV3.IN_FEATURES {options.IN_FEATURES} have strides {strides[::-1]}; YOLOv3 "
            "needs features at strides 8, 16 and 32, in this order."
        )
    neck = YOLOv3Neck(
        in_shapes=shapes,
        width=options.NECK.WIDTH,
        spp=options.NECK.SPP,
        widen_finest=options.NECK.WIDEN_FINEST,
        keep_prob=options.DROP_BLOCK.KEEP_PROB,
        norm=options.NORM,
        activation=options.ACTIVATION,
    )
    fusion = build_fusion(cfg, in_channels=neck.out_channels, strides=strides)
    return YOLOv3Pyramid(bottom_up=bottom_up, in_features=in_features, neck=neck, fusion=fusion)
