"""Detectors of Detectron2 train and are evaluated through train_net.py, by either mapper."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.training import metrics, read_checkpoint, run_apart, run_here

pytestmark = pytest.mark.usefixtures("one_thread", "clean_loggers")

# Small ones that have all that the large ones have.
COMMON = """
MODEL:
  DEVICE: "cpu"
  RESNETS: {DEPTH: 50, NORM: "BN", WIDTH_PER_GROUP: 8, RES2_OUT_CHANNELS: 32, STEM_OUT_CHANNELS: 16,
            OUT_FEATURES: ["res2", "res3", "res4", "res5"]}
  BACKBONE: {FREEZE_AT: 0}
"""
DETECTORS = {
    "RetinaNet": """
  META_ARCHITECTURE: "RetinaNet"
  BACKBONE: {NAME: "build_retinanet_resnet_fpn_backbone"}
  FPN: {IN_FEATURES: ["res3", "res4", "res5"], OUT_CHANNELS: 16}
  ANCHOR_GENERATOR: {SIZES: [[16], [32], [64], [128], [256]]}
  RETINANET: {NUM_CONVS: 1}
""",
    "GeneralizedRCNN": """
  META_ARCHITECTURE: "GeneralizedRCNN"
  BACKBONE: {NAME: "build_resnet_fpn_backbone"}
  FPN: {IN_FEATURES: ["res2", "res3", "res4", "res5"], OUT_CHANNELS: 16}
  ANCHOR_GENERATOR: {SIZES: [[16], [32], [64], [128], [256]]}
  RPN: {IN_FEATURES: ["p2", "p3", "p4", "p5", "p6"]}
  ROI_HEADS: {NAME: "StandardROIHeads", IN_FEATURES: ["p2", "p3", "p4", "p5"]}
  ROI_BOX_HEAD: {NAME: "FastRCNNConvFCHead", NUM_FC: 1, FC_DIM: 32, POOLER_RESOLUTION: 7}
""",
}
REST = """
INPUT: {MIN_SIZE_TRAIN: [64], MIN_SIZE_TEST: 64, TRAIN_SIZES: [64], TEST_SIZE: 64}
DATASETS:
  TRAIN: ["shapes_train"]
  TEST: ["shapes_val"]
DATALOADER: {NUM_WORKERS: 0, FILTER_EMPTY_ANNOTATIONS: False}
SOLVER: {IMS_PER_BATCH: 12, BASE_LR: 0.001, MAX_ITER: 2}
SEED: 1
VERSION: 2
"""
MASKS = (
    *("MODEL.MASK_ON", True, "MODEL.ROI_MASK_HEAD.NAME", "MaskRCNNConvUpsampleHead"),
    *("MODEL.ROI_MASK_HEAD.NUM_CONV", 1, "MODEL.ROI_MASK_HEAD.CONV_DIM", 16),
    *("MODEL.ROI_MASK_HEAD.POOLER_RESOLUTION", 7),
)
CASCADE = (
    *("MODEL.ROI_HEADS.NAME", "CascadeROIHeads"),
    *("MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG", True),
)
FREEBIES = (
    *("INPUT.SQUARE", True, "INPUT.MIXUP.PROB", 1.0, "INPUT.MIXUP.MIN_IMAGES", 2),
    *("INPUT.COLOR.PROB", 1.0, "INPUT.CROP.ENABLED", True, "INPUT.CROP.TYPE", "min_iou"),
)


ASFF_RETINANET = ("MODEL.BACKBONE.NAME", "build_retinanet_resnet_asff_fpn_backbone")
ASFF_RCNN = ("MODEL.BACKBONE.NAME", "build_resnet_asff_fpn_backbone")


@pytest.mark.parametrize(
    "name, options",
    [
        ("RetinaNet", ()),
        ("GeneralizedRCNN", FREEBIES),
        ("RetinaNet", (*ASFF_RETINANET, *FREEBIES)),
        ("GeneralizedRCNN", ASFF_RCNN),
        ("GeneralizedRCNN", (*ASFF_RCNN, *MASKS)),
        ("GeneralizedRCNN", (*ASFF_RCNN, *CASCADE)),
    ],
    ids=[
        *("RetinaNet, own mapper", "Faster R-CNN, square", "ASFF RetinaNet, square"),
        *("ASFF Faster R-CNN", "ASFF Mask R-CNN", "ASFF Cascade R-CNN"),
    ],
)
def test_trains_and_evaluates(datasets, tmp_path: Path, name, options):
    """Batches hold all 12 images, one of them without objects; one key adds ASFF."""
    config = tmp_path / "detector.yaml"
    config.write_text(COMMON + DETECTORS[name] + REST)
    run = run_here("--config-file", config, *options, "OUTPUT_DIR", tmp_path)
    assert run.code == 0, run.output
    assert metrics(tmp_path)[0]["total_loss"] > 0
    # The class count follows the data.
    assert ".NUM_CLASSES: 4, as shapes_train has" in run.output
    num_tasks = 2 if "MODEL.MASK_ON" in options else 1
    assert (tmp_path / "log.txt").read_text().count("copypaste: AP,AP50,AP75") == num_tasks
    weights = read_checkpoint(tmp_path / "model_final.pth")["model"]
    has_fusion = any(key.startswith("backbone.asff.fuse.") for key in weights)
    assert has_fusion is ("MODEL.BACKBONE.NAME" in options)


@pytest.mark.slow
def test_two_processes_train_asff_fpn(datasets, tmp_path: Path):
    """Every parameter gets a gradient, also those behind zeros: DistributedDataParallel waits."""
    config = tmp_path / "detector.yaml"
    config.write_text(COMMON + DETECTORS["RetinaNet"] + REST)
    options = (*ASFF_RETINANET, "MODEL.ASFF_FPN.NORM", "SyncBN", "OUTPUT_DIR", tmp_path)
    run = run_apart("--config-file", config, "--num-gpus", 2, *options)
    assert run.code == 0, run.output
    assert "MODEL.ASFF_FPN.NORM: naiveSyncBN instead of SyncBN" in run.output
    assert "copypaste: AP,AP50,AP75" in (tmp_path / "log.txt").read_text()
