"""Every config key of the project, with its meaning and source."""

from __future__ import annotations

from detectron2.config import CfgNode as CN


def add_asff_config(cfg: CN) -> None:
    """Add the keys of ASFF and YOLOv3, with their defaults, to a Detectron2 config."""
    add_model_config(cfg)
    add_asff_fpn_config(cfg)
    add_data_config(cfg)

    # Warm-up lasts this many epochs (paper 3.4), never fewer than SOLVER.WARMUP_ITERS iterations:
    # on a small dataset epochs are too short to warm up.
    cfg.SOLVER.WARMUP_EPOCHS = 0.0
    # Limit of the norm of the whole gradient; 0.0 switches clipping off. (SOLVER.CLIP_GRADIENTS of
    # Detectron2 limits values or single parameters.)
    cfg.SOLVER.MAX_GRAD_NORM = 0.0
    # Number format of autocast where SOLVER.AMP.ENABLED: "bfloat16" or "float16" (CUDA only).
    cfg.SOLVER.AMP.DTYPE = "bfloat16"
    # At every evaluation of a training, draw the first so many images of the first test dataset for
    # TensorBoard: truth beside detections and, with ASFF, which level feeds which place.
    cfg.TEST.VIS_IMAGES = 0


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
    # "build_timm_backbone": any network of timm that has such features, with timm's normalisation.
    # BACKBONE.FREEZE_AT means nothing to it, nor to the two above.
    cfg.MODEL.TIMM = CN()
    cfg.MODEL.TIMM.NAME = "resnet18"  # as in timm.list_models()
    cfg.MODEL.TIMM.PRETRAINED = False  # begin with timm's weights, unless MODEL.WEIGHTS is set
    cfg.MODEL.TIMM.OUT_FEATURES = ["res3", "res4", "res5"]

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
    cfg.MODEL.YOLOV3.FUSION.NAME = "asff"  # "none", "sum", "concat" or "asff" (paper Table 3)
    # Channels from which the spatial weights are computed (authors' code).
    cfg.MODEL.YOLOV3.FUSION.WEIGHT_CHANNELS = 16
    # At the start a level's own weight is this at every place, and the other levels share the rest.
    # 0.0: the spatial weights start at random, as in the paper (3.4).
    cfg.MODEL.YOLOV3.FUSION.INIT_SELF_WEIGHT = 0.0

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

    # ASFF* (paper 4.2): a receptive field block before the feature adaption, and DropBlock in the
    # neck. Its block sizes, in cells: rows of [share of the training from which it holds, sizes for
    # strides 32, 16, 8]; none before the first. The authors': from epochs 5, 80 and 150 of 300.
    cfg.MODEL.YOLOV3.RFB = False
    cfg.MODEL.YOLOV3.DROP_BLOCK = CN()
    cfg.MODEL.YOLOV3.DROP_BLOCK.KEEP_PROB = 1.0  # share of values kept; 1.0 switches it off
    cfg.MODEL.YOLOV3.DROP_BLOCK.SCHEDULE = [
        [5 / 300, 1, 3, 5],
        [80 / 300, 3, 5, 7],
        [150 / 300, 7, 7, 7],
    ]

    # Predictions that overlap a truth by more IoU than this, and are not positive, have no
    # objectness loss.
    cfg.MODEL.YOLOV3.IGNORE_THRESH = 0.7
    # Also without objectness loss, at the levels next to a truth's own and unless positive: the
    # cell that holds its centre ("center"), or the cells whose centres lie in its box, the sides
    # scaled by epsilon ("box"). Paper 4.1 and Table 2.
    cfg.MODEL.YOLOV3.IGNORE_ADJACENT = "none"
    cfg.MODEL.YOLOV3.IGNORE_ADJACENT_SCALE = 0.2  # epsilon of "box"
    cfg.MODEL.YOLOV3.IOU_LOSS = True  # 1 - IoU^2 of decoded boxes (paper Table 1, "IoU")
    # Class targets 1 - e and e with e = min(1 / classes, MAX_SMOOTHING). The authors have no such
    # limit (1.0 restores that): with one class every target would be 0.
    cfg.MODEL.YOLOV3.LABEL_SMOOTHING = False
    cfg.MODEL.YOLOV3.MAX_SMOOTHING = 0.1
    # Mixup weights of boxes act on all loss terms; else on objectness alone (authors' code).
    cfg.MODEL.YOLOV3.WEIGHT_ALL_LOSSES = False

    # Score = objectness x class probability; paper 3.4 and authors' code.
    cfg.MODEL.YOLOV3.SCORE_THRESH_TEST = 0.01
    cfg.MODEL.YOLOV3.TOPK_CANDIDATES_TEST = 1000  # boxes of an image that enter NMS
    cfg.MODEL.YOLOV3.NMS_THRESH_TEST = 0.6
    # Detect a box as each of its classes, not as the best alone.
    cfg.MODEL.YOLOV3.MULTI_LABEL_TEST = False
    # In evaluation put images, whose aspect ratio Detectron2's mapper keeps, in the middle of a
    # grey square, as darknet does; else padding is right and below. Needs INPUT.SQUARE False.
    cfg.MODEL.YOLOV3.LETTERBOX_TEST = False


