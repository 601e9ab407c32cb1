"""Time of COCO's evaluation of generated detections, by each COCO API."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch
from detectron2.data import MetadataCatalog
from detectron2.structures import Boxes, Instances
from torch import Tensor

from ..analysis.timing import interleave, measure_seconds, summarize
from ..data.datasets import CocoDataset
from ..evaluation import Evaluator

SIDE = 640  # height and width of the images in pixels
NAME = "asff_benchmark_evaluate"  # of the dataset
NUM_OBJECTS = 7  # per image, about as many as COCO has


def measure_evaluate(
    num_images: int = 5000,
    num_detections: int = 100,
    num_classes: int = 80,
    rounds: int = 3,
    apis: Sequence[str] = ("pycocotools", "hotcoco"),
) -> list[dict]:
    """Evaluate generated detections by each API.

    Args:
        num_detections: of each image, at least twice NUM_OBJECTS.

    Returns:
        For each API its ``name``, the three numbers and, by name, its ``stages``; see
        :func:`summarize`. They are to ``process`` a detector's outputs image by image, and to
        ``evaluate`` them, which includes the file of results.

    Raises:
        ValueError: there are fewer detections.
    """
    if num_detections < 2 * NUM_OBJECTS:
        raise ValueError(
            f"--detections is {num_detections}, but must be at least {2 * NUM_OBJECTS}: two near "
            f"each of the {NUM_OBJECTS} objects of an image."
        )
    generator = torch.Generator().manual_seed(0)
    boxes = _draw_boxes(num_images * NUM_OBJECTS, generator).view(num_images, NUM_OBJECTS, 4)
    classes = torch.randint(num_classes, boxes.shape[:2], generator=generator)
    inputs = [{"image_id": i} for i in range(1, num_images + 1)]
    outputs = [
        {"instances": _draw_detections(*objects, num_detections, num_classes, generator)}
        for objects in zip(boxes, classes)
    ]
    boxes[..., 2:] -= boxes[..., :2]
    objects = ([(*x, 0) for x in zip(*y)] for y in zip(classes.tolist(), boxes.tolist()))
    names = [f"class {i}" for i in range(num_classes)]
    dataset = CocoDataset.from_objects((("", (SIDE, SIDE), x) for x in objects), names)

    def run(evaluator: Evaluator) -> dict[str, float]:
        evaluator.reset()
        process = measure_seconds(lambda: evaluator.process(inputs, outputs))
        return {"process": process, "evaluate": measure_seconds(evaluator.evaluate)}

    with tempfile.TemporaryDirectory() as folder:
        dataset.write(Path(folder, "gt.json"))
        MetadataCatalog.get(NAME).json_file = str(Path(folder, "gt.json"))
        evaluators = [Evaluator(NAME, coco_api=api, output_dir=folder) for api in apis]
        MetadataCatalog.remove(NAME)
        times = interleave([partial(run, x) for x in evaluators], rounds, warm_up=0)
    numbers = {"images": num_images, "detections": num_detections, "classes": num_classes}
    return [
        {"name": api, **numbers, "stages": summarize(own, times[0])}
        for api, own in zip(apis, times)
    ]


def _draw_boxes(num_boxes: int, generator: torch.Generator) -> Tensor:
    """Draw corner boxes (M, 4) of 8 pixels to half the image."""
    sides = 8 * (SIDE / 16) ** torch.rand(num_boxes, 2, generator=generator)
    corners = torch.rand(num_boxes, 2, generator=generator) * (SIDE - sides)
    return torch.cat([corners, corners + sides], dim=1)


def _draw_detections(
    boxes: Tensor, classes: Tensor, number: int, num_classes: int, generator: torch.Generator
) -> Instances:
    """Draw detections of an image: two near each object, the others anywhere."""
    instances = Instances((SIDE, SIDE))
    others = number - 2 * len(boxes)
    shifts = 4 * torch.randn(2 * len(boxes), 2, generator=generator)
    near = torch.cat([boxes, boxes]) + shifts.repeat(1, 2)
    instances.pred_boxes = Boxes(torch.cat([near, _draw_boxes(others, generator)]))
    background = torch.randint(num_classes, (others,), generator=generator)
    instances.pred_classes = torch.cat([classes, classes, background])
    instances.scores = torch.rand(number, generator=generator)
    return instances
