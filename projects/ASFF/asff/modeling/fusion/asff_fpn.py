"""ASFF-FPN: Detectron2's FPN with adaptively fused levels (paper 4.3), for any detector.

Shape letters: N images, L fused levels, C channels of every level, H and W of a level.
"""

from __future__ import annotations

from collections.abc import Sequence

from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, Backbone
from detectron2.modeling.backbone import build_resnet_backbone
from detectron2.modeling.backbone.fpn import FPN, LastLevelMaxPool, LastLevelP6P7
from torch import Tensor

from ...config import add_asff_fpn_config, choose
from .operations import ReducedConcatFusion
from .pyramid_fusion import FUSIONS, PyramidFusion, check_self_weight, choose_operation

# MODEL.ASFF_FPN.FUSION. What follows FPN expects the channels to stay.
_FUSIONS = {**FUSIONS, "concat": ReducedConcatFusion}


class ASFFFPN(FPN):
    """FPN whose output levels are fused.

    The top block takes unfused features, as in FPN. FPN's weights keep their names; those of the
    fusion begin with ``asff.``.

    Args:
        levels: names of the levels to fuse, as ``p3``; none means all but the top block's.
        fusion: "asff", "sum", "concat" or "none" (paper Table 3).
        self_weight: weight of a level for itself at the start, in (0, 1); the others share the
            rest, so that detectors trained with FPN go on from nearly the same features. Has no
            effect on "sum".
        weight_channels: channels per level from which the spatial weights are computed.
        fusion_norm: norm ahead of the spatial weights. Resized features have none, or the start
            would not be neutral.
        fpn: arguments of Detectron2's FPN.

    Raises:
        ValueError: a level is not one of FPN's, or there are fewer than two or more than six.
    """

    def __init__(
        self,
        *,
        levels: Sequence[str] = (),
        fusion: str = "asff",
        self_weight: float = 0.95,
        weight_channels: int = 16,
        fusion_norm: str = "",
        **fpn,
    ):
        super().__init__(**fpn)
        levels = set(levels) or set(self._out_features[: len(self.in_features)])
        for level in levels:
            choose(self._out_feature_strides, level, "MODEL.ASFF_FPN.LEVELS")
        if not 2 <= len(levels) <= 6:
            raise ValueError(
                f"MODEL.ASFF_FPN.LEVELS would fuse {sorted(levels)}: choose 2 to 6 of "
                f"{', '.join(self._out_features)}."
            )
        check_self_weight(self_weight, "MODEL.ASFF_FPN.INIT_SELF_WEIGHT")
        self.fused_levels = [level for level in self._out_features if level in levels]
        operation = choose_operation(
            _FUSIONS,
            fusion,
            "MODEL.ASFF_FPN.FUSION",
            weight_channels=weight_channels,
            norm=fusion_norm,
            activation="relu",
        )
        self.asff = None
        if operation is not None:
            self.asff = PyramidFusion(
                operation,
                in_channels=[self._out_feature_channels[level] for level in self.fused_levels],
                strides=[self._out_feature_strides[level] for level in self.fused_levels],
                norm="",
                activation="",
            )
            self.asff.init_near_neutral(self_weight)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Map images (N, 3, H, W) to the levels by name, each (N, C, H / stride, W / stride)."""
        features = super().forward(x)
        if self.asff is None:
            return features
        fused = self.asff([features[level] for level in self.fused_levels])
        return {**features, **dict(zip(self.fused_levels, fused))}


def _p6p7_block(feature: str, shape: ShapeSpec, out_channels: int) -> LastLevelP6P7:
    """Make two levels from the coarsest feature of the bottom-up, as RetinaNet has them."""
    return LastLevelP6P7(shape.channels, out_channels, in_feature=feature)


def _pool_block(feature: str, shape: ShapeSpec, out_channels: int) -> LastLevelMaxPool:
    """Make one level from FPN's coarsest, before it is fused, as Faster R-CNN has it."""
    block = LastLevelMaxPool()
    block.in_feature = f"p{shape.stride.bit_length() - 1}"
    return block


