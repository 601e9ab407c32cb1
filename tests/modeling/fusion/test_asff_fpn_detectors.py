"""ASFF-FPN in detectors: their checkpoints, Detectron2's Python configs, FCOS."""

from __future__ import annotations

import pickle

import pytest
import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.layers import ShapeSpec
from detectron2.modeling import build_model
from detectron2.modeling.backbone import build_resnet_backbone
from detectron2.modeling.backbone.fpn import LastLevelP6P7
from detectron2.modeling.meta_arch.fcos import FCOS, FCOSHead
from detectron2.utils.events import EventStorage

from asff.checkpoint import Checkpointer
from asff.modeling import ASFFFPN
from tests.helpers import make_instances
from tests.modeling.narrow_fpn import CHANNELS, FEATURES, RCNN, RETINANET, fpn_cfg

LEVELS = ["p2", "p3", "p4", "p5"]
ANCHORS = ("MODEL.ANCHOR_GENERATOR.SIZES", [[32], [64], [128], [256], [512]])
R_CNN = (
    *("MODEL.META_ARCHITECTURE", "GeneralizedRCNN", "MODEL.RPN.IN_FEATURES", [*LEVELS, "p6"]),
    *("MODEL.ROI_HEADS.NAME", "StandardROIHeads", "MODEL.ROI_HEADS.IN_FEATURES", LEVELS),
    *("MODEL.ROI_BOX_HEAD.NAME", "FastRCNNConvFCHead"),
    *("MODEL.ROI_BOX_HEAD.NUM_FC", 1, "MODEL.ROI_BOX_HEAD.FC_DIM", 8),
)
MASKS = ("MODEL.MASK_ON", True, "MODEL.ROI_MASK_HEAD.NAME", "MaskRCNNConvUpsampleHead")


@pytest.mark.parametrize("checkpointer", [Checkpointer, DetectionCheckpointer])
@pytest.mark.parametrize("kind", ["pth", "pkl"])
@pytest.mark.parametrize(
    "builder, options",
    [
        (RETINANET, ("MODEL.META_ARCHITECTURE", "RetinaNet")),
        (RCNN, R_CNN),
        (RCNN, (*R_CNN, *MASKS)),
    ],
    ids=["RetinaNet", "Faster R-CNN", "Mask R-CNN"],
)
def test_checkpoints_of_whole_detectors_load(tmp_path, checkpointer, kind, builder, options):
    """Only the fusion stays as it was; ``.pkl`` is the kind of Detectron2's model zoo."""
    cfg = fpn_cfg(builder.format(""), *ANCHORS, *options)
    stock = build_model(cfg).state_dict()
    path = tmp_path / f"stock.{kind}"
    if kind == "pth":
        torch.save({"model": stock}, path)
    else:
        arrays = {key: value.numpy() for key, value in stock.items()}
        path.write_bytes(pickle.dumps({"model": arrays, "__author__": "Detectron2 Model Zoo"}))
    cfg.MODEL.BACKBONE.NAME = builder.format("_asff")
    model = build_model(cfg)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    checkpointer(model).load(str(path))
    for key, value in model.state_dict().items():
        expected = before if key.startswith("backbone.asff.") else stock
        assert torch.equal(value, expected[key]), key


@pytest.mark.filterwarnings("ignore:pkg_resources")
@pytest.mark.parametrize("name", ["fcos", "retinanet", "cascade_rcnn", "mask_rcnn_fpn"])
def test_swaps_into_lazy_configs(name):
    """Detectron2's Python configs take it by one line, too."""
    from detectron2.config import LazyConfig, instantiate
    from detectron2.model_zoo.model_zoo import get_config_file

    with torch.device("meta"):
        model = LazyConfig.load(get_config_file(f"common/models/{name}.py")).model
        stock = set(instantiate(model).state_dict())
        model.backbone._target_ = ASFFFPN
        keys = set(instantiate(model).state_dict())
    assert stock < keys
    assert all(key.startswith("backbone.asff.") for key in keys - stock)


def test_trains_fcos():
    """FCOS makes p6 and p7 from p5, before it is fused."""
    top_block = LastLevelP6P7(CHANNELS, CHANNELS, in_feature="p5")
    bottom_up = build_resnet_backbone(fpn_cfg(RETINANET.format("")), ShapeSpec(channels=3))
    backbone = ASFFFPN(
        bottom_up=bottom_up,
        in_features=FEATURES[RETINANET],
        out_channels=CHANNELS,
        top_block=top_block,
    )
    shapes = list(backbone.output_shape().values())
    model = FCOS(
        backbone=backbone,
        head=FCOSHead(input_shape=shapes, num_classes=2, conv_dims=[CHANNELS]),
        head_in_features=list(backbone.output_shape()),
        num_classes=2,
        pixel_mean=[0.0] * 3,
        pixel_std=[255.0] * 3,
    )
    truths = make_instances([[4, 4, 40, 40]], [1], image_size=(64, 64))
    batch = [{"image": torch.randint(256, (3, 64, 64)), "instances": truths}]
    with EventStorage():
        sum(model(batch).values()).backward()
    assert all(p.grad is not None for p in backbone.asff.parameters())
