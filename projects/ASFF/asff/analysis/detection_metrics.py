"""Numbers of an evaluation: AP, precision and recall, confusions and kinds of mistakes.

pycocotools does what it defines: AP, precision curves, and which detection is right. Its Python
class is the one behind COCOEvaluator here, so the AP is the same to the bit; it also keeps the
matches that the rest is made of. What it lacks, confusions and kinds of mistakes, is matching.py's.

Shape letters: D detections, M truths, K classes, T scores.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from typing import Any

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from .detection_errors import (
    BACKGROUND,
    CORRECT,
    DUPLICATE,
    IGNORED,
    POOR_BOX,
    SIZES,
    WRONG_CLASS,
    match,
)

METRICS = ("AP", "AP50", "AP75", "APs", "APm", "APl")  # the first numbers of COCOeval
SCORES = tuple(i / 20 for i in range(1, 20))  # thresholds that one can choose
CURVE_IOUS = (0.5, 0.75, 0.9)

# Kinds of false detections. The sixth mistake, an object that none of these explains, is "missed".
MISTAKES = {
    "duplicate": DUPLICATE,
    "wrong class": WRONG_CLASS,
    "poor box": POOR_BOX,
    "background": BACKGROUND,
}


@dataclass(frozen=True)
class Evaluation:
    """Detections of a dataset, compared with its truth.

    Attributes:
        evaluator: after ``summarize()``.
        detections, truths: see matching.py.
        class_names: in the order of the labels.
    """

    evaluator: COCOeval
    detections: np.ndarray
    truths: np.ndarray
    class_names: list[str]


def evaluate(truth: COCO, results: Sequence[dict]) -> Evaluation:
    """Compare detections with the truth.

    Args:
        truth: with annotation ids from 1 on, as our Evaluator has it.
        results: in COCO's result format.

    Raises:
        ValueError: they do not belong together, or there is no truth.
    """
    if "annotations" not in truth.dataset:
        raise ValueError("The dataset has no annotations: there is nothing to compare with.")
    for key, known in (("image_id", truth.imgs), ("category_id", truth.cats)):
        strange = {result[key] for result in results} - known.keys()
        if strange:
            raise ValueError(
                f"The detections have {key} {min(strange)}, which the dataset does not have: it "
                "has changed since. Evaluate anew."
            )
    detections = COCO()
    # As COCO.loadRes(), which needs at least one detection.
    annotations = [
        {**result, "id": number, "area": result["bbox"][2] * result["bbox"][3]}
        for number, result in enumerate(results, start=1)
    ]
    detections.dataset = {**truth.dataset, "annotations": annotations}
    evaluator = COCOeval(truth, detections, "bbox")
    with redirect_stdout(io.StringIO()):
        detections.createIndex()
        evaluator.evaluate()
        evaluator.accumulate()
        evaluator.summarize()
    names = [category["name"] for category in truth.loadCats(evaluator.params.catIds)]
    return Evaluation(evaluator, *match(evaluator), names)


def average_precisions(evaluation: Evaluation) -> dict[str, float | None]:
    """COCO's numbers in percent; None where there are no such objects."""
    stats = evaluation.evaluator.stats
    return {name: percent(stats[place]) for place, name in enumerate(METRICS)}


def class_precisions(evaluation: Evaluation) -> list[dict[str, Any]]:
    """For each class ``name``, number of ``truths``, ``AP`` and ``AP50`` in percent."""
    counts = count_labels(evaluation, evaluation.truths)
    classes = []
    for label, name in enumerate(evaluation.class_names):
        # (IoUs, recalls, K, area ranges, numbers of detections)
        precision = evaluation.evaluator.eval["precision"][:, :, label, 0, -1]
        # Not as an array of two dimensions: the order of a sum decides on its last bits.
        ap, ap50 = (values[values > -1] for values in (precision, precision[0]))
        classes.append(
            {
                "name": name,
                "truths": int(counts[label]),
                "AP": percent(ap.mean()) if ap.size else None,
                "AP50": percent(ap50.mean()) if ap50.size else None,
            }
        )
    return classes