def add_asff_fpn_config(cfg: CN) -> None:
    """Add the keys of ASFF-FPN (paper 4.3), FPN with fused levels, for other detectors."""
    cfg.MODEL.ASFF_FPN = CN()
    # The levels to fuse, as ["p3", "p4", "p5"]; none: all but those of FPN's top block.
    cfg.MODEL.ASFF_FPN.LEVELS = []
    cfg.MODEL.ASFF_FPN.FUSION = "asff"  # "none", "sum", "concat" or "asff" (paper Table 3)
    # At the start a level's own weight is this at every place; the other levels share the rest.
    cfg.MODEL.ASFF_FPN.INIT_SELF_WEIGHT = 0.95
    # Channels per level from which the spatial weights are computed.
    cfg.MODEL.ASFF_FPN.WEIGHT_CHANNELS = 16
    cfg.MODEL.ASFF_FPN.NORM = ""  # normalisation ahead of the spatial weights
    # Of "build_asff_fpn_backbone": the bottom-up, and what makes levels above those of FPN: "p6p7"
    # (as in RetinaNet), "pool" (p6, as in Faster R-CNN) or "none".
    cfg.MODEL.ASFF_FPN.BOTTOM_UP = "build_resnet_backbone"
    cfg.MODEL.ASFF_FPN.TOP_BLOCK = "p6p7"


def add_data_config(cfg: CN) -> None:
    """Add the keys of datasets, of the training stream and of augmentation."""
    # Datasets described here rather than registered in Python: a list of nodes with name, format
    # (coco, voc, yolo) and paths; see docs/data.md. DATASETS.TRAIN and TEST then name them.
    cfg.DATASETS.CUSTOM = []
    # Training stops where more than this share of the images read so far was unreadable.
    cfg.DATALOADER.MAX_UNREADABLE = 0.01
    # Keep decoded images: "" (do not), "memory" or "disk" (a temporary file in $TMPDIR), as many as
    # fit into so many GiB on this machine.
    cfg.DATALOADER.CACHE = ""
    cfg.DATALOADER.CACHE_LIMIT = 8.0

    # ResizeSquare images to squares, with the augmentations below, as the authors do. False: Detectron2's
    # own augmentations, which keep the aspect ratio.
    cfg.INPUT.SQUARE = False
    cfg.INPUT.TEST_SIZE = 416  # pixels, divisible by 32
    # Every SIZE_PERIOD iterations a batch of another one of these sizes (paper 3.4); the first is
    # the largest, so that a lack of memory shows at once. The last iterations, by epochs or by
    # iterations (the larger counts), have FINAL_SIZE.
    cfg.INPUT.TRAIN_SIZES = [416]
    cfg.INPUT.SIZE_PERIOD = 10
    cfg.INPUT.FINAL_SIZE = 416
    cfg.INPUT.FINAL_SIZE_EPOCHS = 0.0
    cfg.INPUT.FINAL_SIZE_ITERS = 0

    # Mix two images and their boxes, weighted by lambda ~ Beta(ALPHA, ALPHA) and 1 - lambda (Bag of
    # Freebies, arXiv 1902.04103; paper 3.1), but not in the last iterations, by epochs or by
    # iterations, nor where there are fewer images than MIN_IMAGES.
    cfg.INPUT.MIXUP = CN()
    cfg.INPUT.MIXUP.PROB = 0.0
    cfg.INPUT.MIXUP.ALPHA = 1.5
    cfg.INPUT.MIXUP.OFF_EPOCHS = 0.0
    cfg.INPUT.MIXUP.OFF_ITERS = 0
    cfg.INPUT.MIXUP.MIN_IMAGES = 100

    # Colour distortion, each part half of the time: brightness is shifted by up to so many of 255,
    # contrast and saturation scaled by 1 - x to 1 + x, hue turned by up to so many degrees.
    cfg.INPUT.COLOR = CN()
    cfg.INPUT.COLOR.PROB = 0.0
    cfg.INPUT.COLOR.BRIGHTNESS = 32.0
    cfg.INPUT.COLOR.CONTRAST = 0.5
    cfg.INPUT.COLOR.SATURATION = 0.5
    cfg.INPUT.COLOR.HUE = 36.0
    # Put the image at a random place of a canvas with up to MAX_RATIO times its sides.
    cfg.INPUT.EXPAND = CN()
    cfg.INPUT.EXPAND.PROB = 0.0
    cfg.INPUT.EXPAND.MAX_RATIO = 4.0
    # Mild affine: turned and sheared by up to so many degrees, scaled by 1 - x to 1 + x, moved by
    # up to this share of the sides.
    cfg.INPUT.AFFINE = CN()
    cfg.INPUT.AFFINE.PROB = 0.0
    cfg.INPUT.AFFINE.ROTATION = 3.0
    cfg.INPUT.AFFINE.SHEAR = 2.0
    cfg.INPUT.AFFINE.SCALE = 0.1
    cfg.INPUT.AFFINE.TRANSLATION = 0.05
    # Detectron2's INPUT.CROP.TYPE may also be "min_iou": a crop of at least MIN_SIZE of each side
    # whose IoU with every box is at least a random one of MIN_IOUS and 0; or, as likely, no crop.
    cfg.INPUT.CROP.MIN_IOUS = [0.1, 0.3, 0.5, 0.7, 0.9]
    cfg.INPUT.CROP.MIN_SIZE = 0.3
    # Resize by a random one of OpenCV's interpolations, not always bilinearly.
    cfg.INPUT.RANDOM_INTERPOLATION = False
    # Boxes with a side of fewer pixels at the network's input, or of whose area a smaller share is
    # left in the image, are dropped from training, and counted.
    cfg.INPUT.MIN_BOX_SIDE = 1.0
    cfg.INPUT.MIN_BOX_VISIBLE = 0.25


def choose(table: dict, name: str, key: str):
    """Return ``table[name]``; a ValueError that names the config key lists the known names."""
    if name not in table:
        raise ValueError(
            f"{key} is '{name}', which is not known. Choose one of: {', '.join(table)}."
        )
    return table[name]
