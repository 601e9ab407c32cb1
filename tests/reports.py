"""Evaluations by hand and a run's folder, for tests of the report."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
from detectron2.data import MetadataCatalog
from pycocotools.coco import COCO

from asff.analysis import Evaluation, evaluate
from asff.config_files import load_config
from tests.training import Run, run_asff

make_report = partial(run_asff, "report")
NAMES = ("cat", "dog")
LOG = """\
[11/22 13:20:33] detectron2 INFO: Rank of current process: 0. World size: 1
[11/22 13:20:33] detectron2 INFO: Environment info:
---------------  --------------------------------------------
sys.platform     linux
PyTorch          2.14.1+cu130 @/opt/venv/lib/site-packages/torch
Compiler ($CXX)  c++ (Debian 12.2.0-14+deb12u1) 12.2.0
---------------  --------------------------------------------
PyTorch built with:
  - GCC 13.3
"""


def inference_log(
    dataset: str, *, batches: int, total: float, compute: float, devices: int = 1
) -> str:
    """Return the lines that Detectron2 logs in an evaluation."""
    seconds = f"s / iter per device, on {devices} devices)"
    d2 = "[11/22 14:10:50] d2.evaluation"
    return f"""\
{d2}.evaluator INFO: Start inference on {batches} batches
{d2}.evaluator INFO: Inference done 11/{batches}. Dataloading: 0.0023 s/iter. Total: 9.9 s/iter.
{d2}.evaluator INFO: Total inference time: 0:00:04.283085 ({total:.6f} {seconds}
{d2}.evaluator INFO: Total inference pure compute time: 0:00:03 ({compute:.6f} {seconds}
{d2}.coco_evaluation INFO: Saving results to out/inference/{dataset}/coco_instances_results.json
"""


def make_ground_truth(
    images: Sequence[Sequence[dict]], names: Sequence[str] = NAMES, side: int = 1000
) -> COCO:
    """Create a dataset from the annotations of each image, with ``category_id`` from 1 on."""
    annotations = [
        {"image_id": i, "iscrowd": 0, "area": x["bbox"][2] * x["bbox"][3], **x}
        for i, image in enumerate(images)
        for x in image
    ]
    for number, annotation in enumerate(annotations, start=1):
        annotation["id"] = number
    ground_truth = COCO()
    ground_truth.dataset = {
        "images": [
            {"id": i, "file_name": f"{i}.png", "width": side, "height": side}
            for i in range(len(images))
        ],
        "annotations": annotations,
        "categories": [{"id": i, "name": name} for i, name in enumerate(names, start=1)],
    }
    ground_truth.createIndex()
    return ground_truth


def evaluate_image(annotations: Sequence[dict], detections: Sequence[dict]) -> Evaluation:
    """Evaluate the detections on a single image."""
    return evaluate(make_ground_truth([annotations]), [{"image_id": 0, **x} for x in detections])


def jitter(ground_truth: COCO, seed: int = 0) -> list[dict]:
    """Create detections with mistakes of all kinds."""
    rng = np.random.default_rng(seed)
    categories = list(ground_truth.cats)
    results = []
    for annotation in ground_truth.dataset["annotations"]:
        x, y, w, h = annotation["bbox"]
        for _ in range(rng.choice([0, 1, 2], p=[0.15, 0.6, 0.25])):
            shift = rng.normal(0, rng.choice([0.05, 0.3]), 4) * (w, h, w, h)
            category = annotation["category_id"]
            if rng.random() < 0.15:
                category = int(rng.choice(categories))
            box = [x + shift[0], y + shift[1], max(w + shift[2], 1), max(h + shift[3], 1)]
            box = list(map(float, box))
            result = {"image_id": annotation["image_id"], "category_id": category, "bbox": box}
            results.append({**result, "score": float(rng.random())})
        if rng.random() < 0.2:
            box = rng.uniform(0, 60, 4).tolist()
            result = {"image_id": annotation["image_id"], "category_id": categories[0]}
            results.append({**result, "bbox": box, "score": float(rng.random())})
    return results


def random_images(count: int, seed: int) -> list[list[dict]]:
    """Create annotations of images: objects of both classes and all sizes, and some crowds."""
    rng = np.random.default_rng(seed)
    images = []
    for _ in range(count):
        image = []
        for _ in range(rng.integers(0, 8)):
            side = float(rng.choice([20, 60, 200]))
            x, y = rng.uniform(0, 700, 2).tolist()
            annotation = {"category_id": int(rng.integers(1, 3)), "bbox": [x, y, side, side]}
            image.append({**annotation, "iscrowd": int(rng.random() < 0.1)})
        images.append(image)
    return images


def nasty_case(seed: int) -> tuple[COCO, list[dict]]:
    """Ground truth and detections with what is easily computed differently.

    Crowds, empty images and classes, degenerate boxes, areas at the limits of the sizes, equal
    boxes and scores, IoUs of exactly 0.5, more than 100 detections of a class.
    """
    rng = np.random.default_rng(seed)
    on_grid = seed % 2

    def draw_box() -> list[float]:
        box = rng.integers(0, 9, 4) * 10.0 if on_grid else np.float32(rng.uniform(0, 90, 4))
        return (box * rng.choice([1, 0], 4, p=[0.95, 0.05])).tolist()

    categories = int(rng.integers(2, 5))
    images, results = [], []
    for image in range(8):
        objects = [
            {
                "category_id": int(rng.integers(1, categories)),  # the last one has no objects
                "bbox": draw_box(),
                "area": float(rng.choice([0, 1023.9, 1024, 9216, 9216.1, 500])),
                "iscrowd": int(rng.random() < 0.2),
            }
            for _ in range(rng.choice([0, 3, 8]))
        ]
        images.append(objects)
        for _ in range(rng.choice([0, 10, 300], p=[0.2, 0.7, 0.1])):
            copied = objects and rng.random() < 0.6
            box = objects[rng.integers(len(objects))]["bbox"] if copied else draw_box()
            score = float(rng.choice([0.0, 0.5, 1.0, np.float32(rng.random())]))
            label = int(rng.integers(1, categories + 1))
            box = np.abs(box + rng.choice([0, 2]) * rng.normal(0, 1, 4)).tolist()
            result = {"image_id": image, "category_id": label, "bbox": box, "score": score}
            results.append(result)
    results.append({"image_id": 0, "category_id": 1, "bbox": [5.0, 5.0, 9.0, 9.0], "score": 0.5})
    names = [str(i) for i in range(categories)]
    return make_ground_truth(images, names), results


def write_run(folder: Path, config: Path, dataset: str = "shapes_val") -> None:
    """Write the folder of a run with an evaluation on a registered dataset."""
    cfg = load_config(str(config))
    folder.mkdir()
    (folder / "config.yaml").write_text(cfg.dump())
    lines = [
        {"iteration": i, "total_loss": 9.0 / i, "loss_box": 5.0 / i, "lr": 0.01, "time": 0.5}
        for i in range(1, 9)
    ]
    lines.append({"iteration": 9, "bbox/AP": 12.5, "bbox/AP50": 30.0, "bbox/AP75": float("nan")})
    (folder / "metrics.json").write_text("".join(json.dumps(line) + "\n" for line in lines))
    speed = inference_log(dataset, batches=7, total=0.05, compute=0.04)
    (folder / "log.txt").write_text(LOG + speed)
    file = folder / "inference" / dataset / "coco_instances_results.json"
    file.parent.mkdir(parents=True)
    file.write_text(json.dumps(jitter(COCO(MetadataCatalog.get(dataset).json_file))))


def run_with_report(folder: Path, config: Path) -> Run:
    """Write the folder of a run, and its report."""
    write_run(folder, config)
    run = make_report(folder)
    assert run.code == 0, run.output
    return run