# MODEL.ASFF_FPN.TOP_BLOCK
_TOP_BLOCKS = {"p6p7": _p6p7_block, "pool": _pool_block, "none": lambda *coarsest: None}


def _build_asff_fpn(cfg: CfgNode, bottom_up: Backbone, top_block: str) -> ASFFFPN:
    """Put an ASFF-FPN behind a bottom-up, by ``cfg.MODEL.FPN`` and ``cfg.MODEL.ASFF_FPN``."""
    options = _asff_fpn_options(cfg)
    _check_in_features(cfg.MODEL.FPN.IN_FEATURES, bottom_up)
    build_top_block = choose(_TOP_BLOCKS, top_block, "MODEL.ASFF_FPN.TOP_BLOCK")
    coarsest = cfg.MODEL.FPN.IN_FEATURES[-1]
    shape = bottom_up.output_shape()[coarsest]
    return ASFFFPN(
        levels=options.LEVELS,
        fusion=options.FUSION,
        self_weight=options.INIT_SELF_WEIGHT,
        weight_channels=options.WEIGHT_CHANNELS,
        fusion_norm=options.NORM,
        bottom_up=bottom_up,
        in_features=cfg.MODEL.FPN.IN_FEATURES,
        out_channels=cfg.MODEL.FPN.OUT_CHANNELS,
        norm=cfg.MODEL.FPN.NORM,
        top_block=build_top_block(coarsest, shape, cfg.MODEL.FPN.OUT_CHANNELS),
        fuse_type=cfg.MODEL.FPN.FUSE_TYPE,
    )


def _asff_fpn_options(cfg: CfgNode) -> CfgNode:
    """Return ``cfg.MODEL.ASFF_FPN``, or its defaults where a script calls no add_asff_config."""
    if "ASFF_FPN" not in cfg.MODEL:
        cfg = CfgNode({"MODEL": {}})
        add_asff_fpn_config(cfg)
    return cfg.MODEL.ASFF_FPN


def _check_in_features(in_features: Sequence[str], bottom_up: Backbone) -> None:
    """Raise a ValueError where FPN would end in an assertion or a KeyError."""
    key, shapes = "MODEL.FPN.IN_FEATURES", bottom_up.output_shape()
    if not in_features:
        raise ValueError(f"{key} is empty: name features of the bottom-up ({', '.join(shapes)}).")
    strides = [choose(shapes, name, key).stride for name in in_features]
    if any(coarse != 2 * fine for fine, coarse in zip(strides, strides[1:])):
        raise ValueError(
            f"{key} {list(in_features)} have strides {strides}: FPN needs every stride to be twice "
            "the one before. Name neighbouring features, finest first."
        )


@BACKBONE_REGISTRY.register()
def build_retinanet_resnet_asff_fpn_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> ASFFFPN:
    """Build ``build_retinanet_resnet_fpn_backbone`` with p3 to p5 of p3 to p7 fused."""
    return _build_asff_fpn(cfg, build_resnet_backbone(cfg, input_shape), "p6p7")


@BACKBONE_REGISTRY.register()
def build_resnet_asff_fpn_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> ASFFFPN:
    """Build ``build_resnet_fpn_backbone`` with p2 to p5 of p2 to p6 fused."""
    return _build_asff_fpn(cfg, build_resnet_backbone(cfg, input_shape), "pool")


@BACKBONE_REGISTRY.register()
def build_asff_fpn_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> ASFFFPN:
    """Build an ASFF-FPN behind the bottom-up ``cfg.MODEL.ASFF_FPN.BOTTOM_UP``."""
    options = _asff_fpn_options(cfg)
    known = {name: build for name, build in BACKBONE_REGISTRY if "fpn" not in name}
    builder = choose(known, options.BOTTOM_UP, "MODEL.ASFF_FPN.BOTTOM_UP")
    return _build_asff_fpn(cfg, builder(cfg, input_shape), options.TOP_BLOCK)
