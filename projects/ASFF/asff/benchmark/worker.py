"""Process that builds one thing to be measured, and runs it once at every request.

It is started as a file (see processes.py), and measures the version of the package that PYTHONPATH
names: it uses only what this version and older ones have in common. Requests and answers are lines
of JSON: the first request says what to build, the others are the inputs of a run.

Shape letters: N images, R all anchors of an image, H, W.
"""

from __future__ import annotations

import sys

sys.path.pop(0)  # the folder of this file, which is not to be imported from

import json
import os
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import torch
from detectron2.structures import Boxes, Instances
from detectron2.utils.events import EventStorage

STATUS, RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")
CUDA = torch.cuda.is_available()


class Clock:
    """Times of the stages of a run."""

    def start(self) -> None:
        self.marks = [("", self._now())]

    def mark(self, stage: str) -> None:
        """End a stage that began with the mark before."""
        self.marks.append((stage, self._now()))

    def stages(self) -> dict[str, float]:
        """Return the seconds of each stage."""
        seconds = defaultdict(float)
        if CUDA:
            torch.cuda.synchronize()
        for (_, start), (stage, end) in zip(self.marks, self.marks[1:]):
            seconds[stage] += start.elapsed_time(end) / 1e3 if CUDA else end - start
        return seconds

    def _now(self) -> float | torch.cuda.Event:
        if not CUDA:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)  # does not wait for the GPU
        event.record()
        return event


def build_model(clock: Clock, spec: dict) -> Callable:
    """Build a :class:`Predictor`, with its own stages in place of the call.

    Args:
        spec: ``config_file``, ``opts`` and ``weights``; or ``exported``, a file of another
            runtime. ``folder`` has a photograph of each size.
    """
    from asff.data import build_pixel_mapper

    if "exported" in spec:
        from asff import OnnxPredictor

        predictor = OnnxPredictor(spec["exported"])
    else:
        from asff import Predictor

        predictor = Predictor(spec["config_file"], spec["weights"], opts=spec["opts"])
    # The model is compiled as a copy.
    run_model = getattr(predictor, "run", None)
    _mark_forward(clock, getattr(run_model, "forward", predictor.model))

    def run(size: list[int], batch: int) -> None:
        height, width = size
        cfg = predictor.cfg.clone()
        cfg.defrost()
        cfg.INPUT.SQUARE = cfg.INPUT.SQUARE and height == width
        cfg.INPUT.TEST_SIZE, cfg.INPUT.MIN_SIZE_TEST = height, 0  # 0: as the image is
        image = f"{spec['folder']}/{'480x640' if cfg.INPUT.SQUARE else f'{height}x{width}'}.jpg"
        map_pixels = build_pixel_mapper(cfg)
        clock.start()
        pixels = [predictor.read(image) for _ in range(batch)]
        clock.mark("read")
        inputs = [map_pixels(x) for x in pixels]
        clock.mark("preprocess")
        predictor.detect(inputs)
        clock.mark("decode, NMS" if "forward" in dict(clock.marks) else "forward, NMS")

    return run


def _mark_forward(clock: Clock, model: object) -> None:
    """End a stage before boxes are decoded, in a detector of Detectron2 or an exported one."""
    if hasattr(model, "forward_inference"):
        forward_inference = model.forward_inference

        def marked(*predictions: object) -> object:
            clock.mark("forward")
            return forward_inference(*predictions)

        model.forward_inference = marked
    elif hasattr(model, "run"):
        run = model.run

        def marked_run(images: torch.Tensor) -> object:
            outputs = run(images)
            clock.mark("forward")
            return outputs

        model.run = marked_run


