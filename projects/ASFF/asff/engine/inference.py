"""Detectors as evaluation and Predictor run them."""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy, deepcopy
from itertools import groupby

import torch
from detectron2.config import CfgNode
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from ..modeling import fuse_norms, pack_convolutions


class InferenceModel:
    """A copy of a detector, made faster as TEST.FUSE, TEST.DTYPE and TEST.COMPILE say.

    Args:
        model: in any mode. It is left as it is.

    Attributes:
        model: the copy, in evaluation mode. It is not compiled, so that hooks work.
    """

    def __init__(self, cfg: CfgNode, model: nn.Module):
        if isinstance(model, DistributedDataParallel):
            model = model.module
        self.model = fuse_norms(model) if cfg.TEST.FUSE else deepcopy(model).eval()
        self.device_type = torch.device(cfg.MODEL.DEVICE).type
        self.dtype = getattr(torch, cfg.TEST.DTYPE)
        if cfg.TEST.FUSE and self.device_type == "cpu" and not cfg.TEST.COMPILE:
            pack_convolutions(self.model, self.dtype)
        self.forward = compile_network(self.model) if cfg.TEST.COMPILE else self.model

    @torch.inference_mode()
    def __call__(self, inputs: Sequence[dict]) -> list[dict]:
        """Detect as the model does; neighbours of one shape enter the network at once."""
        outputs = []
        with torch.autocast(self.device_type, self.dtype, enabled=self.dtype != torch.float32):
            # Padding an image to the shape of another would change its detections.
            for _, group in groupby(inputs, key=lambda x: x["image"].shape):
                outputs += self.forward(list(group))
        return outputs


def compile_network(model: nn.Module, **options: object) -> nn.Module:
    """Return the model with its backbone and dense head compiled; it shares all weights.

    Args:
        options: of ``torch.compile``.
    """
    compiled = copy(model)
    compiled._modules = {
        name: torch.compile(module, **options) if name in ("backbone", "head") else module
        for name, module in model._modules.items()
    }
    return compiled
