"""Compute AP, precision and recall, confusions and kinds of mistakes of an evaluation.

AP and precision curves are those of the evaluation, to the bit. Confusions and kinds of mistakes,
at any score threshold, come from detection_errors.py.

Shape letters: D detections, M ground-truth objects, K classes, R recalls.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from ..data.boxes import COCO_SIZES
from ..evaluation import evaluate_coco, to_array
from .detection_errors import CORRECT, IGNORED, MISTAKES, match_detections

METRICS = ("AP", "AP50", "AP75", "APs", "APm", "APl")  # the first numbers of COCOeval
SCORES = tuple(i / 20 for i in range(1, 20))  # thresholds offered by the report
CURVE_IOUS = (0.5, 0.75, 0.9)


@dataclass(frozen=True)
class Evaluation:
    """Detections of a dataset, compared with its ground truth."""

    evaluator: COCOeval  # after summarize()
    detections: np.ndarray  # (D,) of detection_errors.DETECTION
    objects: np.ndarray  # (M,) of detection_errors.GROUND_TRUTH
    images: list[dict]  # of the COCO dict, in the order of the indices
    class_names: list[str]  # in the order of the labels


def evaluate(ground_truth: COCO, results: Sequence[dict], coco_api: str = "auto") -> Evaluation:
    """Compare detections with the ground truth.

    Args:
        results: in COCO's result format.
        coco_api: see :func:`asff.evaluation.coco_classes`.

    Raises:
        ValueError: the results are of another dataset, or there is no ground truth.
    """
    if "annotations" not in ground_truth.dataset:
        raise ValueError("The dataset has no annotations: there is nothing to compare with.")
    for key, known in (("image_id", ground_truth.imgs), ("category_id", ground_truth.cats)):
        unknown = {result[key] for result in results} - known.keys()
        if unknown:
            raise ValueError(
                f"The detections have {key} {min(unknown)}, which the dataset does not have: it "
                "has changed since. Evaluate again."
            )
    detections = to_array(ground_truth, results)
    # pycocotools fails without detections. A false one has the same precision at every recall: 0.
    evaluator = evaluate_coco(
        ground_truth, detections if len(detections) else np.zeros((1, 7)), api=coco_api
    )
    images, categories = (
        [x[key] for key in sorted(x)] for x in (ground_truth.imgs, ground_truth.cats)
    )
    names = [category["name"] for category in categories]
    return Evaluation(evaluator, *match_detections(evaluator, detections), images, names)


def average_precisions(evaluation: Evaluation) -> dict[str, float | None]:
    """Return COCO's metrics in percent; None without objects to measure them on."""
    stats = evaluation.evaluator.stats
    return {name: _percent(stats[index]) for index, name in enumerate(METRICS)}


def class_precisions(evaluation: Evaluation) -> list[dict[str, Any]]:
    """Return ``name``, number of ``objects``, ``AP`` and ``AP50`` in percent of each class."""
    counts = _count_labels(evaluation, evaluation.objects)
    classes = []
    for label, name in enumerate(evaluation.class_names):
        # Shape (IoUs, R, K, area ranges, numbers of detections).
        precision = evaluation.evaluator.eval["precision"][:, :, label, 0, -1]
        # Flattened, as in COCOEvaluator: the order of a sum changes its last bits.
        ap, ap50 = (values[values > -1] for values in (precision, precision[0]))
        classes.append(
            {
                "name": name,
                "objects": int(counts[label]),
                "AP": _percent(ap.mean()) if ap.size else None,
                "AP50": _percent(ap50.mean()) if ap50.size else None,
            }
        )
    return classes


def precision_curves(evaluation: Evaluation) -> dict[str, Any]:
    """Return the precision over the recall for several IoU thresholds.

    Returns:
        ``recall`` (R,) and ``curves``: for each ``IoU`` the curves of ``classes`` (K, R), None for
        a class without objects, and their ``mean`` (R,) over the other classes.
    """
    params, precision = evaluation.evaluator.params, evaluation.evaluator.eval["precision"]
    curves = []
    for iou in CURVE_IOUS:
        (index,) = np.flatnonzero(np.isclose(params.iouThrs, iou))
        values = precision[index, :, :, 0, -1].T
        defined = values[(values >= 0).all(axis=1)]
        curves.append(
            {
                "IoU": iou,
                "mean": _round(defined.mean(axis=0)) if len(defined) else None,
                "classes": [_round(x) if (x >= 0).all() else None for x in values],
            }
        )
    return {"recall": _round(params.recThrs), "curves": curves}


