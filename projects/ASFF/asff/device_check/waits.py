"""Waits of the host for the GPU, which idles meanwhile: a training step may have one."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import repeat
from pathlib import Path

import torch
from detectron2.utils.events import EventStorage

from ..engine import Trainer
from ..engine.train_step import TrainStep
from ..modeling import DropBlock
from .target import STAR, Result, Target


def check_waits(target: Target) -> Iterator[Result]:
    """Count the waits of the network, of losses with their gradient, and of a whole step."""
    batch, (model, cfg) = target.batch(4, 320), target.build(STAR)
    optimizer = Trainer.build_optimizer(cfg, model.train())
    step = TrainStep(model, repeat(batch), optimizer, max_grad_norm=1.0, amp_dtype=torch.float16)
    step.iter = 0
    for layer in model.modules():
        if isinstance(layer, DropBlock):
            layer.block_size = 3
    there = [{**x, **{k: x[k].to(target.device) for k in ("image", "instances")}} for x in batch]
    images = torch.stack([x["image"] for x in there]) / 255.0
    parts: dict[str, tuple[int, Callable[[], object]]] = {
        "network": (0, lambda: model.forward_dense(images)),
        "losses and gradient": (0, lambda: sum(model(there).values()).backward()),
        "training step": (1, step.run_step),
    }
    with EventStorage():
        for name, (limit, run) in parts.items():
            run()
            waits = count_waits(run)
            count = sum(waits.values())
            numbers = f"{count}, at most {limit} allowed; {dict(waits.most_common(8))}"
            passed, numbers = (count <= limit, numbers) if target.on_gpu else (None, "not counted")
            yield Result(f"waits, {name}", passed, numbers)


def count_waits(run: Callable[[], object]) -> Counter[str]:
    """Return how often each line of code, as ``file.py:12``, waits for the GPU.

    Tests have no GPU: that PyTorch reports every wait in this way was not seen there.
    """
    set_mode = torch.cuda.set_sync_debug_mode if torch.cuda.is_available() else lambda mode: None
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        set_mode("warn")
        try:
            run()
        finally:
            set_mode("default")
    waits = [x for x in caught if "called a synchronizing CUDA operation" in str(x.message)]
    return Counter(f"{Path(x.filename).name}:{x.lineno}" for x in waits)
