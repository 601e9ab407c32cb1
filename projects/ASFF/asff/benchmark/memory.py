"""Memory and start-up time that a large dataset needs."""

from __future__ import annotations

import json
import math
import multiprocessing
import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

import numpy as np
from detectron2.data import DatasetFromList
from tqdm import tqdm, trange

from ..data.batch_plan import BatchPlan, BatchPlanSampler, MixupSchedule, SizeSchedule
from ..data.loader import TrainingLoader
from ..data.training_dataset import TrainingDataset
from .data import BOXES, make_dataset_dict
from .processes import Candidate, Worker, measure

BATCH = 64
MIB = 2**20


def measure_start(
    config_file: str, opts: Sequence[str], num_images: Sequence[int], num_boxes: int
) -> list[dict]:
    """Measure the start of a training, once for each size of a generated COCO file.

    The stages are the checks, loading of the dataset dicts, and building of the loader with the
    first entry of the batch plan; no image is read.

    Args:
        num_boxes: of each image.

    Returns:
        Rows of :func:`measure`.
    """
    # No GPU takes part in it; where there is one, its memory would be reported.
    spec = {"task": "start", "config_file": config_file, "opts": list(opts), "device": "cpu"}
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="asff_benchmark_"))
        candidates = []
        for number in num_images:
            annotations = Path(folder, f"{number}.json")
            _write_coco(annotations, number, num_boxes)
            worker = stack.enter_context(Worker(spec, threads=1))
            inputs = {"annotations": str(annotations), "images": folder}
            axes = {"dataset_images": number, "boxes": num_boxes}
            candidates.append(Candidate("start", worker, inputs, axes))
        return measure(candidates, rounds=1, warm_up=0)


def _write_coco(file: Path, num_images: int, num_boxes: int) -> None:
    """Write a COCO file whose images are all one file, which is empty: none is opened."""
    file.with_name("image.jpg").touch()
    images, annotations = [], []
    for x in _generate_dicts(num_images, num_boxes):
        for y in x.pop("annotations"):
            y = {**y, "id": len(annotations) + 1, "image_id": x["image_id"], "area": 1.0}
            del y["bbox_mode"]
            annotations.append(y)
        images.append({**x, "id": x.pop("image_id"), "file_name": "image.jpg"})
    categories = [{"id": i, "name": f"class {i}"} for i in range(1, 81)]
    content = {"images": images, "annotations": annotations, "categories": categories}
    file.write_text(json.dumps(content))


def measure_memory(num_images: int, num_workers: int) -> list[dict]:
    """Measure the memory of data workers over an epoch of generated dataset dicts.

    Returns:
        Rows: the list of dataset dicts, as a list and serialized; each worker with its private
        memory at first, and after the epoch RSS, PSS (shared pages divided by the number of
        processes that share them) and private memory, which is shared with no other process: a copy
        of the dataset would be in it.

    Raises:
        ValueError: the operating system does not tell the memory of a process.
    """
    if not Path("/proc/self/smaps_rollup").is_file():
        raise ValueError("memory needs Linux's /proc/PID/smaps_rollup, which is not here.")
    before = _read_memory(os.getpid())["private_mib"]
    dataset_dicts = list(_generate_dicts(num_images, BOXES))
    dict_list = _read_memory(os.getpid())["private_mib"] - before
    dataset = TrainingDataset(DatasetFromList(dataset_dicts), _touch)
    del dataset_dicts  # as in training, where nothing refers to the list any more
    serialized = round(len(dataset.dataset_dicts._lst._lst) / MIB)

    batches = iter(_build_loader(dataset, num_workers))
    next(batches)
    pids = [process.pid for process in multiprocessing.active_children()]
    at_first = [_read_memory(pid)["private_mib"] for pid in pids]
    for _ in tqdm(range(math.ceil(num_images / BATCH)), desc="an epoch", unit="batch"):
        next(batches)
    sizes = {"list_mib": round(dict_list), "serialized_mib": serialized}
    rows = [{"name": "dataset", "images": num_images, **sizes, "stages": {}}]
    for number, (pid, private) in enumerate(zip(pids, at_first), start=1):
        memory = {"private_at_first_mib": private, **_read_memory(pid)}
        rows.append({"name": f"worker {number}", "images": num_images, **memory, "stages": {}})
    return rows


def _generate_dicts(num_images: int, num_boxes: int) -> Iterator[dict]:
    """Generate dataset dicts of the size of COCO's."""
    rng = np.random.default_rng(0)
    for index in trange(num_images, desc="generating dataset dicts", unit_scale=True):
        boxes = rng.uniform(1, 300, (num_boxes, 4)).tolist()
        file_name = f"datasets/coco/train2017/{index:012d}.jpg"
        yield make_dataset_dict(file_name, index, boxes, range(1, num_boxes + 1))


def _touch(dataset_dict: dict, other: dict | None, *, weight: float, size: int) -> dict:
    """Read all of a dataset dict, in place of a mapper; there are no images."""
    area = sum(x["bbox"][2] * x["bbox"][3] for x in dataset_dict["annotations"])
    return {"image": area}


def _build_loader(dataset: TrainingDataset, num_workers: int) -> TrainingLoader:
    batch_plan = BatchPlan(
        np.ones(len(dataset)),
        batch_size=BATCH,
        seed=0,
        sizes=SizeSchedule([416], period=10, first=416, final=416, final_start=0),
        mixup=MixupSchedule(prob=0.0, alpha=1.5, end=0),
    )
    return TrainingLoader(dataset, BatchPlanSampler(batch_plan), num_workers=num_workers)


def _read_memory(pid: int) -> dict[str, int]:
    """Read RSS, PSS and private memory of a process in MiB."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
    sizes = {key: int(value.split()[0]) / 1024 for key, value in (x.split(":") for x in lines)}
    private = sizes["Private_Clean"] + sizes["Private_Dirty"]
    memory = {"rss_mib": sizes["Rss"], "pss_mib": sizes["Pss"], "private_mib": private}
    return {key: round(x, 1) for key, x in memory.items()}
