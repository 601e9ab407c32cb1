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
from tabulate import tabulate
from tqdm import tqdm, trange

from ..data import build_batch_plan, build_train_dataset, check_input
from ..data.batch_plan import BatchPlan, BatchPlanSampler, SampleSpec
from ..data.datasets import class_count
from ..data.loader import TrainingLoader
from ..data.mapper import SquareMapper
from ..data.training_dataset import TrainingDataset

HEIGHT, WIDTH, BOXES = 480, 640, 7  # of a typical image of COCO
WARM_UP = 20  # samples that do not count


def measure_data(
    cfg: CfgNode, *, size: int, num_samples: int, num_files: int, quality: int, num_workers: int = 0
) -> str:
    """Measure reading, mixing, augmenting and resizing generated photographs, on one core.

    Sets the number of threads of OpenCV and PyTorch to one.

    Args:
        cfg: its first phase is measured, with mixup though there are few images.
        size: side of the square in pixels, divisible by 32.
        num_files: photographs to generate.
        quality: of their JPEG compression.
        num_workers: measure a loader with so many workers, too; 0 for none.

    Returns:
        Sentences, a table of the time of samples, and one of the CPU time of its parts.

    Raises:
        ValueError: naming the key, its value and the fix.
    """
    cfg = _first_phase(cfg, size)
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="asff_benchmark_") as folder:
        dataset_dicts = _write_photographs(Path(folder), num_files, quality, class_count(cfg)[1])
        files = [Path(x["file_name"]) for x in dataset_dicts]
        file_size = np.mean([file.stat().st_size for file in files])
        decoding = np.median([_decoding_time(file) for file in files])
        batch_plan = build_batch_plan(cfg, dataset_dicts, seed=0)
        dataset = build_train_dataset(cfg, dataset_dicts)
        specs = list(islice(chain.from_iterable(map(batch_plan, count())), num_samples))
        _time_samples(dataset, specs[:WARM_UP], "warming up")
        speed = _format_times(*_time_samples(dataset, specs, "timing"))
        loader = ""
        if num_workers:
            per_second = _loader_speed(dataset, batch_plan, num_workers, num_samples)
            loader = f"\nLoader, workers: {num_workers}: {per_second:.1f} samples/s."
        parts = _profile(dataset, specs)
    return (
        f"{num_samples} samples of {size} pixels from {num_files} JPEGs of {WIDTH}x{HEIGHT} pixels "
        f"and {file_size / 1e3:.0f} kB.\n\n{speed}\n\n{parts}\n\n"
        f"Decoding one JPEG takes {1e3 * decoding:.1f} ms of CPU time in the median.{loader}"
    )


def _format_times(wall: np.ndarray, cpu: np.ndarray) -> str:
    """Format the seconds of samples as a table."""
    rows = [
        (name, 1 / x.mean(), *(1e3 * y for y in (x.mean(), *np.percentile(x, (50, 90)))))
        for name, x in (("elapsed time", wall), ("CPU time", cpu))
    ]
    headers = ["one core", "samples/s", "mean (ms)", "median (ms)", "90th percentile (ms)"]
    return tabulate(rows, headers, floatfmt=".1f")


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
        path = str(folder / f"{index}.jpg")
        image, boxes = _draw_photograph(rng)
        cv2.imwrite(path, image, [cv2.IMWRITE_JPEG_QUALITY, quality])
        classes = [int(rng.integers(num_classes)) for _ in boxes]
        dataset_dicts.append(make_dataset_dict(path, index, boxes.tolist(), classes))
    return dataset_dicts


def make_dataset_dict(
    file_name: str, image_id: int, boxes: Sequence[Sequence[float]], classes: Sequence[int]
) -> dict:
    """Make the dataset dict of an image with boxes x, y, w, h in pixels."""
    annotations = [
        {"bbox": box, "bbox_mode": BoxMode.XYWH_ABS, "category_id": category, "iscrowd": 0}
        for box, category in zip(boxes, classes)
    ]
    shape = {"height": HEIGHT, "width": WIDTH}
    return {"file_name": file_name, **shape, "image_id": image_id, "annotations": annotations}


