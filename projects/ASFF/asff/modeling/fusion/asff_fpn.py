"""ASFF-FPN: Detectron2's FPN with adaptively fused levels (paper 4.3), for any detector.

Shape letters: N images, L fused levels, C channels of every level, H and W of a level.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, Backbone
from detectron2.modeling.backbone import build_resnet_backbone
from detectron2.modeling.backbone.fpn import FPN, LastLevelMaxPool, LastLevelP6P7
from torch import Tensor, nn

from ...config import add_asff_fpn_config, choose
from .pyramid_fusion import FUSIONS, AdaptiveFusion, ConcatFusion, PyramidFusion, check_self_weight


class ASFFFPN(FPN):
    """FPN whose levels are fused in the end.

    The levels of the top block come from what they come from in FPN and stay as they are, unless
    they are fused too. FPN's weights keep their names; those of the fusion begin with ``asff.``.

    Args:
        levels: names of the levels to fuse, as ``p3``; none means all but the top block's.
        fusion: "asff", "sum", "concat" or "none" (paper Table 3).
        self_weight: weight of a level at itself at the start, in (0, 1); the others share the rest,
            so that detectors trained with FPN go on from nearly the same features. Means nothing
            to "sum".
        weight_channels: channels per level from which the spatial weights are computed.
        fusion_norm: normalisation ahead of the spatial weights, see
            :func:`detectron2.layers.get_norm`. What is resized is not normalised: the start would
            not be neutral.
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
        operation = choose(FUSIONS, fusion, "MODEL.ASFF_FPN.FUSION")
        self.asff = None
        if operation is None:
            return
        if operation is AdaptiveFusion:
            style = {"norm": fusion_norm, "activation": "relu"}
            operation = partial(operation, weight_channels=weight_channels, **style)
        elif operation is ConcatFusion:
            operation = ReducedConcat
        strides = [self._out_feature_strides[level] for level in self.fused_levels]
        channels = [self._out_feature_channels[level] for level in self.fused_levels]
        self.asff = PyramidFusion(
            operation, in_channels=channels, strides=strides, norm="", activation=""
        )
        start_near_neutral(self.asff, self_weight)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Map images (N, 3, H, W) to the levels by name, each (N, C, H / stride, W / stride)."""
        features = super().forward(x)
        if self.asff is None:
            return features
        fused = self.asff([features[level] for level in self.fused_levels])
        return {**features, **dict(zip(self.fused_levels, fused))}


class ReducedConcat(nn.Module):
    """Concatenation, and a 1x1 convolution back to C channels, for what follows FPN expects C."""

    def __init__(self, channels: int, num_levels: int):
        super().__init__()
        self.concat = ConcatFusion(channels, num_levels)
        self.reduce = nn.Conv2d(num_levels * channels, channels, 1)
        self.out_channels = channels

    @torch.no_grad()
    def start_with(self, level: int, self_weight: float) -> None:
        """Begin as the weighted sum that ASFF begins with, see :class:`AdaptiveFusion`."""
        num_levels = self.reduce.in_channels // self.out_channels
        shares = torch.full((num_levels,), (1 - self_weight) / (num_levels - 1))
        shares[level] = self_weight
        weight = torch.kron(shares, torch.eye(self.out_channels))
        self.reduce.weight.copy_(weight[:, :, None, None])

    def forward(self, resized: Sequence[Tensor]) -> Tensor:
        """Fuse L features (N, C, H, W) into one."""
        return self.reduce(self.concat(resized))


@torch.no_grad()
def start_near_neutral(fusion: PyramidFusion, self_weight: float) -> None:
    """Let every level begin as ``self_weight`` of itself and the rest of the other levels' mean.

    Resizing begins without learned weights: down, a 3x3 max pooling for every halving but the last,
    then the mean of 3x3 places, zeros beyond the border.
    """
    for resizes in fusion.resize:
        for resize in resizes:
            if resize.conv is not None:
                nn.init.dirac_(resize.conv.weight)
                resize.conv.weight.copy_(resize.conv.weight.mean(dim=(2, 3), keepdim=True))
    if isinstance(fusion.fuse[0], (AdaptiveFusion, ReducedConcat)):
        fusion.start_with(self_weight)


def p6p7_block(cfg: CfgNode, bottom_up: Backbone) -> LastLevelP6P7:
    """Two levels from the coarsest feature of the bottom-up, as RetinaNet has them."""
    feature = cfg.MODEL.FPN.IN_FEATURES[-1]
    channels = bottom_up.output_shape()[feature].channels
    return LastLevelP6P7(channels, cfg.MODEL.FPN.OUT_CHANNELS, in_feature=feature)


def pool_block(cfg: CfgNode, bottom_up: Backbone) -> LastLevelMaxPool:
    """One level from FPN's coarsest, before it is fused, as Faster R-CNN has it."""
    block = LastLevelMaxPool()
    stride = bottom_up.output_shape()[cfg.MODEL.FPN.IN_FEATURES[-1]].stride
    block.in_feature = f"p{stride.bit_length() - 1}"
    return block


