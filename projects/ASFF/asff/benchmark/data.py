"""Throughput of the training data on one core, and how its time is spent."""

from __future__ import annotations

import math
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from itertools import chain, count, islice
from pathlib import Path

import cv2
import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import transforms as T
from detectron2.structures import BoxMode
from tqdm import tqdm, trange

from ..analysis.timing import summarize
from ..data import build_batch_plan, build_train_dataset, check_input
from ..data.batch_plan import BatchPlan, BatchPlanSampler, SampleSpec
from ..data.datasets import class_count
from ..data.loader import TrainingLoader
from ..data.mapper import SquareMapper
from ..data.training_dataset import TrainingDataset

PHOTOGRAPH, BOXES = (480, 640), 7  # height, width and number of boxes of a typical image of COCO
WARM_UP = 20  # samples that do not count


def measure_data(
    cfg: CfgNode, *, size: int, num_samples: int, num_files: int, quality: int, num_workers: int = 0
) -> list[dict]:
    """Measure reading, mixing, augmenting and resizing generated photographs, on one core.

    Sets the number of threads of OpenCV and PyTorch to one.

    Args:
        cfg: its first phase is measured, with mixup though there are few images.
        size: side of the square in pixels, divisible by 32.
        num_files: photographs to generate.
        quality: of their JPEG compression.
        num_workers: measure a loader with so many workers, too; 0 for none.

    Returns:
        Rows of a table: the CPU time and the elapsed time of a sample, the CPU time of its parts,
        and the elapsed time per sample of the loader. Ratios are to the first.

    Raises:
        ValueError: naming the key, its value and the fix.
    """
    cfg = _first_phase(cfg, size)
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="asff_benchmark_") as folder:
        dataset_dicts = _write_photographs(Path(folder), num_files, quality, class_count(cfg)[1])
        kilobytes = np.mean([Path(x["file_name"]).stat().st_size for x in dataset_dicts]) / 1e3
        batch_plan = build_batch_plan(cfg, dataset_dicts, seed=0)
        dataset = build_train_dataset(cfg, dataset_dicts)
        loader = {}
        if num_workers:  # with a mapper that is not measured yet
            seconds = _time_loader(dataset, batch_plan, num_workers, num_samples)
            loader[f"loader, {num_workers} workers"] = np.full(num_samples, seconds)
        specs = list(islice(chain.from_iterable(map(batch_plan, count())), num_samples))
        times = {**_time_samples(dataset, specs), **loader}
    first = {"total": times["CPU time"]}
    return [
        {
            "name": name,
            "size": size,
            "file_kb": round(kilobytes),
            "samples_per_s": round(1 / seconds.mean(), 1) if seconds.any() else "",
            "stages": summarize({"total": seconds}, first),
        }
        for name, seconds in times.items()
    ]


def _first_phase(cfg: CfgNode, size: int) -> CfgNode:
    """Return a config that stays in its first phase, at one size."""
    if not cfg.INPUT.SQUARE:
        raise ValueError(
            "INPUT.SQUARE is False: Detectron2's own mapper reads the images, and only ours is "
            "measured. Set INPUT.SQUARE to True."
        )
    cfg = cfg.clone()
    cfg.defrost()
    cfg.INPUT.TRAIN_SIZES, cfg.INPUT.FINAL_SIZE = [size], size
    cfg.INPUT.MIXUP.MIN_IMAGES = cfg.INPUT.MIXUP.OFF_ITERS = 0
    cfg.INPUT.MIXUP.OFF_EPOCHS = 0.0
    check_input(cfg)
    return cfg


def _write_photographs(folder: Path, number: int, quality: int, num_classes: int) -> list[dict]:
    """Write JPEGs, and return their dataset dicts."""
    rng = np.random.default_rng(0)
    dataset_dicts = []
    for index in trange(number, desc="writing", unit="image"):
        path = folder / f"{index}.jpg"
        boxes = write_photograph(path, *PHOTOGRAPH, rng=rng, quality=quality)
        classes = [int(rng.integers(num_classes)) for _ in boxes]
        dataset_dicts.append(make_dataset_dict(str(path), index, boxes.tolist(), classes))
    return dataset_dicts


def make_dataset_dict(
    file_name: str, image_id: int, boxes: Sequence[Sequence[float]], classes: Sequence[int]
) -> dict:
    """Make the dataset dict of an image with boxes x, y, w, h in pixels."""
    annotations = [
        {"bbox": box, "bbox_mode": BoxMode.XYWH_ABS, "category_id": category, "iscrowd": 0}
        for box, category in zip(boxes, classes)
    ]
    shape = dict(zip(("height", "width"), PHOTOGRAPH))
    return {"file_name": file_name, **shape, "image_id": image_id, "annotations": annotations}


