"""What data workers hold of a large dataset in their memory."""

from __future__ import annotations

import argparse
import math
import multiprocessing
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from detectron2.data import DatasetFromList
from detectron2.structures import BoxMode
from tabulate import tabulate
from tqdm import tqdm, trange

from ..data.batch_plan import BatchPlan, BatchPlanSampler, Mixup, Sizes
from ..data.loader import TrainingLoader
from ..data.training_dataset import TrainingDataset

BATCH, BOXES = 64, 7
MIB = 2**20


def random_records(number: int) -> Iterator[dict]:
    """Dataset dicts like those of COCO's images."""
    rng = np.random.default_rng(0)
    for index in trange(number, desc="making dataset dicts", unit_scale=True):
        boxes = rng.uniform(1, 300, (BOXES, 4)).tolist()
        yield {
            "file_name": f"datasets/coco/train2017/{index:012d}.jpg",
            "height": 480,
            "width": 640,
            "image_id": index,
            "annotations": [
                {"bbox": x, "bbox_mode": BoxMode.XYWH_ABS, "category_id": i, "iscrowd": 0}
                for i, x in enumerate(boxes)
            ],
        }


def touch(record: dict, other: dict | None, *, weight: float, size: int) -> dict:
    """A mapper that looks at all of a dataset dict, and reads no image."""
    area = sum(x["bbox"][2] * x["bbox"][3] for x in record["annotations"])
    return {"image": area}


def memory(pid: int) -> dict[str, int]:
    """Bytes of a process: ``rss``, ``pss`` (pages divided by those who share them), ``private``."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
    sizes = {key: int(value.split()[0]) * 1024 for key, value in (x.split(":") for x in lines)}
    private = sizes["Private_Clean"] + sizes["Private_Dirty"]
    return {"rss": sizes["Rss"], "pss": sizes["Pss"], "private": private}


def report_memory(args: argparse.Namespace) -> None:
    """Let the workers see every image once, as in an epoch.

    Raises:
        ValueError: this system does not tell the memory of a process.
    """
    if not Path("/proc/self/smaps_rollup").is_file():
        raise ValueError("memory needs Linux's /proc/PID/smaps_rollup, which is not here.")
    before = memory(os.getpid())["private"]
    records = list(random_records(args.images))
    size = memory(os.getpid())["private"] - before
    print(f"A list of {args.images} dataset dicts takes {size / MIB:.0f} MiB of memory.")
    dataset = TrainingDataset(DatasetFromList(records), touch)
    # As in training, where nobody holds it once the dataset is built.
    del records
    serialized = len(dataset.records._lst._lst)
    print(f"Serialised, they take {serialized / MIB:.0f} MiB.")

    stream = BatchPlan(
        np.ones(args.images),
        batch_size=BATCH,
        seed=0,
        sizes=Sizes([416], 10, 416, 416, 0),
        mixup=Mixup(0.0, 1.5, 0),
    )
    batches = iter(TrainingLoader(dataset, BatchPlanSampler(stream), num_workers=args.workers))
    next(batches)
    workers = [process.pid for process in multiprocessing.active_children()]
    start = [memory(pid) for pid in workers]
    for _ in tqdm(range(math.ceil(args.images / BATCH)), desc="an epoch", unit="batch"):
        next(batches)
    rows = [
        (f"worker {i}", *(x / MIB for x in (old["private"], *memory(pid).values())))
        for i, (pid, old) in enumerate(zip(workers, start), start=1)
    ]
    headers = ["MiB", "private at first", "RSS after an epoch", "PSS", "private"]
    print(tabulate(rows, headers, floatfmt=".0f"))
    print("Private is what a worker shares with nobody: a copy of the dataset would be in it.")
