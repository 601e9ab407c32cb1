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
        # Highest score of its correct detections and its classification and localization mistakes.
        ("covered_score", float),
        ("matched_score", float),  # score of the detection matched regardless of class
    ]
)


def match_detections(evaluator: COCOeval) -> tuple[np.ndarray, np.ndarray]:
    """Match all detections that COCO evaluates to all objects that are not crowds.

    COCO's own matching says which detections are correct, so that they agree with its precision
    curves. Detections are matched in descending order of their scores, hence a score threshold
    removes detections but does not change the matches of the others.

    Args:
        evaluator: after ``evaluate()``.

    Returns:
        (D,) of :data:`DETECTION` and (M,) of :data:`GROUND_TRUTH`.
    """
    params = evaluator.params
    # By class, area range (the first contains all objects) and image.
    shape = len(params.catIds), len(params.areaRng), len(params.imgIds)
    results = np.array(evaluator.evalImgs, object).reshape(shape)[:, 0]
    # The empty arrays give the dtype if there are no images.
    detections, objects = [np.empty(0, DETECTION)], [np.empty(0, GROUND_TRUTH)]
    for image in range(len(params.imgIds)):
        found = [result for result in results[:, image] if result is not None]
        if found:
            matched = _match_image(evaluator, image, found)
            detections.append(matched[0])
            objects.append(matched[1])
    return np.concatenate(detections), np.concatenate(objects)


def _match_image(
    evaluator: COCOeval, image: int, results: list[dict]
) -> tuple[np.ndarray, np.ndarray]:
    """Match the detections of an image.

    Args:
        image: index into the list of images.
        results: COCO's matches, one dict for each class that occurs.
    """
    labels = {category: label for label, category in enumerate(evaluator.params.catIds)}
    dt_dicts = [evaluator.cocoDt.anns[i] for result in results for i in result["dtIds"]]
    gt_dicts = [evaluator.cocoGt.anns[i] for result in results for i in result["gtIds"]]
    detections = _to_table(dt_dicts, DETECTION, image, labels)
    objects = _to_table(gt_dicts, GROUND_TRUTH, image, labels)
    detections["score"] = [x["score"] for x in dt_dicts]
    crowd = np.array([x.get("iscrowd", 0) for x in gt_dicts], bool)
    ignored = np.concatenate([result["dtIgnore"][0] for result in results]).astype(bool)
    ious = np.zeros((len(detections), len(objects)))
    if ious.size:
        ious[:] = mask.iou(detections["box"], objects["box"], crowd.astype(np.uint8).tolist())

    gt_index = {x["id"]: index for index, x in enumerate(gt_dicts)}
    matched_ids = np.concatenate([result["dtMatches"][0] for result in results])  # 0: none
    matched = np.array([gt_index.get(i, -1) for i in matched_ids], int)
    target = _classify(detections, objects, np.where(crowd, 0, ious), matched, ignored)
    covers = np.isin(detections["kind"], (CORRECT, CLASSIFICATION, LOCALIZATION))
    objects["covered_score"] = _highest_scores(detections, target, covers, len(objects))
    match = _match_any_class(detections["score"], np.where(crowd | ignored[:, None], 0, ious))
    objects["matched_score"] = _highest_scores(detections, match, match >= 0, len(objects))
    detections["gt_label"] = len(labels)
    detections["gt_label"][match >= 0] = objects["label"][match[match >= 0]]
    return detections, objects[~crowd]


def _to_table(
    annotations: list[dict], dtype: np.dtype, image: int, labels: dict[int, int]
) -> np.ndarray:
    """Create a table with the fields that detections and ground truth have in common."""
    table = np.zeros(len(annotations), dtype)
    table["image"] = image
    table["label"] = [labels[x["category_id"]] for x in annotations]
    table["box"] = np.reshape([x["bbox"] for x in annotations], (-1, 4))
    table["size"] = np.digitize([x["area"] for x in annotations], COCO_AREA_LIMITS)
    return table


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


def _match_any_class(scores: np.ndarray, ious: np.ndarray) -> np.ndarray:
    """Match each detection, in descending order of scores, to the free object of highest IoU.

    Args:
        scores: (D,)
        ious: (D, M), 0 for pairs that must not be matched.

    Returns:
        (D,) index of its object, or -1.
    """
    match = np.full(len(scores), -1)
    free = ious.copy()
    for detection in np.argsort(-scores, kind="stable") if ious.size else ():
        best = free[detection].argmax()
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
