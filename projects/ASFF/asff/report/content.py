"""All that a report says, as numbers and text: what report.json holds."""

from __future__ import annotations

import math
from typing import Any

from detectron2.config import CfgNode

from ..analysis.detection_errors import IOU, POOR_IOU, SIZES
from ..analysis.detection_metrics import (
    SCORES,
    Evaluation,
    average_precisions,
    best_score,
    class_precisions,
    count_at,
    precision_curves,
)
from ..config_files import changed_keys
from .curves import training_curves, training_speed
from .images import ShownImage
from .run_folder import RunFolder, environment, inference_speed


def describe_run(
    run: RunFolder, cfg: CfgNode, dataset: str, evaluation: Evaluation, images: list[ShownImage]
) -> dict[str, Any]:
    """Everything about a run and one of its evaluations but pictures.

    Args:
        cfg: of the run.
        dataset: that was evaluated.
        images: that are shown.
    """
    metrics, log = run.read_metrics(), run.read_log()
    num_images = len(evaluation.evaluator.params.imgIds)
    content = {
        "run": run.name,
        "dataset": dataset,
        "evaluated": run.evaluation_time(dataset).isoformat(" ", "minutes"),
        "images": num_images,
        "truths": len(evaluation.truths),
        "detections": len(evaluation.detections),
        "AP": average_precisions(evaluation),
        "classes": class_precisions(evaluation),
        "precision_curves": precision_curves(evaluation),
        "IoU": IOU,
        "poor_IoU": POOR_IOU,
        "sizes": SIZES,
        "best_score": best_score(evaluation),
        "at_scores": [count_at(evaluation, score) for score in SCORES],
        "worst_images": [image.content for image in images],
        "training": training_curves(metrics, dataset),
        "speed": {
            "training": training_speed(metrics),
            "inference": inference_speed(log, dataset, num_images),
        },
        "changed_keys": [(key, str(value)) for key, value in changed_keys(cfg).items()],
        "environment": environment(log),
        "config": run.config_file.read_text(),
    }
    return without_nan(content)


def without_nan(value: Any) -> Any:
    """A copy for JSON, which has no such numbers: None instead."""
    if isinstance(value, dict):
        return {key: without_nan(x) for key, x in value.items()}
    if isinstance(value, (list, tuple)):
        return [without_nan(x) for x in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
