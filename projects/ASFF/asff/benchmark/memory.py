"""Memory that data workers need for a large dataset."""

from __future__ import annotations

import math
import multiprocessing
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from detectron2.data import DatasetFromList
from tabulate import tabulate
from tqdm import tqdm, trange

from ..data.batch_plan import BatchPlan, BatchPlanSampler, MixupSchedule, SizeSchedule
from ..data.loader import TrainingLoader
from ..data.training_dataset import TrainingDataset
from .data import BOXES, make_dataset_dict

BATCH = 64
MIB = 2**20


def measure_memory(num_images: int, num_workers: int) -> str:
    """Measure the memory of data workers over an epoch of generated dataset dicts.

    Returns:
        Sentences, and a table with a row for each worker: private memory at first, and after the
        epoch RSS, PSS (shared pages divided by the number of processes that share them) and
        private memory.

    Raises:
        ValueError: the operating system does not tell the memory of a process.
    """
    if not Path("/proc/self/smaps_rollup").is_file():
        raise ValueError("memory needs Linux's /proc/PID/smaps_rollup, which is not here.")
    before = _read_memory(os.getpid())["private"]
    dataset_dicts = list(_generate_dicts(num_images))
    dict_list = _read_memory(os.getpid())["private"] - before
    dataset = TrainingDataset(DatasetFromList(dataset_dicts), _touch)
    del dataset_dicts  # as in training, where nothing refers to the list any more
    serialized = len(dataset.dataset_dicts._lst._lst)

    batches = iter(_build_loader(dataset, num_workers))
    next(batches)
    pids = [process.pid for process in multiprocessing.active_children()]
    at_first = [_read_memory(pid)["private"] for pid in pids]
    for _ in tqdm(range(math.ceil(num_images / BATCH)), desc="an epoch", unit="batch"):
        next(batches)
    rows = [
        (f"worker {number}", *(size / MIB for size in (private, *_read_memory(pid).values())))
        for number, (pid, private) in enumerate(zip(pids, at_first), start=1)
    ]
    headers = ["MiB", "private at first", "RSS after an epoch", "PSS", "private"]
    return (
        f"A list of {num_images} dataset dicts takes {dict_list / MIB:.0f} MiB of memory, "
        f"serialized {serialized / MIB:.0f} MiB.\n{tabulate(rows, headers, floatfmt='.0f')}\n"
        "Private memory is shared with no other process: a copy of the dataset would be in it."
    )


def _generate_dicts(number: int) -> Iterator[dict]:
    """Generate dataset dicts of the size of COCO's."""
    rng = np.random.default_rng(0)
    for index in trange(number, desc="generating dataset dicts", unit_scale=True):
        boxes = rng.uniform(1, 300, (BOXES, 4)).tolist()
        file_name = f"datasets/coco/train2017/{index:012d}.jpg"
        yield make_dataset_dict(file_name, index, boxes, range(BOXES))


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
    """Read the ``rss``, ``pss`` and ``private`` bytes of a process."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
    sizes = {key: int(value.split()[0]) * 1024 for key, value in (x.split(":") for x in lines)}
    private = sizes["Private_Clean"] + sizes["Private_Dirty"]
    return {"rss": sizes["Rss"], "pss": sizes["Pss"], "private": private}
