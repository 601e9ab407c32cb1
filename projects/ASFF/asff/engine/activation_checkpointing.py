"""Activation checkpointing: less memory in training, for a second forward pass of each part."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torch.utils.checkpoint import checkpoint

from ..modeling import PyramidFusion
from ..modeling.yolov3.head import YOLOv3HeadLevel

# Detectron2, timm and we build stages and towers of convolutions as Sequential.
_PARTS = (nn.Sequential, PyramidFusion, YOLOv3HeadLevel)


def checkpoint_activations(module: nn.Module) -> None:
    """Let the parts of a model keep only their inputs, and compute the rest again in backward.

    Gradients are the same: random layers draw the same numbers again, and norms do not count a
    batch twice. Evaluation and the keys of the state dict stay as they are.
    """
    for child in module.children():
        if isinstance(child, _PARTS):
            child.forward = partial(_forward, child, child.forward)
        else:
            checkpoint_activations(child)


def _forward(module: nn.Module, forward: Callable, *args: Any) -> Any:
    if not (module.training and torch.is_grad_enabled()):
        return forward(*args)
    contexts = partial(_contexts, module)
    return checkpoint(forward, *args, use_reentrant=False, context_fn=contexts)


def _contexts(module: nn.Module) -> tuple[AbstractContextManager, AbstractContextManager]:
    """Return the contexts of the first and of the second forward pass."""
    return nullcontext(), _keep_statistics(module)


@contextmanager
def _keep_statistics(module: nn.Module) -> Iterator[None]:
    """Leave running statistics as they are: the first forward pass has updated them."""
    norms = [x for x in module.modules() if isinstance(x, _NormBase)]
    states = [(norm.momentum, norm.num_batches_tracked) for norm in norms]
    for norm, (_, num_batches) in zip(norms, states):
        # Norms count into a copy; nn.SyncBatchNorm asserts that there is one.
        norm.momentum = 0.0
        norm.num_batches_tracked = None if num_batches is None else num_batches.clone()
    try:
        yield
    finally:
        for norm, (momentum, num_batches) in zip(norms, states):
            norm.momentum, norm.num_batches_tracked = momentum, num_batches
