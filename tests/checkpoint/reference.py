"""The recorded values of the authors' network."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

SHARED = Path(__file__).parents[3] / "shared"
REFERENCE = SHARED / "reference"
BCCD = SHARED / "data" / "bccd"

needs_reference = pytest.mark.skipif(
    not (REFERENCE.is_dir() and BCCD.is_dir()),
    reason="the recorded values of the authors' network (../shared) are not here",
)


def reference_weights() -> ModuleType:
    """The module that rebuilds weights and images, loaded from its file."""
    spec = importlib.util.spec_from_file_location(
        "reference_weights", REFERENCE / "reference_weights.py"
    )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def recorded_predictions(variant: str) -> tuple[np.ndarray, np.ndarray]:
    """Row numbers and their recorded values (cx, cy, w, h, objectness, 80 classes)."""
    recorded = np.load(REFERENCE / f"{variant}_predictions.npz")
    return recorded["rows"], recorded["image10_size416"]


def recorded_losses(variant: str) -> dict[str, dict]:
    """Per case its loss terms and ``grad_norms``, by the authors' names."""
    return json.loads((REFERENCE / f"{variant}_losses.json").read_text())
