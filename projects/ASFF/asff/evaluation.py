"""COCO's evaluation, also of images whose ground truth only an evaluation server has."""

from __future__ import annotations

import io
import logging
import os
from collections.abc import Sequence
from contextlib import redirect_stdout

from detectron2.evaluation import COCOEvaluator
from detectron2.utils import comm
from pycocotools.coco import COCO


class Evaluator(COCOEvaluator):
    """COCOEvaluator for any annotation ids; without ground truth it names the file to upload."""

    def __init__(self, dataset_name: str, **options):
        super().__init__(dataset_name, **options)
        # pycocotools computes with the ids, and takes an object with id 0 for unmatched.
        for number, annotation in enumerate(self._coco_api.dataset.get("annotations", ()), start=1):
            annotation["id"] = number
        with redirect_stdout(io.StringIO()):
            self._coco_api.createIndex()

    @property
    def ground_truth(self) -> COCO:
        """The dataset as pycocotools has it; without ``annotations`` if there are none."""
        return self._coco_api

    def evaluate(self, img_ids: Sequence[int] | None = None) -> dict:
        with redirect_stdout(io.StringIO()) as printed:  # by pycocotools
            results = super().evaluate(img_ids)
        logging.getLogger("asff").debug(printed.getvalue().rstrip())
        if comm.is_main_process() and not self._do_evaluation:
            file = os.path.join(self._output_dir, "coco_instances_results.json")
            logging.getLogger("asff").info(
                f"{self._metadata.name} has no annotations, hence no AP. Its detections, to be "
                f"uploaded to the evaluation server: {file}"
            )
        return results
