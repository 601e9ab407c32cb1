"""Checkpoints: Detectron2's checkpointer, made safe and outspoken."""

from __future__ import annotations

import torch
from detectron2.checkpoint import DetectionCheckpointer


class Checkpointer(DetectionCheckpointer):
    """Refuses to load what does not fit the model at all, and to save a broken model.

    Runs no code from ``.pth`` files.

    Attributes:
        about: saved with every checkpoint, so that it can be used alone; see about.py.
    """

    about: dict = {}

    def save(self, name: str, **kwargs) -> None:
        """Save as Detectron2 does.

        Raises:
            FloatingPointError: the model holds values that are not finite.
        """
        # A finite loss does not prove it: normalisation divides by a variance that overflowed.
        broken = [
            key for key, value in self.model.state_dict().items() if not value.isfinite().all()
        ]
        if broken:
            raise FloatingPointError(
                f"{name}.pth was not saved: {len(broken)} tensors of the model are not finite "
                f"(for example {', '.join(broken[:3])}). Try a lower SOLVER.BASE_LR."
            )
        super().save(name, **self.about, **kwargs)

    def _load_file(self, filename: str) -> dict:
        try:
            loaded = super()._load_file(filename)
            if not isinstance(loaded["model"], dict):
                raise TypeError("no tensors by name")
        except Exception as error:  # a damaged file raises nearly anything
            reason = f"{type(error).__name__}: {error}".splitlines()[0]
            raise ValueError(
                f"The checkpoint '{filename}' cannot be read. It is damaged, or does not hold "
                f"tensors by name ({reason})."
            ) from error
        return loaded

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
