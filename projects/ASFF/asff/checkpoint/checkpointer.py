"""Detectron2's checkpointer, safe for files of unknown origin."""

from __future__ import annotations

import torch
from detectron2.checkpoint import DetectionCheckpointer

from .mismatch import Mismatch
from .pickles import UnsafePickle, read_pickle


class Checkpointer(DetectionCheckpointer):
    """Checkpointer that refuses weights of which none fits, and to save a model that is not finite.

    It runs no code from the files that it loads.

    Attributes:
        metadata: saved with every checkpoint; see :func:`model_metadata`.
    """

    metadata: dict = {}

    def save(self, name: str, **kwargs) -> None:
        """Save as Detectron2 does.

        Raises:
            FloatingPointError: the model holds values that are not finite.
        """
        # A finite loss does not prove it: batch norm divides by its variance, which may overflow.
        broken = [
            key for key, value in self.model.state_dict().items() if not value.isfinite().all()
        ]
        if broken:
            raise FloatingPointError(
                f"{name}.pth was not saved: {len(broken)} tensors of the model are not finite "
                f"(for example {', '.join(broken[:3])}). Try a lower SOLVER.BASE_LR."
            )
        super().save(name, **self.metadata, **kwargs)

    def _load_file(self, filename: str) -> dict:
        try:
            loaded = self._read_file(filename)
            if not isinstance(loaded["model"], dict):
                raise TypeError("no tensors by name")
            self._convert_ndarray_to_tensor(loaded["model"])
        except UnsafePickle:
            raise
        except Exception as error:  # a damaged file raises nearly anything
            reason = f"{type(error).__name__}: {error}".splitlines()[0]
            raise ValueError(
                f"The checkpoint '{filename}' cannot be read. It is damaged, or does not hold "
                f"tensors by name ({reason})."
            ) from error
        return loaded

    def _read_file(self, filename: str) -> dict:
        """Read a file as Detectron2's ``_load_file`` does, without running code from it."""
        if filename.endswith(".pkl"):
            return _from_model_zoo(read_pickle(filename))
        if filename.endswith(".pyth"):
            return _from_pycls(self._torch_load(filename))
        return super()._load_file(filename)

    def _torch_load(self, f: str) -> dict:
        return torch.load(f, map_location="cpu", weights_only=True)

    def _load_model(self, checkpoint: dict):
        num_tensors = len(checkpoint["model"])
        incompatible = super()._load_model(checkpoint)
        refused = len(incompatible.unexpected_keys) + len(incompatible.incorrect_shapes)
        if refused >= num_tensors:
            difference = Mismatch((), incompatible.unexpected_keys, incompatible.incorrect_shapes)
            raise ValueError(
                f"None of the {num_tensors} tensors in MODEL.WEIGHTS fits the model: {difference}. "
                "Use the config the weights were trained with, or other weights."
            )
        return incompatible


def _from_model_zoo(content: dict) -> dict:
    """Convert the content of a ``.pkl`` file of Detectron2, or of Caffe2 and Detectron."""
    if "model" in content and "__author__" in content:
        return content
    tensors = content.get("blobs", content)  # "blobs" in detectors
    tensors = {key: x for key, x in tensors.items() if not key.endswith("_momentum")}
    return {"model": tensors, "__author__": "Caffe2", "matching_heuristics": True}


def _from_pycls(content: dict) -> dict:
    """Convert the content of a ``.pyth`` file of pycls."""
    tensors = content["model_state"].items()
    tensors = {key: x for key, x in tensors if not key.endswith("num_batches_tracked")}
    return {"model": tensors, "__author__": "pycls", "matching_heuristics": True}
