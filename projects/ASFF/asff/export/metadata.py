"""What an exported model says about itself, so that it needs neither config nor checkpoint."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any

from detectron2.config import CfgNode

OUTPUTS = {
    "boxes": "(N, R, 4): x1, y1, x2, y2 in pixels of the input",
    "scores": "(N, R, K): of every class, 0 to 1",
}
OUTPUTS_WITH_NMS = {
    "detection_boxes": "(N, D, 4): x1, y1, x2, y2 in pixels of the input, best first",
    "detection_scores": "(N, D): 0 to 1; 0 after the last detection",
    "detection_classes": "(N, D): indices into class_names; -1 after the last detection",
}


@dataclass(frozen=True)
class Thresholds:
    """How the scores of all anchors become detections.

    Attributes:
        score: detections have higher ones.
        nms: IoU above which the lower scored box of a class is dropped.
        candidates: pairs of box and class that enter NMS, the best ones of an image or, with
            ``per_level``, of each level.
        detections: kept after NMS.
        best_class: only the best class of a box is a candidate.
    """

    score: float
    nms: float
    candidates: int
    per_level: bool
    detections: int
    best_class: bool

    @classmethod
    def from_config(cls, cfg: CfgNode) -> Thresholds:
        is_yolo = cfg.MODEL.META_ARCHITECTURE == "YOLOv3"
        options = cfg.MODEL.YOLOV3 if is_yolo else cfg.MODEL.RETINANET
        return cls(
            score=options.SCORE_THRESH_TEST,
            nms=options.NMS_THRESH_TEST,
            candidates=options.TOPK_CANDIDATES_TEST,
            per_level=not is_yolo,
            detections=cfg.TEST.DETECTIONS_PER_IMAGE,
            best_class=is_yolo and not options.MULTI_LABEL_TEST,
        )


def describe_input(cfg: CfgNode, divisor: int, size: int | None) -> dict[str, Any]:
    """Describe how an image becomes the model's input.

    Args:
        divisor: of height and width.
        size: height and width, if they are fixed.
    """
    if cfg.INPUT.SQUARE:
        resize = {"height": cfg.INPUT.TEST_SIZE, "width": cfg.INPUT.TEST_SIZE}
    else:
        resize = {"shortest": cfg.INPUT.MIN_SIZE_TEST, "longest_at_most": cfg.INPUT.MAX_SIZE_TEST}
    letterbox = cfg.MODEL.META_ARCHITECTURE == "YOLOv3" and cfg.MODEL.YOLOV3.LETTERBOX_TEST
    return {
        "shape": ["N", 3, *((size, size) if size else ("H", "W"))],
        "dtype": "float32",
        "channels": cfg.INPUT.FORMAT,
        "range": [0, 255],
        "resize": {**resize, "interpolation": "bilinear"},
        "divisor": divisor,
        "position": "centre" if letterbox else "top left",
        "padding": [127.5] * 3 if letterbox else list(cfg.MODEL.PIXEL_MEAN),
    }


def describe(
    cfg: CfgNode,
    class_names: list[str],
    version: str,
    *,
    divisor: int,
    strides: list[int],
    size: int | None = None,
    nms: bool = False,
    precision: str = "float32",
) -> dict[str, str]:
    """Return the metadata of an exported model: JSON by key; version (plain), config (YAML).

    Args:
        version: of this package.
        divisor, size: see :func:`describe_input`.
        strides: of the levels, in the order of their anchors.
        nms: whether NMS is inside.
        precision: "float32", "float16" or "int8".
    """
    values = {
        "class_names": class_names,
        "input": describe_input(cfg, divisor, size),
        "outputs": OUTPUTS_WITH_NMS if nms else OUTPUTS,
        "strides": strides,
        "thresholds": asdict(Thresholds.from_config(cfg)),
        "nms": nms,
        "precision": precision,
    }
    strings = {key: json.dumps(value) for key, value in values.items()}
    return {"asff_version": version, **strings, "config": cfg.dump()}
