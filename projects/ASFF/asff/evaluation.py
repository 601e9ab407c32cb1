"""COCO's evaluation by hotcoco or pycocotools, also of images that an evaluation server judges.

Shape letter: D detections, of an image or of all images.
"""

from __future__ import annotations

import io
import itertools
import json
import logging
import os
from collections.abc import Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from detectron2.evaluation import COCOEvaluator
from detectron2.evaluation.coco_evaluation import _evaluate_predictions_on_coco
from detectron2.structures import BoxMode, Instances
from detectron2.utils import comm
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from .config import choose

RESULTS = "coco_instances_results.json"
APIS = ("auto", "hotcoco", "pycocotools")
# Keys of images and annotations that the evaluation of a task reads.
_KEYS = {"bbox": ("bbox", "area", "iscrowd")}
_KEYS["segm"] = (*_KEYS["bbox"], "segmentation", "height", "width")
_KEYS["keypoints"] = (*_KEYS["bbox"], "keypoints", "num_keypoints")


def coco_classes(api: str) -> tuple[type[COCO], type[COCOeval]]:
    """Return the classes COCO and COCOeval of an API; "auto" is hotcoco where it is installed.

    Both APIs give the same numbers, to the bit.

    Raises:
        ValueError: naming TEST.COCO_API, its value, and the fix.
    """
    choose(dict.fromkeys(APIS), api, "TEST.COCO_API")
    if api != "pycocotools":
        try:
            import hotcoco

            return hotcoco.COCO, hotcoco.COCOeval
        except ImportError as error:
            if api == "hotcoco":
                raise ValueError(
                    f"TEST.COCO_API is 'hotcoco', which cannot be imported ({error}). Install it "
                    "(pip install hotcoco, from Python 3.10 on), or choose pycocotools."
                ) from error
    return COCO, COCOeval


def evaluate_coco(
    ground_truth: COCO,
    detections: np.ndarray | Sequence[dict],
    task: str = "bbox",
    api: str = "auto",
    **options: Any,
) -> COCOeval:
    """Compute COCO's metrics of at least one detection.

    Args:
        ground_truth: with ids of any type.
        detections: the result of :func:`to_array` or, for any task, results in COCO's format.
        task: "bbox", "segm" or "keypoints".
        api: see :func:`coco_classes`.
        options: of Detectron2's evaluation: image indices, detections per image, keypoint sigmas.

    Returns:
        The evaluator after ``summarize()``. Its ids of images and classes are indices into the
        sorted ids of the ground truth.
    """
    coco_class, evaluator_class = coco_classes(api)
    images, labels = _indices(ground_truth.imgs), _indices(ground_truth.cats)

    def keep(item: dict) -> dict:
        return {key: item[key] for key in _KEYS[task] if key in item}

    def renumber(item: dict) -> dict:
        return {"image_id": images[item["image_id"]], "category_id": labels[item["category_id"]]}

    # Ids that both APIs accept: to pycocotools a match with annotation 0 is none, and hotcoco
    # refuses strings.
    coco = coco_class()
    coco.dataset = {
        "images": [{"id": images[id_], **keep(x)} for id_, x in ground_truth.imgs.items()],
        "categories": [{"id": i, "name": str(i)} for i in labels.values()],
        "annotations": [
            {"id": number, **keep(x), **renumber(x)}
            for number, x in enumerate(ground_truth.dataset["annotations"], start=1)
            if x["image_id"] in images and x["category_id"] in labels
        ],
    }
    if not isinstance(detections, np.ndarray):
        detections = [{**x, **renumber(x)} for x in detections]
    with redirect_stdout(io.StringIO()) as printed:
        coco.createIndex()
        evaluator = _evaluate_predictions_on_coco(
            coco, detections, task, cocoeval_fn=evaluator_class, **options
        )
    logging.getLogger("asff").debug(printed.getvalue().rstrip())
    return evaluator


def to_array(ground_truth: COCO, results: Sequence[dict]) -> np.ndarray:
    """Convert results in COCO's format.

    Returns:
        (D, 7): index of the image, box x, y, w, h in pixels, score, and index of the class; indices
        are into the sorted ids of the ground truth.
    """
    images, labels = _indices(ground_truth.imgs), _indices(ground_truth.cats)
    rows = [
        (images[x["image_id"]], *x["bbox"], x["score"], labels[x["category_id"]]) for x in results
    ]
    return np.array(rows, float).reshape(-1, 7)


