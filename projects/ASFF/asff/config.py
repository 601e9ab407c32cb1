"""Every config key of the project, with its meaning and source."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from operator import attrgetter
from typing import Any

from detectron2.config import CfgNode as CN

INFINITY = float("inf")


def add_asff_config(cfg: CN) -> None:
    """Add the keys of ASFF and YOLOv3, with their defaults, to a Detectron2 config."""
    _add_model_config(cfg)
    add_asff_fpn_config(cfg)
    _add_data_config(cfg)

    # Length of the warm-up in epochs (paper 3.4). SOLVER.WARMUP_ITERS is its minimum, because
    # epochs of a small dataset are too short.
    cfg.SOLVER.WARMUP_EPOCHS = 0.0
    # Limit of the global gradient norm; 0.0 switches clipping off. (Detectron2's
    # SOLVER.CLIP_GRADIENTS clips values, or the norm of each parameter.)
    cfg.SOLVER.MAX_GRAD_NORM = 0.0
    # Gradient accumulation: an iteration draws IMS_PER_BATCH x ACCUM_ITERS images of one size and
    # takes one step with the mean gradient of its ACCUM_ITERS parts, in the memory of one. Batch
    # norms see a part at a time.
    cfg.SOLVER.ACCUM_ITERS = 1
    # Keep only the inputs of stages, neck, fusion and head for the backward pass, which computes
    # the activations in between again: less memory, and a longer step.
    cfg.SOLVER.CHECKPOINT_ACTIVATIONS = False
    # Number of the last periodic checkpoints to keep (0: all). Those after a multiple of KEEP_EVERY
    # iterations are kept besides (0: none).
    cfg.SOLVER.KEEP_CHECKPOINTS = 0
    cfg.SOLVER.KEEP_EVERY = 0
    # End a training after this number of evaluations (TEST.EVAL_PERIOD) without a better
    # TEST.BEST_METRIC; 0: never.
    cfg.SOLVER.EARLY_STOPPING = CN()
    cfg.SOLVER.EARLY_STOPPING.PATIENCE = 0
    # Signals at which a training finishes its step, saves a checkpoint and ends with exit code 75:
    # --resume goes on from there (docs/scale.md). Ctrl-C does the same, with exit code 130.
    cfg.SOLVER.SAVE_SIGNALS = ("SIGTERM", "SIGUSR1", "SIGHUP")
    # dtype of autocast if SOLVER.AMP.ENABLED: "bfloat16" or "float16" (CUDA only).
    cfg.SOLVER.AMP.DTYPE = "bfloat16"
    # Evaluation and Predictor run a copy of the detector, which the next three keys make faster.
    # Fold batch norms into the convolutions before them: the same outputs up to rounding.
    cfg.TEST.FUSE = True
    # "float32", or autocast to "bfloat16" or "float16".
    cfg.TEST.DTYPE = "float32"
    # Compile backbone and dense head by torch.compile.
    cfg.TEST.COMPILE = False
    # Images of a batch in evaluation. Neighbours that are resized to one shape (with INPUT.SQUARE
    # all are) enter the network at once. Detections differ by rounding alone.
    cfg.TEST.IMS_PER_BATCH = 1
    # Metric whose highest value during a training gives model_best.pth, as "bbox/AP50", or
    # "NAME/bbox/AP50" with several test datasets; "" saves none.
    cfg.TEST.BEST_METRIC = ""
    # Number of images of the first test dataset that every evaluation during a training draws for
    # TensorBoard: ground truth beside detections and, with ASFF, the fusion weights.
    cfg.TEST.VIS_IMAGES = 0
    # What computes COCO's metrics: "hotcoco", "pycocotools" or "auto", which is hotcoco where it is
    # installed. The numbers are the same, to the bit; hotcoco takes 0.04 of the time.
    cfg.TEST.COCO_API = "auto"


def _add_model_config(cfg: CN) -> None:
    """Add the keys of the network, its losses and its inference."""
    # Bottom-ups. Features at strides 8, 16, 32 are called res3, res4, res5, as in ResNet.
    cfg.MODEL.DARKNET = CN()
    cfg.MODEL.DARKNET.DEPTHS = [1, 2, 8, 8, 4]  # residual blocks per stage; the default: DarkNet-53
    cfg.MODEL.DARKNET.WIDTH = 1.0  # multiplier of all channels
    cfg.MODEL.DARKNET.OUT_FEATURES = ["res3", "res4", "res5"]
    cfg.MODEL.DARKNET.NORM = "BN"
    cfg.MODEL.MOBILENETV2 = CN()
    cfg.MODEL.MOBILENETV2.WIDTH = 1.0
    cfg.MODEL.MOBILENETV2.OUT_FEATURES = ["res3", "res4", "res5"]
    cfg.MODEL.MOBILENETV2.NORM = "BN"
    # "build_timm_backbone": any network of timm with features at these strides, and with the
    # normalisation that it has in timm. MODEL.BACKBONE.FREEZE_AT has no effect on it, nor on the
    # two above.
    cfg.MODEL.TIMM = CN()
    cfg.MODEL.TIMM.NAME = "resnet18"  # as in timm.list_models()
    cfg.MODEL.TIMM.PRETRAINED = False  # start from timm's weights, unless MODEL.WEIGHTS is set
    cfg.MODEL.TIMM.OUT_FEATURES = ["res3", "res4", "res5"]

    cfg.MODEL.YOLOV3 = CN()
    cfg.MODEL.YOLOV3.NUM_CLASSES = 80
    # Bottom-up features at strides 8, 16 and 32, in this order.
    cfg.MODEL.YOLOV3.IN_FEATURES = ["res3", "res4", "res5"]
    cfg.MODEL.YOLOV3.NORM = "BN"  # of neck, fusion and head
    cfg.MODEL.YOLOV3.ACTIVATION = "leaky_relu"  # of the same: "leaky_relu", "relu6" or "relu"

    cfg.MODEL.YOLOV3.NECK = CN()
    cfg.MODEL.YOLOV3.NECK.WIDTH = 1.0  # multiplier of the channels of neck, fusion and head
    cfg.MODEL.YOLOV3.NECK.SPP = True  # spatial pyramid pooling (authors' code)
    # One more 3x3 convolution at stride 8 before the fusion (authors' code, DarkNet-53 with ASFF).
    cfg.MODEL.YOLOV3.NECK.WIDEN_FINEST = False

    cfg.MODEL.YOLOV3.FUSION = CN()
    cfg.MODEL.YOLOV3.FUSION.NAME = "asff"  # "none", "sum", "concat" or "asff" (paper Table 3)
    # Channels per level from which the spatial weights are computed (authors' code).
    cfg.MODEL.YOLOV3.FUSION.WEIGHT_CHANNELS = 16
    # Self weight at the start: that of a level in its own fusion, at every location; the other
    # levels share the rest equally. 0.0: random initialisation, as in the paper (3.4).
    cfg.MODEL.YOLOV3.FUSION.INIT_SELF_WEIGHT = 0.0

    # (width, height) in input pixels, for each of IN_FEATURES.
    cfg.MODEL.YOLOV3.ANCHORS = [
        [[10, 13], [16, 30], [33, 23]],
        [[30, 61], [62, 45], [42, 119]],
        [[116, 90], [156, 198], [373, 326]],
    ]
    # These three off: the head of the original YOLOv3.
    cfg.MODEL.YOLOV3.GUIDED_ANCHORING = True  # predict anchor shapes (paper Table 1, "GA")
    # Deformable convolution whose offsets follow from the anchor shapes (authors' DarkNet-53).
    cfg.MODEL.YOLOV3.FEATURE_ADAPTION = True
    # How to compute it: "torchvision", its operator; "gather", faster on CPUs; "samplings", by
    # grid_sample, which more formats of exported models have; or "auto": "gather" on CPUs, else
    # "torchvision".
    cfg.MODEL.YOLOV3.DEFORM_CONV = "auto"
    cfg.MODEL.YOLOV3.ANCHOR_FREE = True  # one anchor-free prediction more per location (paper 3.1)

    # ASFF* (paper 4.2) has a receptive field block before the feature adaption, and DropBlock
    # (arXiv 1810.12890) in the neck.
    cfg.MODEL.YOLOV3.RFB = False
    cfg.MODEL.YOLOV3.DROP_BLOCK = CN()
    cfg.MODEL.YOLOV3.DROP_BLOCK.KEEP_PROB = 1.0  # 1.0 switches it off
    # [share of the training from which these hold, block size at strides 32, 16, 8]; none before
    # the first. The authors' change at epochs 5, 80 and 150 of 300.
    cfg.MODEL.YOLOV3.DROP_BLOCK.SCHEDULE = [
        [5 / 300, 1, 3, 5],
        [80 / 300, 3, 5, 7],
        [150 / 300, 7, 7, 7],
    ]

    # Negative predictions whose IoU with a ground-truth box is above this have no objectness loss.
    cfg.MODEL.YOLOV3.IGNORE_THRESH = 0.7
    # Negative predictions without objectness loss at the levels adjacent to that of an object: at
    # the location that holds its centre ("center"), or at those inside its box after its sides were
    # scaled by epsilon ("box"); or no more of them ("none"). Paper 4.1 and Table 2.
    cfg.MODEL.YOLOV3.IGNORE_ADJACENT = "none"
    cfg.MODEL.YOLOV3.IGNORE_ADJACENT_SCALE = 0.2  # epsilon of "box"
    cfg.MODEL.YOLOV3.IOU_LOSS = True  # 1 - IoU^2 of decoded boxes (paper Table 1, "IoU")
    # Class targets 1 - e and e with e = min(1 / classes, MAX_SMOOTHING).
    cfg.MODEL.YOLOV3.LABEL_SMOOTHING = False
    # The authors have no limit (1.0 here): the target of a dataset with one class would be 0.
    cfg.MODEL.YOLOV3.MAX_SMOOTHING = 0.1
    # Mixup weights of boxes scale all loss terms; else objectness alone (authors' code).
    cfg.MODEL.YOLOV3.WEIGHT_ALL_LOSSES = False

    # Lowest score, objectness x class probability (paper 3.4 and authors' code).
    cfg.MODEL.YOLOV3.SCORE_THRESH_TEST = 0.01
    cfg.MODEL.YOLOV3.TOPK_CANDIDATES_TEST = 1000  # boxes of an image that enter NMS
    cfg.MODEL.YOLOV3.NMS_THRESH_TEST = 0.6  # IoU
    # One detection for each class of a box above the threshold, instead of the best class alone.
    cfg.MODEL.YOLOV3.MULTI_LABEL_TEST = False
    # In evaluation, centre images in a grey square, as darknet does, instead of padding them right
    # and below. Needs INPUT.SQUARE False, which keeps aspect ratios.
    cfg.MODEL.YOLOV3.LETTERBOX_TEST = False


def add_asff_fpn_config(cfg: CN) -> None:
    """Add the keys of ASFF-FPN (paper 4.3), an FPN with fused levels for other detectors."""
    cfg.MODEL.ASFF_FPN = CN()
    # Levels to fuse, as ["p3", "p4", "p5"]; empty: all but those of FPN's top block.
    cfg.MODEL.ASFF_FPN.LEVELS = []
    cfg.MODEL.ASFF_FPN.FUSION = "asff"  # "none", "sum", "concat" or "asff" (paper Table 3)
    # Self weight at the start, at every location; the other levels share the rest equally.
    cfg.MODEL.ASFF_FPN.INIT_SELF_WEIGHT = 0.95
    # Channels per level from which the spatial weights are computed.
    cfg.MODEL.ASFF_FPN.WEIGHT_CHANNELS = 16
    cfg.MODEL.ASFF_FPN.NORM = ""  # normalisation of the layers that compute spatial weights
    cfg.MODEL.ASFF_FPN.BOTTOM_UP = "build_resnet_backbone"  # of "build_asff_fpn_backbone"
    # Top block of "build_asff_fpn_backbone", for levels above those of FPN: "p6p7" (as in
    # RetinaNet), "pool" (p6, as in Faster R-CNN) or "none".
    cfg.MODEL.ASFF_FPN.TOP_BLOCK = "p6p7"


def _add_data_config(cfg: CN) -> None:
    """Add the keys of datasets, of the batch plan and of augmentation."""
    # Dataset configs, instead of registration in Python: a list of nodes with name, format (coco,
    # voc, yolo) and paths; see docs/data.md. DATASETS.TRAIN and TEST then name them.
    cfg.DATASETS.CUSTOM = []
    # Training stops if more than this share of the images read so far was unreadable.
    cfg.DATALOADER.MAX_UNREADABLE = 0.01
    # Where to keep decoded images: "" (nowhere), "memory" or "disk" (a temporary file in $TMPDIR).
    cfg.DATALOADER.CACHE = ""
    cfg.DATALOADER.CACHE_LIMIT = 8.0  # GiB on this machine

    # Resize images to squares and augment them by the keys below, as the authors do. False:
    # Detectron2's own augmentation, which keeps the aspect ratio.
    cfg.INPUT.SQUARE = False
    cfg.INPUT.TEST_SIZE = 416  # pixels, divisible by 32
    # Sizes of training batches (paper 3.4). The first batches have the largest, so that a lack of
    # memory shows at once.
    cfg.INPUT.TRAIN_SIZES = [416]
    cfg.INPUT.SIZE_PERIOD = 10  # iterations after which the size changes
    cfg.INPUT.FINAL_SIZE = 416  # of the last epochs or iterations, whichever are more
    cfg.INPUT.FINAL_SIZE_EPOCHS = 0.0
    cfg.INPUT.FINAL_SIZE_ITERS = 0

    # Mix two images and their boxes, weighted by lambda ~ Beta(ALPHA, ALPHA) and 1 - lambda (Bag of
    # Freebies, arXiv 1902.04103; paper 3.1).
    cfg.INPUT.MIXUP = CN()
    cfg.INPUT.MIXUP.PROB = 0.0
    cfg.INPUT.MIXUP.ALPHA = 1.5
    cfg.INPUT.MIXUP.OFF_EPOCHS = 0.0  # none in the last epochs or iterations, whichever are more
    cfg.INPUT.MIXUP.OFF_ITERS = 0
    cfg.INPUT.MIXUP.MIN_IMAGES = 100  # none for a smaller dataset

    # Colour distortion; each of its parts has the probability 0.5.
    cfg.INPUT.COLOR = CN()
    cfg.INPUT.COLOR.PROB = 0.0
    cfg.INPUT.COLOR.BRIGHTNESS = 32.0  # added: up to this, of 255
    cfg.INPUT.COLOR.CONTRAST = 0.5  # factor: 1 - x to 1 + x
    cfg.INPUT.COLOR.SATURATION = 0.5  # factor: 1 - x to 1 + x
    cfg.INPUT.COLOR.HUE = 36.0  # rotated by up to so many degrees
    # Put the image at a random position of a larger canvas.
    cfg.INPUT.EXPAND = CN()
    cfg.INPUT.EXPAND.PROB = 0.0
    cfg.INPUT.EXPAND.MAX_RATIO = 4.0  # of the sides of the canvas to those of the image
    # Mild affine transform.
    cfg.INPUT.AFFINE = CN()
    cfg.INPUT.AFFINE.PROB = 0.0
    cfg.INPUT.AFFINE.ROTATION = 3.0  # up to so many degrees
    cfg.INPUT.AFFINE.SHEAR = 2.0  # up to so many degrees
    cfg.INPUT.AFFINE.SCALE = 0.1  # factor: 1 - x to 1 + x
    cfg.INPUT.AFFINE.TRANSLATION = 0.05  # up to this share of the sides
    # Detectron2's INPUT.CROP.TYPE may also be "min_iou": a crop whose IoU with every box is at
    # least a random one of MIN_IOUS and 0; or, as likely as each of these, no crop.
    cfg.INPUT.CROP.MIN_IOUS = [0.1, 0.3, 0.5, 0.7, 0.9]
    cfg.INPUT.CROP.MIN_SIZE = 0.3  # of each side of the image
    # Resize by a random one of OpenCV's interpolations, instead of bilinearly.
    cfg.INPUT.RANDOM_INTERPOLATION = False
    # Boxes that augmentation makes smaller than these are dropped from training, and counted.
    cfg.INPUT.MIN_BOX_SIDE = 1.0  # pixels of the network's input
    cfg.INPUT.MIN_BOX_VISIBLE = 0.25  # share of the area that is left in the image


def images_per_iteration(cfg: CN) -> int:
    """Return the effective batch size: the images of one step, over processes and its parts."""
    return cfg.SOLVER.IMS_PER_BATCH * cfg.SOLVER.ACCUM_ITERS


def choose(table: dict[str, Any], name: str, key: str) -> Any:
    """Return ``table[name]``, or raise a ValueError that names the config key and the choices."""
    if name not in table:
        raise ValueError(
            f"{key} is '{name}', which is not known. Choose one of: {', '.join(table)}."
        )
    return table[name]


def check_ranges(cfg: CN, ranges: Mapping[str, tuple[float, float]]) -> None:
    """Check values of keys, or the items of their lists.

    Args:
        ranges: by key, the smallest and the largest value.

    Raises:
        ValueError: naming the key, its value, and the fix.
    """
    for key, (low, high) in ranges.items():
        for value in config_values(cfg, key):
            if not low <= value <= high:
                limit = f"from {low:g} to {high:g}" if high < INFINITY else f"at least {low:g}"
                raise ValueError(f"{key} is {value:g}, but must be {limit}.")


def config_values(cfg: CN, key: str) -> Sequence:
    """Return the items of a list, or a single value as a list."""
    value = attrgetter(key)(cfg)
    return value if isinstance(value, (list, tuple)) else [value]
