"""A narrow ResNet-50 with FPN, by config."""

from __future__ import annotations

from detectron2.config import CfgNode, get_cfg

from asff import add_asff_config

RETINANET = "build_retinanet_resnet{}_fpn_backbone"
RCNN = "build_resnet{}_fpn_backbone"
FEATURES = {RETINANET: ["res3", "res4", "res5"], RCNN: ["res2", "res3", "res4", "res5"]}
CHANNELS = 16


def fpn_cfg(name: str, *options: object, add_keys: bool = True) -> CfgNode:
    """Return the config of a narrow ResNet-50 with FPN; ``name`` is its backbone builder's."""
    cfg = get_cfg()
    if add_keys:
        add_asff_config(cfg)
    features = next((x for builder, x in FEATURES.items() if builder.format("") == name), None)
    cfg.merge_from_list(
        [
            *("MODEL.DEVICE", "cpu", "MODEL.BACKBONE.FREEZE_AT", 0, "MODEL.BACKBONE.NAME", name),
            *("MODEL.RESNETS.WIDTH_PER_GROUP", 4, "MODEL.RESNETS.RES2_OUT_CHANNELS", 16),
            *("MODEL.RESNETS.STEM_OUT_CHANNELS", 8, "MODEL.FPN.OUT_CHANNELS", CHANNELS),
            *("MODEL.RESNETS.OUT_FEATURES", ["res2", "res3", "res4", "res5"]),
            *("MODEL.FPN.IN_FEATURES", features or FEATURES[RETINANET]),
            *options,
        ]
    )
    return cfg
