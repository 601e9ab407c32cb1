"""Match detections to ground-truth objects, and classify the mistakes as TIDE does.

Mistakes have the names of TIDE (arXiv 2008.08115): classification, localization, duplicate,
background and missed. A detection whose class and box are both wrong counts as background here.

Shape letters: D detections, M ground-truth objects, K classes; of an image or of all images.
"""

from __future__ import annotations

import numpy as np
from pycocotools import mask
from pycocotools.cocoeval import COCOeval

from ..data.boxes import COCO_AREA_LIMITS

FOREGROUND_IOU = 0.5  # a box is correct from this IoU on
MAX_DETECTIONS = 100  # COCO evaluates so many of a class in an image
BACKGROUND_IOU = 0.1  # a box below this IoU does not mean the object

# Kinds of detections. COCO ignores a detection on a crowd: it is neither correct nor a mistake.
IGNORED, CORRECT, DUPLICATE, CLASSIFICATION, LOCALIZATION, BACKGROUND = range(6)
# The mistakes among them. The other mistake is "missed": an object that is not covered.
MISTAKES = {
    CLASSIFICATION: "classification",
    LOCALIZATION: "localization",
    DUPLICATE: "duplicate",
    BACKGROUND: "background",
}

DETECTION = np.dtype(
    [
        ("image", int),  # index into the list of images
        ("label", int),  # class, 0 to K - 1
        ("score", float),
        ("box", float, 4),  # x, y, w, h in pixels
        ("kind", int),
        ("size", int),  # index into COCO_SIZES: that of its object, or its own without one
        ("gt_label", int),  # class of the object matched regardless of class; K: none
    ]
)
# Scores are -1 if there is no such detection.
GROUND_TRUTH = np.dtype(
    [
        ("image", int),
        ("label", int),
        ("box", float, 4),
        ("size", int),
        ("crowd", bool),
        # Highest score of its correct detections and its classification and localization mistakes.
        ("covered_score", float),
        ("matched_score", float),  # score of the detection matched regardless of class
    ]
)


