"""Checkpoints: Detectron2's checkpointer, made safe and outspoken."""

from __future__ import annotations

import torch
from detectron2.checkpoint import DetectionCheckpointer


class Checkpointer(DetectionCheckpointer):
    """Refuses files of which no tensor fits the model; runs no code from ``.pth`` files."""

    def _torch_load(self, f: str) -> dict:
        return torch.load(f, map_location="cpu", weights_only=True)

    def _load_model(self, checkpoint: dict):
        num_tensors = len(checkpoint["model"])
        incompatible = super()._load_model(checkpoint)
        refused = len(incompatible.unexpected_keys) + len(incompatible.incorrect_shapes)
        if refused >= num_tensors:
            examples = [*incompatible.unexpected_keys, *incompatible.incorrect_shapes][:3]
            raise ValueError(
                f"None of the {num_tensors} tensors in MODEL.WEIGHTS fits the model "
                f"(for example {', '.join(map(str, examples))}). "
                "Use the config the weights were trained with, or other weights."
            )
        return incompatible