def write_photograph(
    path: Path, height: int, width: int, *, rng: np.random.Generator, quality: int = 90
) -> np.ndarray:
    """Write a JPEG as hard to decode as a photograph; return boxes (M, 4): x, y, w, h in pixels."""
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width))
    frequency[0, 0] = np.inf  # no mean
    noise = rng.standard_normal((3, height, width))
    # Photographs have amplitudes of about 1 / frequency, and vary more in light than in colour.
    fields = np.fft.irfft2(np.fft.rfft2(noise) / frequency, (height, width))
    light, *colors = fields / fields.std(axis=(1, 2), keepdims=True)
    channels = [light + 0.3 * color for color in (colors[0], colors[1], -colors[0])]
    image = (128 + 45 * np.stack(channels, axis=-1)).clip(0, 255).astype(np.uint8)

    sides = np.array((width, height)) * np.exp(rng.uniform(np.log(0.02), np.log(0.6), (BOXES, 2)))
    corners = rng.uniform(size=(BOXES, 2)) * ((width, height) - sides)
    boxes = np.concatenate([corners, sides], axis=1)
    for x, y, w, h in boxes.round().astype(int).tolist():
        tint = np.uint8(rng.integers(256, size=3))
        image[y : y + h, x : x + w] = image[y : y + h, x : x + w] // 2 + tint // 2
    cv2.imwrite(str(path), image, [cv2.IMWRITE_JPEG_QUALITY, quality])
    return boxes


def _time_samples(dataset: TrainingDataset, specs: Sequence[SampleSpec]) -> dict[str, np.ndarray]:
    """Measure samples.

    Returns:
        Seconds of each sample (samples,): CPU time, elapsed time, and the CPU time of the parts of
        the mapper, longest first, and of the rest.
    """
    seconds: dict[str, float] = defaultdict(float)
    _measure_parts(dataset.mapper, seconds)
    cpu, elapsed, parts = [], [], []
    for spec in tqdm([*specs[:WARM_UP], *specs], desc="measuring", unit="sample"):
        seconds.clear()
        start = time.perf_counter(), time.thread_time()
        dataset[spec]
        elapsed.append(time.perf_counter() - start[0])
        cpu.append(time.thread_time() - start[1])
        parts.append({**seconds, "the rest": cpu[-1] - sum(seconds.values())})
    names = set().union(*parts)
    arrays = {name: np.array([x.get(name, 0.0) for x in parts]) for name in names}
    ordered = dict(sorted(arrays.items(), key=lambda x: -x[1].sum()))
    every = {"CPU time": np.array(cpu), "elapsed time": np.array(elapsed), **ordered}
    return {name: x[-len(specs) :] for name, x in every.items()}


def _measure_parts(mapper: SquareMapper, seconds: dict[str, float]) -> None:
    """Let a mapper add up the CPU time of its parts."""

    def timed(part: str, function: Callable) -> Callable:
        def call(*args: object) -> object:
            start = time.thread_time()
            result = function(*args)
            seconds[part] += time.thread_time() - start
            return result

        return call

    def timed_augmentations(size: int) -> list[Callable]:
        augmentations = SquareMapper.augmentations_for(mapper, size)
        inner = [x.aug if isinstance(x, T.RandomApply) else x for x in augmentations]
        return [timed(type(x).__name__, call) for x, call in zip(inner, augmentations)]

    mapper.read = timed("read and decode", mapper.read)
    mapper.mix_images = timed("mixup", mapper.mix_images)
    mapper.to_tensor = timed("to a tensor", mapper.to_tensor)
    mapper.augmentations_for = timed_augmentations


def _time_loader(
    dataset: TrainingDataset, batch_plan: BatchPlan, num_workers: int, num_samples: int
) -> float:
    """Measure the seconds per sample of a loader."""
    loader = TrainingLoader(dataset, BatchPlanSampler(batch_plan), num_workers=num_workers)
    # Workers take turns: whole rounds are measured, after the batches that they prefetch.
    rounds = math.ceil(num_samples / (batch_plan.batch_size * num_workers))
    batches = iter(loader)
    for _ in range(2 * num_workers):
        next(batches)
    start = time.perf_counter()
    for _ in trange(rounds * num_workers, desc=f"{num_workers} workers", unit="batch"):
        next(batches)
    return (time.perf_counter() - start) / (rounds * num_workers * batch_plan.batch_size)