def match_detections(evaluator: COCOeval, detections: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Match all detections that COCO evaluates to all objects that are not crowds.

    Within a class it is COCO's matching, so that correct detections agree with the precision
    curves. Detections are matched in descending order of their scores, hence a score threshold
    removes detections but does not change the matches of the others.

    Args:
        evaluator: of :func:`evaluate_coco`.
        detections: (D, 7) of :func:`to_array`.

    Returns:
        (D,) of :data:`DETECTION` and (M,) of :data:`GROUND_TRUTH`.
    """
    annotations = list(evaluator.cocoGt.anns.values())
    objects = np.zeros(len(annotations), GROUND_TRUTH)
    for name, key in (("image", "image_id"), ("label", "category_id"), ("crowd", "iscrowd")):
        objects[name] = [x[key] for x in annotations]
    objects["box"] = np.reshape([x["bbox"] for x in annotations], (-1, 4))
    objects["size"] = np.digitize([x["area"] for x in annotations], COCO_AREA_LIMITS)
    objects = objects[np.lexsort([objects["label"], objects["image"]])]

    found = np.zeros(len(detections), DETECTION)
    found["image"], found["score"], found["label"] = detections[:, [0, 5, 6]].T
    found["box"] = detections[:, 1:5]
    found["size"] = np.digitize(detections[:, 3] * detections[:, 4], COCO_AREA_LIMITS)
    found["gt_label"] = len(evaluator.params.catIds)
    found = found[np.lexsort([found["label"], -found["score"], found["image"]])]

    starts = np.arange(1, len(evaluator.params.imgIds))
    images = (np.split(x, np.searchsorted(x["image"], starts)) for x in (found, objects))
    matched = [_match_image(*tables) for tables in zip(*images)]
    found, objects = map(np.concatenate, zip(*matched))
    return found, objects


def _match_image(detections: np.ndarray, objects: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Match the detections of an image, in descending order of their scores, to its objects."""
    same_class = detections["label"][:, None] == detections["label"]
    detections = detections[np.tril(same_class, -1).sum(axis=1) < MAX_DETECTIONS]
    crowd = objects["crowd"]
    ious = np.zeros((len(detections), len(objects)))
    if ious.size:
        ious[:] = mask.iou(detections["box"], objects["box"], crowd.tolist())

    same_class = detections["label"][:, None] == objects["label"]
    matched = _match(np.where(same_class & ~crowd, ious, 0))
    on_crowd = (ious >= FOREGROUND_IOU) & same_class & crowd
    ignored = (matched < 0) & on_crowd.any(axis=1)
    ious = np.where(crowd, 0, ious)
    target = _classify(detections, objects, ious, matched, ignored)
    covers = np.isin(detections["kind"], (CORRECT, CLASSIFICATION, LOCALIZATION))
    objects["covered_score"] = _highest_scores(detections, target, covers, len(objects))
    match = _match(np.where(ignored[:, None], 0, ious))
    objects["matched_score"] = _highest_scores(detections, match, match >= 0, len(objects))
    detections["gt_label"][match >= 0] = objects["label"][match[match >= 0]]
    return detections, objects[~crowd]


def _classify(
    detections: np.ndarray,
    objects: np.ndarray,
    ious: np.ndarray,
    matched: np.ndarray,
    ignored: np.ndarray,
) -> np.ndarray:
    """Set the kind of each detection, and its size to that of its object.

    Args:
        ious: (D, M), 0 for crowds.
        matched: (D,) index of COCO's match, or -1.
        ignored: (D,) whether COCO ignores it.

    Returns:
        (D,) index of the object that its kind refers to, or -1.
    """
    same_class = detections["label"][:, None] == objects["label"]
    best, closest = {}, {}
    for name, allowed in (("same", same_class), ("other", ~same_class)):
        # One more column of zeros: there may be no objects.
        values = np.pad(np.where(allowed, ious, 0), ((0, 0), (0, 1)))
        best[name], closest[name] = values.max(axis=1), values.argmax(axis=1)
    kinds = (
        (IGNORED, ignored, -1),
        (CORRECT, matched >= 0, matched),
        # Another detection is matched to this object, or else COCO would have matched this one.
        (DUPLICATE, best["same"] >= FOREGROUND_IOU, closest["same"]),
        (CLASSIFICATION, best["other"] >= FOREGROUND_IOU, closest["other"]),
        (LOCALIZATION, best["same"] >= BACKGROUND_IOU, closest["same"]),
    )
    conditions = [condition for _, condition, _ in kinds]
    detections["kind"] = np.select(conditions, [kind for kind, _, _ in kinds], BACKGROUND)
    target = np.select(conditions, [target for _, _, target in kinds], -1)
    has_target = target >= 0
    detections["size"][has_target] = objects["size"][target[has_target]]
    return target


def _match(ious: np.ndarray) -> np.ndarray:
    """Match each detection, in this order, to the free object of highest IoU.

    Args:
        ious: (D, M), 0 for pairs that must not be matched.

    Returns:
        (D,) index of its object, or -1.
    """
    match = np.full(len(ious), -1)
    free = ious.copy()
    for detection in np.flatnonzero((ious >= FOREGROUND_IOU).any(axis=1)):
        best = np.flatnonzero(free[detection] == free[detection].max())[-1]  # COCO takes the last
        if free[detection, best] >= FOREGROUND_IOU:
            match[detection] = best
            free[:, best] = 0
    return match


def _highest_scores(
    detections: np.ndarray, target: np.ndarray, selected: np.ndarray, num_objects: int
) -> np.ndarray:
    """Return for each object (M,) the highest score of its selected detections, or -1."""
    scores = np.full(num_objects, -1.0)
    np.maximum.at(scores, target[selected], detections["score"][selected])
    return scores
