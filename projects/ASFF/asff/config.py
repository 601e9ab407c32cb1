"""Every config key of the project, with its meaning and source."""

from __future__ import annotations

from detectron2.config import CfgNode as CN


def add_asff_config(cfg: CN) -> None:
    """Add the keys of ASFF and YOLOv3, with their defaults, to a Detectron2 config."""
    add_model_config(cfg)

    # Square size in pixels, divisible by 32, to which images are squashed.
    cfg.INPUT.TRAIN_SIZE = 416
    cfg.INPUT.TEST_SIZE = 416

    # Warm-up lasts this many epochs (paper 3.4), never fewer than SOLVER.WARMUP_ITERS iterations:
    # on a small dataset epochs are too short to warm up.
    cfg.SOLVER.WARMUP_EPOCHS = 0.0
    # Limit of the norm of the whole gradient; 0.0 switches clipping off. (SOLVER.CLIP_GRADIENTS of
    # Detectron2 limits values or single parameters.)
    cfg.SOLVER.MAX_GRAD_NORM = 0.0
    # Number format of autocast where SOLVER.AMP.ENABLED: "bfloat16" or "float16" (CUDA only).
    cfg.SOLVER.AMP.DTYPE = "bfloat16"


def add_model_config(cfg: CN) -> None:
    """Add the keys of the network, its losses and its inference."""
    # Bottom-ups. Features at strides 8, 16, 32 are called res3, res4, res5, as in ResNet.
    cfg.MODEL.DARKNET = CN()
    cfg.MODEL.DARKNET.DEPTHS = [1, 2, 8, 8, 4]  # residual blocks per stage; this is DarkNet-53
    cfg.MODEL.DARKNET.WIDTH = 1.0  # multiplier of all channels
    cfg.MODEL.DARKNET.OUT_FEATURES = ["res3", "res4", "res5"]
    cfg.MODEL.DARKNET.NORM = "BN"
    cfg.MODEL.MOBILENETV2 = CN()
    cfg.MODEL.MOBILENETV2.WIDTH = 1.0
    cfg.MODEL.MOBILENETV2.OUT_FEATURES = ["res3", "res4", "res5"]
    cfg.MODEL.MOBILENETV2.NORM = "BN"

    cfg.MODEL.YOLOV3 = CN()
    cfg.MODEL.YOLOV3.NUM_CLASSES = 80
    # Bottom-up features at strides 8, 16 and 32, in this order.
    cfg.MODEL.YOLOV3.IN_FEATURES = ["res3", "res4", "res5"]
    # Normalisation and activation (leaky_relu, relu6, relu) of neck, fusion and head.
    cfg.MODEL.YOLOV3.NORM = "BN"
    cfg.MODEL.YOLOV3.ACTIVATION = "leaky_relu"

    cfg.MODEL.YOLOV3.NECK = CN()
    cfg.MODEL.YOLOV3.NECK.WIDTH = 1.0  # multiplier of the channels of neck, fusion and head
    cfg.MODEL.YOLOV3.NECK.SPP = True  # spatial pyramid pooling (authors' code)
    # One more 3x3 convolution at stride 8 before the fusion (authors' code, DarkNet-53 with ASFF).
    cfg.MODEL.YOLOV3.NECK.WIDEN_FINEST = False

    cfg.MODEL.YOLOV3.FUSION = CN()
    cfg.MODEL.YOLOV3.FUSION.NAME = "asff"  # "none" or "asff" (paper 3.2)
    # Channels from which the spatial weights are computed (authors' code).
    cfg.MODEL.YOLOV3.FUSION.WEIGHT_CHANNELS = 16

    # (width, height) in input pixels, per feature of IN_FEATURES.
    cfg.MODEL.YOLOV3.ANCHORS = [
        [[10, 13], [16, 30], [33, 23]],
        [[30, 61], [62, 45], [42, 119]],
        [[116, 90], [156, 198], [373, 326]],
    ]
    # Predict anchor shapes (paper Table 1, "GA"), adapt features to them (authors' code, DarkNet-53
    # only), and add a slot without anchor (paper 3.1). All off: the original YOLOv3 head.
    cfg.MODEL.YOLOV3.GUIDED_ANCHORING = True
    cfg.MODEL.YOLOV3.FEATURE_ADAPTION = True
    cfg.MODEL.YOLOV3.ANCHOR_FREE = True

    # Predictions that overlap a truth by more IoU than this, and are not positive, have no
    # objectness loss.
    cfg.MODEL.YOLOV3.IGNORE_THRESH = 0.7
    cfg.MODEL.YOLOV3.IOU_LOSS = True  # 1 - IoU^2 of decoded boxes (paper Table 1, "IoU")
    # Class targets 1 - e and e with e = min(1 / classes, MAX_SMOOTHING). The authors have no such
    # limit (1.0 restores that): with one class every target would be 0.
    cfg.MODEL.YOLOV3.LABEL_SMOOTHING = False
    cfg.MODEL.YOLOV3.MAX_SMOOTHING = 0.1
    # Mixup weights of boxes act on all loss terms; else on objectness alone (authors' code).
    cfg.MODEL.YOLOV3.WEIGH_ALL_TERMS = False

    # Score = objectness x class probability; paper 3.4 and authors' code.
    cfg.MODEL.YOLOV3.SCORE_THRESH_TEST = 0.01
    cfg.MODEL.YOLOV3.TOPK_CANDIDATES_TEST = 1000  # boxes of an image that enter NMS
    cfg.MODEL.YOLOV3.NMS_THRESH_TEST = 0.6
    # Detect a box as each of its classes, not as the best alone.
    cfg.MODEL.YOLOV3.MULTI_LABEL_TEST = False
