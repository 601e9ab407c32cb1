"""Which detection is which object, and if none, what kind of mistake: image by image.

Shape letters: D detections, M truths, K classes; of an image, then of all.
"""

from __future__ import annotations

from collections import defaultdict

import numpy as np
from pycocotools import mask
from pycocotools.cocoeval import COCOeval

IOU = 0.5  # from which on a box is right
POOR_IOU = 0.1  # from which on a box means an object at all
SMALL_AREA, LARGE_AREA = 32**2, 96**2  # COCO's
SIZES = ("small", "medium", "large")

# What a detection is. IGNORED: COCO counts it neither as right nor as wrong; it lies on a crowd.
IGNORED, CORRECT, DUPLICATE, WRONG_CLASS, POOR_BOX, BACKGROUND = range(6)

DETECTION = np.dtype(
    [
        ("image", int),  # place in the list of images
        ("label", int),  # class, 0 to K - 1
        ("score", float),
        ("box", float, 4),  # x, y, w, h in pixels
        ("kind", int),
        ("size", int),  # place in SIZES: of the object it is about; else its own
        ("actual", int),  # class of the object it takes, whatever that is; K: none
    ]
)
# Scores are -1 where there is no such detection.
TRUTH = np.dtype(
    [
        ("image", int),
        ("label", int),
        ("box", float, 4),
        ("size", int),
        ("explained", float),  # highest score of one that is right, of a wrong class or a poor box
        ("taken", float),  # score of the one that takes it, whatever class that says
    ]
)


def match(evaluator: COCOeval) -> tuple[np.ndarray, np.ndarray]:
    """All detections that COCO looks at, and all truths that are no crowds.

    Which detections are right is COCO's own matching, so that hits and the points of its precision
    curves agree. A detection is matched before all less certain ones, hence a score threshold
    changes nothing but which detections there are.

    Args:
        evaluator: after ``evaluate()``.

    Returns:
        (D,) of :data:`DETECTION` and (M,) of :data:`TRUTH`.
    """
    params = evaluator.params
    entries = defaultdict(list)
    num_images = len(params.imgIds)
    for category in range(len(params.catIds)):
        # Its first area range is that of all objects.
        start = category * len(params.areaRng) * num_images
        for image, entry in enumerate(evaluator.evalImgs[start : start + num_images]):
            if entry is not None:
                entries[image].append(entry)
    parts = [match_image(evaluator, image, entries[image]) for image in sorted(entries)]
    detections, truths = zip(*parts) if parts else ((), ())
    # The empty ones give the type where there are no images.
    return (
        np.concatenate([np.empty(0, DETECTION), *detections]),
        np.concatenate([np.empty(0, TRUTH), *truths]),
    )


def match_image(
    evaluator: COCOeval, image: int, entries: list[dict]
) -> tuple[np.ndarray, np.ndarray]:
    """Detections and truths of an image.

    Args:
        image: place in the list of images.
        entries: COCO's matches, one dict for each class that occurs.
    """
    labels = {category: label for label, category in enumerate(evaluator.params.catIds)}
    found = [evaluator.cocoDt.anns[i] for entry in entries for i in entry["dtIds"]]
    there = [evaluator.cocoGt.anns[i] for entry in entries for i in entry["gtIds"]]
    matches = np.concatenate([entry["dtMatches"][0] for entry in entries])  # ids; 0: none
    ignored = np.concatenate([entry["dtIgnore"][0] for entry in entries]).astype(bool)
    crowd = np.array([x.get("iscrowd", 0) for x in there], bool)

    detections, truths = np.zeros(len(found), DETECTION), np.zeros(len(there), TRUTH)
    detections["image"] = truths["image"] = image
    detections["score"] = [x["score"] for x in found]
    for table, rows in ((detections, found), (truths, there)):
        table["label"] = [labels[x["category_id"]] for x in rows]
        table["box"] = np.reshape([x["bbox"] for x in rows], (-1, 4))
        table["size"] = np.digitize([x["area"] for x in rows], (SMALL_AREA, LARGE_AREA))
    ious = np.zeros((len(found), len(there)))
    if ious.size:
        ious[:] = mask.iou(detections["box"], truths["box"], crowd.astype(np.uint8).tolist())

    places = {x["id"]: place for place, x in enumerate(there)}
    matched = np.array([places.get(i, -1) for i in matches], int)
    target = explain(detections, truths, np.where(crowd, 0, ious), matched, ignored)
    meant = np.isin(detections["kind"], (CORRECT, WRONG_CLASS, POOR_BOX))
    truths["explained"] = highest(detections, target, meant, len(truths))
    taken = take(detections["score"], np.where(crowd | ignored[:, None], 0, ious))
    truths["taken"] = highest(detections, taken, taken >= 0, len(truths))
    detections["actual"] = len(labels)
    detections["actual"][taken >= 0] = truths["label"][taken[taken >= 0]]
    return detections, truths[~crowd]


def explain(
    detections: np.ndarray,
    truths: np.ndarray,
    ious: np.ndarray,
    matched: np.ndarray,
    ignored: np.ndarray,
) -> np.ndarray:
    """Set what each detection is, and its size to that of the object it is about.

    Args:
        ious: (D, M), 0 for crowds.
        matched: (D,) COCO's match, or -1.
        ignored: (D,) whether COCO leaves it out.

    Returns:
        (D,) the truth it is about, or -1.
    """
    same = detections["label"][:, None] == truths["label"]
    best, closest = {}, {}
    for name, allowed in (("same", same), ("other", ~same)):
        # A column without overlap more: there may be no truths.
        values = np.pad(np.where(allowed, ious, 0), ((0, 0), (0, 1)))
        best[name], closest[name] = values.max(axis=1), values.argmax(axis=1)
    kinds = (
        (IGNORED, ignored, -1),
        (CORRECT, matched >= 0, matched),
        # Its object is taken, or COCO had matched it.
        (DUPLICATE, best["same"] >= IOU, closest["same"]),
        (WRONG_CLASS, best["other"] >= IOU, closest["other"]),
        (POOR_BOX, best["same"] >= POOR_IOU, closest["same"]),
    )
    conditions = [condition for _, condition, _ in kinds]
    detections["kind"] = np.select(conditions, [kind for kind, _, _ in kinds], BACKGROUND)
    target = np.select(conditions, [target for _, _, target in kinds], -1)
    about = target >= 0
    detections["size"][about] = truths["size"][target[about]]
    return target


def take(scores: np.ndarray, ious: np.ndarray) -> np.ndarray:
    """Each detection, the most certain first, takes the free truth that it overlaps most.

    Args:
        scores: (D,)
        ious: (D, M), 0 where a truth may not be taken.

    Returns:
        (D,) the truth it takes, or -1.
    """
    taken = np.full(len(scores), -1)
    free = ious.copy()
    for detection in np.argsort(-scores, kind="stable") if ious.size else ():
        best = free[detection].argmax()
        if free[detection, best] >= IOU:
            taken[detection] = best
            free[:, best] = 0
    return taken


def highest(
    detections: np.ndarray, target: np.ndarray, chosen: np.ndarray, num_truths: int
) -> np.ndarray:
    """(M,) the highest score of the chosen detections that are about a truth, or -1."""
    scores = np.full(num_truths, -1.0)
    np.maximum.at(scores, target[chosen], detections["score"][chosen])
    return scores
