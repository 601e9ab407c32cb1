"""Detectron2's checkpointer, safe for files of unknown origin."""

from __future__ import annotations

from pathlib import Path

import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.utils import comm

from .files import is_whole, load_file, write_atomically
from .mismatch import Mismatch
from .pickles import UnsafePickle, read_pickle


class Checkpointer(DetectionCheckpointer):
    """Checkpointer that refuses weights of which none fits, and to save a model that is not finite.

    It runs no code from the files that it loads, and a file that it writes appears once it is whole
    and on disk.

    Attributes:
        metadata: saved with every checkpoint; see :func:`model_metadata`.
    """

    metadata: dict = {}
    _resumes = False

    def save(self, name: str, **kwargs) -> None:
        """Save as Detectron2 does, but atomically.

        Raises:
            FloatingPointError: the model holds values that are not finite.
            OSError: the file cannot be written.
        """
        if not (self.save_dir and self.save_to_disk):
            return
        tensors = self.model.state_dict()
        # A finite loss does not prove it: batch norm divides by its variance, which may overflow.
        broken = [key for key, value in tensors.items() if not value.isfinite().all()]
        if broken:
            raise FloatingPointError(
                f"{name}.pth was not saved: {len(broken)} tensors of the model are not finite "
                f"(for example {', '.join(broken[:3])}). Try a lower SOLVER.BASE_LR."
            )
        states = {key: value.state_dict() for key, value in self.checkpointables.items()}
        file = Path(self.save_dir, f"{name}.pth")
        self.logger.info(f"Saving checkpoint to {file}")
        with write_atomically(file) as opened:
            torch.save({"model": tensors, **states, **self.metadata, **kwargs}, opened)
        self.tag_last_checkpoint(file.name)

    def tag_last_checkpoint(self, last_filename_basename: str) -> None:
        """Let ``last_checkpoint`` name a file."""
        with write_atomically(Path(self.save_dir, "last_checkpoint")) as file:
            file.write(last_filename_basename.encode())

    def resume_or_load(self, path: str, *, resume: bool = True) -> dict:
        """Resume from the newest whole checkpoint, or load ``path`` where there is none.

        Raises:
            ValueError: no checkpoint is whole though one was saved, or its model is another one.
        """
        if resume:
            if comm.is_main_process():
                self._repair_last_checkpoint()
            comm.synchronize()
        self._resumes = resume and self.has_checkpoint()
        rest = super().resume_or_load(path, resume=resume)
        self._resumes = False
        return rest

    def _repair_last_checkpoint(self) -> None:
        """Let ``last_checkpoint`` name the newest whole checkpoint, if what it names is damaged."""
        last = Path(self.save_dir, "last_checkpoint")
        named = last.read_text(errors="replace").strip() if last.is_file() else None
        if named and is_whole(last.parent / named):
            return
        found = {path: read_iteration(path) for path in last.parent.glob("*.pth")}
        newest_first = sorted((path for path in found if found[path] >= 0), key=found.get)[::-1]
        whole = next(filter(is_whole, newest_first), None)
        if named is None:
            problem = f"There is no {last}"
        elif named and (last.parent / named).is_file():
            problem = f"{last} names '{named}', which is damaged"
        else:
            problem = f"{last} names '{named}', which is not there"
        if whole:
            self.logger.warning(f"{problem}: resuming from {whole}, the newest whole checkpoint.")
            self.tag_last_checkpoint(whole.name)
        elif named is not None:
            raise ValueError(
                f"--resume: {problem}, and no other checkpoint of a training is whole. Restore "
                f"one, or remove {last} to start fresh."
            )
        elif found:
            self.logger.warning(
                f"{problem}, and nothing to resume from in {', '.join(map(str, found))}."
            )

    def _load_file(self, filename: str) -> dict:
        try:
            loaded = self._read_file(filename)
            if not isinstance(loaded["model"], dict):
                raise TypeError("no tensors by name")
            self._convert_ndarray_to_tensor(loaded["model"])
        except UnsafePickle:
            raise
        except Exception as error:  # a damaged file raises nearly anything
            cause = error.__cause__ or error
            reason = f"{type(cause).__name__}: {cause}".splitlines()[0]
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
            return _from_pycls(load_file(filename))
        return super()._load_file(filename)

    def _torch_load(self, f: str) -> dict:
        return load_file(f)

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
        difference = Mismatch(*incompatible)
        if self._resumes and difference:
            raise ValueError(
                f"--resume: {self.get_checkpoint_file()} is of another model: {difference}. Use "
                "its config, or another OUTPUT_DIR and its weights as MODEL.WEIGHTS."
            )
        return incompatible


def read_iteration(path: Path) -> int:
    """Return the last iteration that a checkpoint of a training holds; -1 for any other file."""
    try:
        return int(load_file(path, mmap=True)["trainer"]["iteration"])
    except (ValueError, TypeError, LookupError):
        return -1


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
