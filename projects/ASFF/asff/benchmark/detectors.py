"""Latency and training steps of detectors, on images that need no dataset."""

from __future__ import annotations

import shlex
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from itertools import product
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import nn

from ..analysis.cost import count_operations
from ..checkpoint import Checkpointer, model_metadata
from ..config_files import find_config_file, load_config
from ..data import read_image
from ..data.datasets import class_count
from ..engine import Trainer
from ..engine.setup import resolve_device, resolve_sync_norm, setup_datasets
from ..modeling import YOLOv3
from .data import PHOTOGRAPH, write_photograph
from .processes import Candidate, Worker, checkout, measure


def measure_detectors(
    task: str,
    config_files: Sequence[str],
    opts: Sequence[str],
    axes: Mapping[str, Sequence],
    *,
    threads: Sequence[int],
    rounds: int,
    variants: Sequence[str] = (),
    exported: Sequence[str] = (),
    weights: str = "",
    objects: int = 0,
    weights_folder: Path | None = None,
    against: str = "",
) -> tuple[list[dict], str]:
    """Measure every config, variant and exported file at every combination of the axes.

    Args:
        task: "model", from the file of an image to its detections; or "train", a training step on
            random images.
        axes: values of the inputs of worker.py: ``size`` (height, width in pixels), ``batch``; or
            ``size``, ``images`` and ``boxes`` of each.
        threads: one more axis.
        rounds: 0 measures nothing.
        variants: KEY VALUE pairs; each config is measured without and with each of them.
        exported: files of other runtimes, which are measured, too.
        weights: checkpoint; by default weights are random; see :func:`randomize`.
        objects: anchors of an image of the first size that random weights take for objects.
        weights_folder: keep the random weights and the images here.
        against: version of the code that the first config is measured with, too, as the first
            candidate; see :func:`checkout`.

    Returns:
        The rows of :func:`measure`, for "model" with parameters and multiply-adds of one image; and
        the device, "cpu" or "cuda".
    """
    with ExitStack() as stack:
        temporary = stack.enter_context(tempfile.TemporaryDirectory(prefix="asff_benchmark_"))
        folder = (weights_folder or Path(temporary)).absolute()
        folder.mkdir(parents=True, exist_ok=True)
        # Configs with INPUT.SQUARE resize the first; others take images of the size.
        for height, width in {PHOTOGRAPH, *axes["size"]}:
            path = folder / f"{height}x{width}.jpg"
            write_photograph(path, height, width, rng=np.random.default_rng(0))
        specs: dict[str, tuple[dict, Path | None, dict]] = {}  # with version and costs by size
        names = name_files(config_files, lambda file: Path(file).stem)
        names |= name_files(exported, lambda file: Path(file).name)
        for file in config_files:
            cfg = load_config(file, opts)
            setup_datasets(cfg, file, [*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST])  # for the classes
            resolve_device(cfg, num_gpus=1)
            resolve_sync_norm(cfg, world_size=1)
            model = Trainer.build_model(cfg)
            name, costs = names[file], {}
            spec = {
                "task": task,
                "config_file": str(Path(find_config_file(file)).absolute()),
                "opts": opts,
                "device": torch.device(cfg.MODEL.DEVICE).type,
                "num_classes": class_count(cfg)[1],
                "folder": str(folder),
                "weights": weights,
            }
            if task == "model":
                sizes = axes["size"]
                costs = {size: _count(model.eval(), *size) for size in sizes}
                if not weights:
                    photograph = folder / f"{_name_size(*PHOTOGRAPH)}.jpg"
                    randomize(model, photograph, sizes[0], objects)
                    path = folder / name.replace("/", "_")
                    spec["weights"] = _save(model, model_metadata(cfg), path)
            if against and not specs:
                code = stack.enter_context(checkout(against))
                specs[f"{name} ({against})"] = spec, code, costs
            for variant in ("", *variants):
                changed = {**spec, "opts": [*opts, *shlex.split(variant)]}
                specs[f"{name} {variant}".strip()] = changed, None, costs
        for file in exported:
            specs[names[file]] = {**spec, "exported": file}, None, {}

        candidates = []
        for count in threads:
            workers = {
                name: stack.enter_context(Worker(spec, threads=count, code=code))
                for name, (spec, code, _) in specs.items()
            }
            for values in product(*axes.values()):
                inputs = dict(zip(axes, values))
                shown = {**inputs, "size": _name_size(*inputs["size"]), "threads": count}
                for name, worker in workers.items():
                    facts = specs[name][2].get(inputs["size"], {})
                    candidates.append(Candidate(name, worker, inputs, shown, facts))
        return measure(candidates, rounds), spec["device"]


def name_files(files: Sequence[str], shorten: Callable[[str], str]) -> dict[str, str]:
    """Return the short name of each file, or its whole path where others have that name, too."""
    counts = Counter(map(shorten, set(files)))
    return {file: shorten(file) if counts[shorten(file)] == 1 else file for file in files}


def _count(model: nn.Module, height: int, width: int) -> dict[str, float]:
    """Count the parameters and the multiply-adds of one image."""
    image = torch.zeros(3, height, width, dtype=torch.uint8)
    cost = count_operations(model, [{"image": image}])
    return {
        "parameters_m": round(cost["parameters"] / 1e6, 2),
        "multiply_adds_g": float(f"{cost['multiply_adds'] / 1e9:.4g}"),
    }


@torch.no_grad()
def randomize(model: nn.Module, file: Path, size: tuple[int, int], objects: int) -> None:
    """Let a YOLOv3 with random weights predict as varied boxes as a trained one.

    Norms get the statistics of an image, resized to a height and width, and of its mirror image;
    the layers of the predictions get a scale and a bias with which ``objects`` anchors of an image
    pass a score threshold of about 0.01. Other detectors stay as they are.
    """
    if not isinstance(model, YOLOv3):
        return
    image = torch.from_numpy(cv2.resize(read_image(file), size[::-1])).permute(2, 0, 1)
    images = model.preprocess_image([{"image": x} for x in (image, image.flip(2))]).tensor
    norms = [x for x in model.modules() if isinstance(x, nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = None  # the mean of all batches, of which there is one
        norm.reset_running_stats()
    model.train()
    model.head(list(model.backbone(images).values()))
    model.eval()
    for norm in norms:
        norm.momentum = 0.1
    predictions = model.head(list(model.backbone(images).values()))
    x = predictions
    logits = torch.cat([x.box_logits, x.obj_logits[..., None], x.cls_logits], dim=-1).flatten(0, 1)
    std, mean = torch.std_mean(logits, dim=0)  # (5 + K,)
    scale = 2 / std
    scale[:4] /= 20
    center = torch.full_like(mean, -3.0)
    center[:4] = 0
    passing = ((logits[:, 4] - mean[4]) * scale[4]).sort(descending=True).values
    center[4] = -4.4 - passing[min(len(images) * objects, len(passing) - 1)]
    for level in model.head.levels:
        predict = level.predict
        weight, bias = (
            x.view(level.num_anchors, len(scale), -1) for x in (predict.weight, predict.bias)
        )
        bias.copy_((center - scale * (mean - bias[..., 0]))[..., None])
        weight.mul_(scale[:, None])


def _save(model: nn.Module, metadata: dict, path: Path) -> str:
    """Save a checkpoint, and return its path."""
    checkpointer = Checkpointer(model, str(path.parent))
    checkpointer.metadata = metadata
    checkpointer.save(path.name)
    return f"{path}.pth"


def _name_size(height: int, width: int) -> int | str:
    return height if height == width else f"{height}x{width}"
