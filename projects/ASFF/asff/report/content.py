"""Collect the content of a report: what report.json contains."""

from __future__ import annotations

import math
from typing import Any

from detectron2.config import CfgNode

from ..analysis.detection_errors import BACKGROUND_IOU, FOREGROUND_IOU
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
from ..data.boxes import COCO_SIZES
from .curves import training_curves, training_speed
from .images import ShownImage
from .run_folder import RunFolder, environment, inference_speed, read_metrics


def describe_run(
    run: RunFolder, cfg: CfgNode, dataset: str, evaluation: Evaluation, images: list[ShownImage]
) -> dict[str, Any]:
    """Describe a run and its evaluation on a dataset, without the pixels of the images to show."""
    metrics, log = read_metrics(run.path / "metrics.json"), run.read_log()
    num_images = len(evaluation.images)
    content = {
        "run": run.path.resolve().name,
        "dataset": dataset,
        "evaluated": run.evaluation_time(dataset).isoformat(" ", "minutes"),
        "images": num_images,
        "objects": len(evaluation.objects),
        "detections": len(evaluation.detections),
        "AP": average_precisions(evaluation),
        "classes": class_precisions(evaluation),
        "precision_curves": precision_curves(evaluation),
        "foreground_IoU": FOREGROUND_IOU,
        "background_IoU": BACKGROUND_IOU,
        "sizes": COCO_SIZES,
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
    return _without_nan(content)


def _without_nan(value: Any) -> Any:
    """Copy a value with None for numbers that are not finite, which JSON does not have."""
    if isinstance(value, dict):
        return {key: _without_nan(x) for key, x in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_nan(x) for x in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