def build_train(clock: Clock, spec: dict) -> Callable:
    """Build a detector and its training step.

    Args:
        spec: ``config_file``, ``opts`` and ``num_classes``.
    """
    from asff.config_files import load_config
    from asff.engine import Trainer
    from asff.engine.setup import resolve_device, resolve_sync_norm
    from asff.engine.train_step import TrainStep

    cfg = load_config(spec["config_file"], spec["opts"])
    resolve_device(cfg, num_gpus=1)
    resolve_sync_norm(cfg, world_size=1)
    # Older versions have neither keys nor functions.
    if "ACCUM_ITERS" in cfg.SOLVER:
        model, options = Trainer.build_train_model(cfg), {"accum_iters": cfg.SOLVER.ACCUM_ITERS}
    else:
        model, options = Trainer.build_model(cfg), {}
    model.train()
    batch: list[dict] = []
    step = TrainStep(
        model,
        iter(lambda: batch, None),
        Trainer.build_optimizer(cfg, model),
        max_grad_norm=cfg.SOLVER.MAX_GRAD_NORM,
        amp_dtype=getattr(torch, cfg.SOLVER.AMP.DTYPE) if cfg.SOLVER.AMP.ENABLED else None,
        **options,
    )
    step.iter, step.storage = 0, EventStorage().__enter__()
    if hasattr(model, "forward_training"):
        forward_training = model.forward_training

        def marked(*args: object) -> dict:
            clock.mark("forward")
            losses = forward_training(*args)
            clock.mark("targets, losses")
            return losses

        model.forward_training = marked

    def run(images: int, size: list[int], boxes: int) -> None:
        batch[:] = _random_batch(images, size, boxes, spec["num_classes"])
        clock.start()
        step.run_step()
        clock.mark("backward, update" if len(clock.marks) > 1 else "step")
        step.iter += 1

    return run


def _random_batch(images: int, size: list[int], boxes: int, num_classes: int) -> list[dict]:
    """Draw images of noise with boxes of 2 to 50 % of their sides."""
    height, width = size
    sides = torch.tensor([width, height])
    batch = []
    for _ in range(images):
        wh = sides * 0.02 * 25 ** torch.rand(boxes, 2)
        corners = torch.rand(boxes, 2) * (sides - wh)
        instances = Instances((height, width))
        instances.gt_boxes = Boxes(torch.cat([corners, corners + wh], dim=1))
        instances.gt_classes = torch.randint(num_classes, (boxes,))
        image = torch.randint(256, (3, height, width), dtype=torch.uint8)
        batch.append({"image": image, "instances": instances})
    return batch


def build_start(clock: Clock, spec: dict) -> Callable:
    """Build what a training starts with: checks, dataset dicts, loader, first of the batch plan.

    Args:
        spec: ``config_file`` and ``opts``.
    """
    from asff.config_files import load_config
    from asff.data import build_train_loader, check_annotations, load_training_dicts
    from asff.engine.setup import setup_datasets

    cfg = load_config(spec["config_file"], spec["opts"])

    def run(annotations: str, images: str) -> None:
        paths = {"annotations": annotations, "images": images}
        cfg.DATASETS.CUSTOM = [{"name": "generated", "format": "coco", **paths}]
        cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = ("generated",), ()
        clock.start()
        setup_datasets(cfg, "", cfg.DATASETS.TRAIN)
        check_annotations(cfg.DATASETS.TRAIN, "DATASETS.TRAIN")
        clock.mark("check")
        dataset_dicts = load_training_dicts(cfg)
        clock.mark("load")
        loader = build_train_loader(cfg, dataset_dicts, seed=0)
        next(iter(loader.sampler))
        clock.mark("build the loader")

    return run


def _resident(key: str) -> int | None:
    """Return VmRSS (now) or VmHWM (at most since the reset) in bytes; None where there is none."""
    if not STATUS.is_file():
        return None
    lines = dict(line.split(":", 1) for line in STATUS.read_text().splitlines())
    return 1024 * int(lines[key].split()[0])


def _run(clock: Clock, run: Callable, inputs: dict, at_start: int | None) -> dict:
    """Run once; return the seconds of the stages, and the peak of memory since the start."""
    if CUDA:
        torch.cuda.reset_peak_memory_stats()
    elif at_start is not None:
        RESET.write_text("5")  # resets VmHWM
    run(**inputs)
    stages = clock.stages()
    if CUDA:
        return {"stages": stages, "memory": torch.cuda.max_memory_allocated()}
    peak = _resident("VmHWM")
    return {"stages": stages, "memory": None if peak is None else peak - at_start}


def main() -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what others print must not get among the answers

    def answer(content: dict) -> None:
        print(json.dumps(content), file=answers, flush=True)

    spec, clock = json.loads(sys.stdin.readline()), Clock()
    torch.set_num_threads(spec["threads"])
    torch.manual_seed(0)
    import asff.engine  # noqa: F401 (most of what is loaded, before memory is measured)

    try:
        at_start = _resident("VmRSS")
        build = {"model": build_model, "train": build_train, "start": build_start}[spec["task"]]
        run = build(clock, spec)
        answer({})
        for line in sys.stdin:
            answer(_run(clock, run, json.loads(line), at_start))
    except ValueError as error:
        answer({"error": str(error)})


if __name__ == "__main__":
    main()
