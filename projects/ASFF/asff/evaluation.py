"""COCO's evaluation, also of images whose truth only an evaluation server knows."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence

from detectron2.evaluation import COCOEvaluator
from detectron2.utils import comm


class Evaluator(COCOEvaluator):
    """COCOEvaluator that names the file to upload where a dataset has no annotations."""

    def evaluate(self, img_ids: Sequence[int] | None = None) -> dict:
        results = super().evaluate(img_ids)
        if comm.is_main_process() and not self._do_evaluation:
            file = os.path.join(self._output_dir, "coco_instances_results.json")
            logging.getLogger("asff").info(
                f"{self._metadata.name} has no annotations, hence no AP. Its detections, to be "
                f"uploaded to the evaluation server: {file}"
            )
        return results