def _indices(items: dict) -> dict[Any, int]:
    return {id_: index for index, id_ in enumerate(sorted(items))}


class Evaluator(COCOEvaluator):
    """COCOEvaluator with either COCO API; without ground truth it logs which file to upload.

    Boxes are kept, and gathered from the processes, as tensors. For detections with masks or
    keypoints, Detectron2's dicts remain.
    """

    def __init__(self, dataset_name: str, *, coco_api: str = "auto", **options: Any):
        super().__init__(dataset_name, use_fast_impl=False, **options)
        self._api = coco_api
        self._image_index = _indices(self._coco_api.imgs)

    @property
    def ground_truth(self) -> COCO:
        """The dataset as pycocotools has it; without ``annotations`` if there are none."""
        return self._coco_api

    def process(self, inputs: Sequence[dict], outputs: Sequence[dict]) -> None:
        for x, output in zip(inputs, outputs):
            instances = output.get("instances")
            if instances is None or instances.has("pred_masks") or instances.has("pred_keypoints"):
                super().process([x], [output])
            else:
                rows = _to_tensor(self._image_index[x["image_id"]], instances)
                self._predictions.append({"instances": rows})

    def evaluate(self, img_ids: Sequence[int] | None = None) -> dict:
        rows = [x["instances"] for x in self._predictions if "instances" in x]
        if rows and all(map(torch.is_tensor, rows)):
            self._predictions = [{"instances": torch.cat(rows)}]
        results = super().evaluate(img_ids)
        if comm.is_main_process() and not self._do_evaluation:
            file = os.path.join(self._output_dir, RESULTS)
            logging.getLogger("asff").info(
                f"{self._metadata.name} has no annotations, hence no AP. Its detections, to be "
                f"uploaded to the evaluation server: {file}"
            )
        return results

    def _eval_predictions(
        self, predictions: Sequence[dict], img_ids: Sequence[int] | None = None
    ) -> None:
        """Write coco_instances_results.json, and compute the metrics of each task."""
        instances = [x["instances"] for x in predictions]
        category_ids = sorted(self._coco_api.cats)
        if all(map(torch.is_tensor, instances)):
            tasks, detections = {"bbox"}, torch.cat(instances).numpy()
            content = _to_json(detections, list(self._image_index), category_ids)
        else:
            detections = [
                {**x, "category_id": category_ids[x["category_id"]]}
                for x in itertools.chain(*instances)
            ]
            tasks, content = self._tasks_from_predictions(detections), json.dumps(detections)
        if self._output_dir:
            file = os.path.join(self._output_dir, RESULTS)
            self._logger.info(f"Saving results to {file}")
            Path(file).write_text(content)
        if not self._do_evaluation:
            return
        options = {
            "img_ids": img_ids and [self._image_index[x] for x in img_ids],
            "max_dets_per_image": self._max_dets_per_image,
            "kpt_oks_sigmas": self._kpt_oks_sigmas,
        }
        for task in sorted(self._tasks or tasks):
            evaluator = None
            if len(detections):
                evaluator = evaluate_coco(self._coco_api, detections, task, self._api, **options)
            self._results[task] = self._derive_coco_results(
                evaluator, task, class_names=self._metadata.get("thing_classes")
            )


def _to_tensor(image: int, instances: Instances) -> torch.Tensor:
    """Return the rows (D, 7) of :func:`to_array` of an image, in double precision."""
    boxes = instances.pred_boxes.tensor
    boxes = BoxMode.convert(boxes, BoxMode.XYXY_ABS, BoxMode.XYWH_ABS)
    columns = boxes, instances.scores[:, None], instances.pred_classes[:, None]
    # One copy from the device. There, float32 also holds the classes exactly.
    rows = torch.cat([x.float() for x in columns], dim=1).to("cpu", torch.float64)
    return F.pad(rows, (1, 0), value=image)


def _to_json(detections: np.ndarray, image_ids: Sequence[Any], category_ids: Sequence[Any]) -> str:
    """Convert the array of :func:`to_array` to COCO's result format, as ``json.dumps()`` writes it.

    It takes half the time of dicts.
    """
    columns = [
        np.array([json.dumps(x) for x in ids], object)[detections[:, column].astype(int)]
        for column, ids in ((0, image_ids), (6, category_ids))
    ]
    columns += detections[:, 1:6].T.tolist()
    line = '{"image_id": %s, "category_id": %s, "bbox": [%r, %r, %r, %r], "score": %r}'
    return f"[{', '.join(map(line.__mod__, zip(*columns)))}]"