# MODEL.ASFF_FPN.TOP_BLOCK
TOP_BLOCKS = {"p6p7": p6p7_block, "pool": pool_block, "none": lambda cfg, bottom_up: None}


def make_asff_fpn(cfg: CfgNode, bottom_up: Backbone, top_block: str) -> ASFFFPN:
    """Put an ASFF-FPN behind a bottom-up, by ``cfg.MODEL.FPN`` and ``cfg.MODEL.ASFF_FPN``.

    Args:
        top_block: a key of :data:`TOP_BLOCKS`.

    Raises:
        ValueError: FPN cannot be built from ``MODEL.FPN.IN_FEATURES``, or see :class:`ASFFFPN`.
    """
    options = asff_fpn_options(cfg)
    check_in_features(cfg.MODEL.FPN.IN_FEATURES, bottom_up)
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
        top_block=choose(TOP_BLOCKS, top_block, "MODEL.ASFF_FPN.TOP_BLOCK")(cfg, bottom_up),
        fuse_type=cfg.MODEL.FPN.FUSE_TYPE,
    )


def asff_fpn_options(cfg: CfgNode) -> CfgNode:
    """``cfg.MODEL.ASFF_FPN``, or its defaults where a script does not call add_asff_config."""
    if "ASFF_FPN" not in cfg.MODEL:
        cfg = CfgNode({"MODEL": {}})
        add_asff_fpn_config(cfg)
    return cfg.MODEL.ASFF_FPN


def check_in_features(in_features: Sequence[str], bottom_up: Backbone) -> None:
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
    """For ``build_retinanet_resnet_fpn_backbone``: p3 to p7, of which p3 to p5 are fused."""
    return make_asff_fpn(cfg, build_resnet_backbone(cfg, input_shape), "p6p7")


@BACKBONE_REGISTRY.register()
def build_resnet_asff_fpn_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> ASFFFPN:
    """For ``build_resnet_fpn_backbone``: p2 to p6, of which p2 to p5 are fused."""
    return make_asff_fpn(cfg, build_resnet_backbone(cfg, input_shape), "pool")


@BACKBONE_REGISTRY.register()
def build_asff_fpn_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> ASFFFPN:
    """Behind any registered bottom-up: ``cfg.MODEL.ASFF_FPN.BOTTOM_UP`` and ``TOP_BLOCK``."""
    options = asff_fpn_options(cfg)
    known = {name: build for name, build in BACKBONE_REGISTRY if "fpn" not in name}
    builder = choose(known, options.BOTTOM_UP, "MODEL.ASFF_FPN.BOTTOM_UP")
    return make_asff_fpn(cfg, builder(cfg, input_shape), options.TOP_BLOCK)