def precision_curves(evaluation: Evaluation) -> dict[str, Any]:
    """Precision at given recalls.

    Returns:
        ``recall`` (R,), and for each IoU ``classes`` (K, R), None for a class without truths, and
        ``mean`` (R,) over the others.
    """
    params, precision = evaluation.evaluator.params, evaluation.evaluator.eval["precision"]
    curves = []
    for iou in CURVE_IOUS:
        (place,) = np.flatnonzero(np.isclose(params.iouThrs, iou))
        values = precision[place, :, :, 0, -1].T
        there = values[(values >= 0).all(axis=1)]
        curves.append(
            {
                "IoU": iou,
                "mean": rounded(there.mean(axis=0)) if len(there) else None,
                "classes": [rounded(x) if (x >= 0).all() else None for x in values],
            }
        )
    return {"recall": rounded(params.recThrs), "curves": curves}


def count_at(evaluation: Evaluation, score: float) -> dict[str, Any]:
    """What there is to see where only detections from a score on are shown.

    Returns:
        ``score``; for each class ``precision`` and ``recall``, None where they are not defined;
        ``confusion``, triples of the class there, the class detected and how often, K for the
        background; and ``mistakes``, how often a kind happened by size of the object and class:
        for each kind (3, K).
    """
    num_classes = len(evaluation.class_names)
    truths = evaluation.truths
    shown = shown_from(evaluation, score)
    correct = shown[shown["kind"] == CORRECT]
    hits = count_labels(evaluation, correct)

    confusion = np.zeros((num_classes + 1, num_classes + 1), int)
    np.add.at(confusion, (shown["actual"], shown["label"]), 1)
    untaken = truths[truths["taken"] < score]
    np.add.at(confusion, (untaken["label"], num_classes), 1)

    kinds = {"missed": truths[truths["explained"] < score]}
    kinds.update({name: shown[shown["kind"] == kind] for name, kind in MISTAKES.items()})
    mistakes = {}
    for name, table in kinds.items():
        counts = np.zeros((len(SIZES), num_classes), int)
        np.add.at(counts, (table["size"], table["label"]), 1)
        mistakes[name] = counts.tolist()
    return {
        "score": score,
        "precision": shares(hits, count_labels(evaluation, shown)),
        "recall": shares(hits, count_labels(evaluation, truths)),
        "confusion": [[*map(int, at), int(confusion[tuple(at)])] for at in np.argwhere(confusion)],
        "mistakes": mistakes,
    }


def best_score(evaluation: Evaluation) -> float:
    """The threshold of SCORES with the best F1 over all objects; the first where all are 0."""

    def f1(score: float) -> float:
        shown = shown_from(evaluation, score)
        hits = np.count_nonzero(shown["kind"] == CORRECT)
        return 2 * hits / max(len(shown) + len(evaluation.truths), 1)

    return max(SCORES, key=f1)


def worst_images(evaluation: Evaluation, score: float) -> list[int]:
    """Places of the images that have mistakes, those with the most first."""
    shown = shown_from(evaluation, score)
    false = shown[shown["kind"] != CORRECT]
    missed = evaluation.truths[evaluation.truths["explained"] < score]
    num_images = len(evaluation.evaluator.params.imgIds)
    counts = np.bincount(np.concatenate([false["image"], missed["image"]]), minlength=num_images)
    return [int(i) for i in np.argsort(-counts, kind="stable") if counts[i]]


def shown_from(evaluation: Evaluation, score: float) -> np.ndarray:
    """Detections from a score on, of those that count."""
    detections = evaluation.detections
    return detections[(detections["score"] >= score) & (detections["kind"] != IGNORED)]


def count_labels(evaluation: Evaluation, table: np.ndarray) -> np.ndarray:
    """(K,)"""
    return np.bincount(table["label"], minlength=len(evaluation.class_names))


def shares(parts: np.ndarray, wholes: np.ndarray) -> list[float | None]:
    return [round(part / whole, 4) if whole else None for part, whole in zip(parts, wholes)]


def percent(share: float) -> float | None:
    """COCO has -1 where there is nothing to measure."""
    return float(share) * 100 if share >= 0 else None


def rounded(values: np.ndarray) -> list[float]:
    return [round(float(value), 4) for value in values]
