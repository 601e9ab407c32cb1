"""The recorded values of the authors' networks, in the folder of the fixture ``reference``."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType

import numpy as np


def reference_weights(folder: Path) -> ModuleType:
    """Load the module that rebuilds weights and images."""
    path = folder / "reference_weights.py"
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def recorded_shapes(folder: Path, variant: str) -> dict[str, list[int]]:
    """Return the shape of every tensor by the authors' key."""
    return json.loads((folder / f"{variant}_keys.json").read_text())["shapes"]


def recorded_predictions(folder: Path, variant: str) -> tuple[np.ndarray, np.ndarray]:
    """Return anchor indices and their recorded values (cx, cy, w, h, objectness, 80 classes)."""
    recorded = np.load(folder / f"{variant}_predictions.npz")
    return recorded["rows"], recorded["image10_size416"]


def recorded_losses(folder: Path, variant: str) -> dict[str, dict]:
    """Return per case the loss terms and ``grad_norms``, by the authors' names."""
    return json.loads((folder / f"{variant}_losses.json").read_text())