def count_at(evaluation: Evaluation, score: float) -> dict[str, Any]:
    """Count correct detections, confusions and mistakes among detections from a score on.

    Returns:
        ``score``; ``precision`` and ``recall`` of each class, None where undefined; ``confusion``,
        the nonzero elements of the confusion matrix as triples (class of the object, class of the
        detection, count), with K for the background; and ``mistakes``, counts (3, K) by size and
        class for each kind.
    """
    num_classes = len(evaluation.class_names)
    objects = evaluation.objects
    shown = detections_from(evaluation, score)
    correct = shown[shown["kind"] == CORRECT]
    hits = _count_labels(evaluation, correct)

    confusion = np.zeros((num_classes + 1, num_classes + 1), int)
    np.add.at(confusion, (shown["gt_label"], shown["label"]), 1)
    unmatched = objects[objects["matched_score"] < score]
    np.add.at(confusion, (unmatched["label"], num_classes), 1)

    kinds = {"missed": missed_objects(evaluation, score)}
    kinds.update({name: shown[shown["kind"] == kind] for kind, name in MISTAKES.items()})
    mistakes = {}
    for name, table in kinds.items():
        counts = np.zeros((len(COCO_SIZES), num_classes), int)
        np.add.at(counts, (table["size"], table["label"]), 1)
        mistakes[name] = counts.tolist()
    return {
        "score": score,
        "precision": _ratios(hits, _count_labels(evaluation, shown)),
        "recall": _ratios(hits, _count_labels(evaluation, objects)),
        "confusion": [
            [*map(int, index), int(confusion[tuple(index)])] for index in np.argwhere(confusion)
        ],
        "mistakes": mistakes,
    }


def best_score(evaluation: Evaluation) -> float:
    """Return the lowest threshold of SCORES with the best F1 over all objects."""

    def f1(score: float) -> float:
        shown = detections_from(evaluation, score)
        hits = np.count_nonzero(shown["kind"] == CORRECT)
        return 2 * hits / max(len(shown) + len(evaluation.objects), 1)

    return max(SCORES, key=f1)


def worst_images(evaluation: Evaluation, score: float) -> list[int]:
    """Return the indices of images with mistakes, in descending order of their number."""
    shown = detections_from(evaluation, score)
    false = shown[shown["kind"] != CORRECT]
    missed = missed_objects(evaluation, score)
    num_images = len(evaluation.images)
    counts = np.bincount(np.concatenate([false["image"], missed["image"]]), minlength=num_images)
    return [int(i) for i in np.argsort(-counts, kind="stable") if counts[i]]


def detections_from(evaluation: Evaluation, score: float) -> np.ndarray:
    """Return the detections from a score on, without ignored ones."""
    detections = evaluation.detections
    return detections[(detections["score"] >= score) & (detections["kind"] != IGNORED)]


def missed_objects(evaluation: Evaluation, score: float) -> np.ndarray:
    """Return the objects that detections from a score on do not cover."""
    return evaluation.objects[evaluation.objects["covered_score"] < score]


def _count_labels(evaluation: Evaluation, table: np.ndarray) -> np.ndarray:
    """Return the number of entries of each class (K,)."""
    return np.bincount(table["label"], minlength=len(evaluation.class_names))


def _ratios(counts: np.ndarray, totals: np.ndarray) -> list[float | None]:
    return [round(count / total, 4) if total else None for count, total in zip(counts, totals)]


def _percent(ratio: float) -> float | None:
    """Convert a metric of COCO, which is -1 if there is nothing to measure."""
    return float(ratio) * 100 if ratio >= 0 else None


def _round(values: np.ndarray) -> list[float]:
    return [round(float(value), 4) for value in values]
