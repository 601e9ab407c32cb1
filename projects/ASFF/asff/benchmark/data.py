"""How many training samples a core makes in a second, and where the time goes."""

from __future__ import annotations

import argparse
import math
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import chain, count, islice
from pathlib import Path
from unittest import mock

import cv2
import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import transforms as T
from detectron2.structures import BoxMode
from tabulate import tabulate
from tqdm import tqdm, trange

from ..data import build_batch_plan, build_train_dataset, check_input, mapper
from ..data.augmentation import ResizeLongestEdge, ResizeSquare
from ..data.batch_plan import BatchPlan, BatchPlanSampler, Sample
from ..data.datasets import class_count
from ..data.loader import TrainingLoader
from ..data.training_dataset import TrainingDataset
from ..engine.setup import load_config

HEIGHT, WIDTH, BOXES = 480, 640, 7  # of a typical image of COCO
WARM_UP = 20  # samples that do not count


def photograph(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """An image (H, W, 3) as hard to decode as a photograph, and boxes (M, 4): x, y, w, h."""
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


def write_photographs(folder: Path, number: int, quality: int, num_classes: int) -> list[dict]:
    """Write JPEGs, and return their dataset dicts."""
    rng = np.random.default_rng(0)
    records = []
    for index in trange(number, desc="writing", unit="image"):
        path = str(folder / f"{index}.jpg")
        image, boxes = photograph(rng)
        cv2.imwrite(path, image, [cv2.IMWRITE_JPEG_QUALITY, quality])
        annotations = [
            {
                "bbox": box,
                "bbox_mode": BoxMode.XYWH_ABS,
                "category_id": int(rng.integers(num_classes)),
                "iscrowd": 0,
            }
            for box in boxes.tolist()
        ]
        size = {"height": HEIGHT, "width": WIDTH}
        records.append({"file_name": path, "image_id": index, **size, "annotations": annotations})
    return records


def read_config(args: argparse.Namespace) -> CfgNode:
    """The config's first phase at one size: with mixup, though there are few images.

    Raises:
        ValueError: naming the key or option, its value, and the fix.
    """
    cfg = load_config(args.config_file, args.opts)
    if not cfg.INPUT.SQUARE:
        raise ValueError(
            "INPUT.SQUARE is False: Detectron2's own mapper reads the images, and only ours is "
            "measured. Set INPUT.SQUARE to True."
        )
    cfg.INPUT.TRAIN_SIZES, cfg.INPUT.FINAL_SIZE = [args.size], args.size
    cfg.INPUT.MIXUP.MIN_IMAGES = cfg.INPUT.MIXUP.OFF_ITERS = 0
    cfg.INPUT.MIXUP.OFF_EPOCHS = 0.0
    check_input(cfg)
    return cfg


def time_samples(
    dataset: TrainingDataset, samples: Sequence[Sample], description: str
) -> tuple[np.ndarray, np.ndarray]:
    """Seconds of each sample by the clock and of CPU time."""
    times = []
    for sample in tqdm(samples, desc=description, unit="sample"):
        start = time.perf_counter(), time.thread_time()
        dataset[sample]
        times.append((time.perf_counter() - start[0], time.thread_time() - start[1]))
    wall, cpu = np.array(times).T
    return wall, cpu


@contextmanager
def stopwatches(square_mapper: mapper.SquareMapper) -> Iterator[dict[str, float]]:
    """Seconds of CPU time by part of the mapper, counted while this is open."""
    places = {
        "read and decode": (square_mapper, "read"),
        "mixup": (mapper, "mix_images"),
        "to a tensor": (mapper, "to_tensor"),
    }
    for augmentation in square_mapper.augmentations:
        inner = augmentation.aug if isinstance(augmentation, T.RandomApply) else augmentation
        places[type(inner).__name__] = (type(inner), "__call__")
    for kind in (ResizeLongestEdge, ResizeSquare):
        places[kind.__name__] = (kind, "__call__")
    seconds = dict.fromkeys(places, 0.0)

    def timed(part: str, function: Callable) -> Callable:
        def call(*args: object, **kwargs: object) -> object:
            start = time.thread_time()
            result = function(*args, **kwargs)
            seconds[part] += time.thread_time() - start
            return result

        return call

    with ExitStack() as stack:
        for part, (owner, name) in places.items():
            watched = timed(part, getattr(owner, name))
            stack.enter_context(mock.patch.object(owner, name, watched))
        yield seconds


def decoding_time(records: Sequence[dict]) -> float:
    """Seconds of CPU time that decoding an image takes alone, in the median."""
    times = []
    for record in records:
        data = np.fromfile(record["file_name"], np.uint8)
        start = time.thread_time()
        cv2.imdecode(data, cv2.IMREAD_COLOR)
        times.append(time.thread_time() - start)
    return float(np.median(times))


def loader_speed(
    dataset: TrainingDataset, stream: BatchPlan, workers: int, num_samples: int
) -> float:
    """Samples a second by the clock that come from a loader with so many workers."""
    loader = TrainingLoader(dataset, BatchPlanSampler(stream), num_workers=workers)
    # Workers take turns: whole rounds are measured, once what they prefetch has come.
    warm_up = 2 * workers
    rounds = math.ceil(num_samples / (stream.batch_size * workers))
    batches = iter(loader)
    for _ in range(warm_up):
        next(batches)
    start = time.perf_counter()
    for _ in trange(rounds * workers, desc=f"{workers} workers", unit="batch"):
        next(batches)
    return rounds * workers * stream.batch_size / (time.perf_counter() - start)


def speed_table(wall: np.ndarray, cpu: np.ndarray) -> str:
    rows = [
        (name, 1 / x.mean(), *(1e3 * y for y in (x.mean(), *np.percentile(x, (50, 90)))))
        for name, x in (("by the clock", wall), ("CPU time", cpu))
    ]
    headers = ["one core", "samples/s", "mean (ms)", "median (ms)", "90th percentile (ms)"]
    return tabulate(rows, headers, floatfmt=".1f")


def profile_table(seconds: dict[str, float], cpu: np.ndarray) -> str:
    """What the parts take of the CPU time of all samples, and what is left."""
    rest = {"the rest": cpu.sum() - sum(seconds.values())}
    parts = sorted(seconds.items(), key=lambda part: -part[1])
    rows = [
        (name, f"{1e3 * x / len(cpu):.2f}", f"{x / cpu.sum():.1%}")
        for name, x in (*parts, *rest.items())
    ]
    headers = ["part", "ms of CPU time a sample", "share"]
    return tabulate(rows, headers, disable_numparse=True, colalign=("left", "right", "right"))


def report_data(args: argparse.Namespace) -> None:
    cfg = read_config(args)
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="asff_benchmark_") as folder:
        records = write_photographs(Path(folder), args.files, args.quality, class_count(cfg)[1])
        stream = build_batch_plan(cfg, records, seed=0)
        dataset = build_train_dataset(cfg, records)
        batches = map(stream, count())
        samples = list(islice(chain.from_iterable(batches), args.samples))
        time_samples(dataset, samples[:WARM_UP], "warming up")
        wall, cpu = time_samples(dataset, samples, "timing")
        with stopwatches(dataset.mapper) as seconds:
            _, profiled_cpu = time_samples(dataset, samples, "profiling")
        kilobytes = np.mean([Path(x["file_name"]).stat().st_size for x in records]) / 1e3
        decoding = 1e3 * decoding_time(records)
        print(
            f"{args.config_file}: {args.samples} samples of {args.size} pixels from {args.files} "
            f"JPEGs of {WIDTH}x{HEIGHT} pixels and {kilobytes:.0f} kB."
        )
        print(f"\n{speed_table(wall, cpu)}\n\n{profile_table(seconds, profiled_cpu)}\n")
        print(f"Decoding one JPEG takes {decoding:.1f} ms of CPU time in the median.")
        if args.workers:
            speed = loader_speed(dataset, stream, args.workers, args.samples)
            print(f"Loader, workers: {args.workers}: {speed:.1f} samples/s by the clock.")