def _draw_photograph(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Draw an image (H, W, 3) as hard to decode as a photograph, and boxes (M, 4): x, y, w, h."""
    frequency = np.hypot(np.fft.fftfreq(HEIGHT)[:, None], np.fft.rfftfreq(WIDTH))
    frequency[0, 0] = np.inf  # no mean
    noise = rng.standard_normal((3, HEIGHT, WIDTH))
    # Photographs have amplitudes of about 1 / frequency, and vary more in light than in colour.
    fields = np.fft.irfft2(np.fft.rfft2(noise) / frequency, (HEIGHT, WIDTH))
    light, *colors = fields / fields.std(axis=(1, 2), keepdims=True)
    channels = [light + 0.3 * color for color in (colors[0], colors[1], -colors[0])]
    image = (128 + 45 * np.stack(channels, axis=-1)).clip(0, 255).astype(np.uint8)

    sides = np.exp(rng.uniform(np.log(12), np.log(320), (BOXES, 2)))
    corners = rng.uniform(size=(BOXES, 2)) * ((WIDTH, HEIGHT) - sides)
    boxes = np.concatenate([corners, sides], axis=1)
    for x, y, w, h in boxes.round().astype(int).tolist():
        tint = np.uint8(rng.integers(256, size=3))
        image[y : y + h, x : x + w] = image[y : y + h, x : x + w] // 2 + tint // 2
    return image, boxes


def _time_samples(
    dataset: TrainingDataset, specs: Sequence[SampleSpec], description: str
) -> tuple[np.ndarray, np.ndarray]:
    """Measure the elapsed and the CPU time of each sample."""
    times = []
    for spec in tqdm(specs, desc=description, unit="sample"):
        start = time.perf_counter(), time.thread_time()
        dataset[spec]
        times.append((time.perf_counter() - start[0], time.thread_time() - start[1]))
    wall, cpu = np.array(times).T
    return wall, cpu


def _profile(dataset: TrainingDataset, specs: Sequence[SampleSpec]) -> str:
    """Tabulate the CPU time per sample of the parts of the mapper, longest first, and of the rest.

    The mapper is measured from here on: it is slower than before.
    """
    seconds = _measure_parts(dataset.mapper)
    _, cpu = _time_samples(dataset, specs, "profiling")
    parts = sorted(seconds.items(), key=lambda part: -part[1])
    parts.append(("the rest", cpu.sum() - sum(seconds.values())))
    rows = [(name, f"{1e3 * x / len(cpu):.2f}", f"{x / cpu.sum():.1%}") for name, x in parts]
    headers = ["part", "ms of CPU time per sample", "share"]
    return tabulate(rows, headers, disable_numparse=True, colalign=("left", "right", "right"))


def _measure_parts(mapper: SquareMapper) -> dict[str, float]:
    """Let a mapper add up the CPU time of its parts in the returned dict."""
    seconds: dict[str, float] = defaultdict(float)

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
    return seconds


def _decoding_time(file: Path) -> float:
    """Measure the CPU time of decoding a file alone."""
    data = np.fromfile(file, np.uint8)
    start = time.thread_time()
    cv2.imdecode(data, cv2.IMREAD_COLOR)
    return time.thread_time() - start


def _loader_speed(
    dataset: TrainingDataset, batch_plan: BatchPlan, num_workers: int, num_samples: int
) -> float:
    """Measure the samples per second of a loader with so many workers."""
    loader = TrainingLoader(dataset, BatchPlanSampler(batch_plan), num_workers=num_workers)
    # Workers take turns: whole rounds are measured, after the batches that they prefetch.
    rounds = math.ceil(num_samples / (batch_plan.batch_size * num_workers))
    batches = iter(loader)
    for _ in range(2 * num_workers):
        next(batches)
    start = time.perf_counter()
    for _ in trange(rounds * num_workers, desc=f"{num_workers} workers", unit="batch"):
        next(batches)
    return rounds * num_workers * batch_plan.batch_size / (time.perf_counter() - start)
