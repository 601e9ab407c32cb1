"""Comparison of the keys and shapes of state dicts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Mismatch:
    """How a state dict differs from the expected one; false if it does not.

    Attributes:
        missing: keys that it lacks.
        unexpected: keys that it has in addition.
        shapes: key, shape, expected shape of tensors with another shape.
    """

    missing: Sequence[str] = ()
    unexpected: Sequence[str] = ()
    shapes: Sequence[tuple] = ()

    def __len__(self) -> int:
        return len(self.missing) + len(self.unexpected) + len(self.shapes)

    def __str__(self) -> str:
        shapes = [f"{key} {tuple(a)} instead of {tuple(b)}" for key, a, b in self.shapes]
        kinds = {"missing": self.missing, "unexpected": self.unexpected, "of another shape": shapes}
        return ", ".join(
            f"{len(keys)} {kind} ({', '.join(sorted(keys)[:3])}{', ...' if len(keys) > 3 else ''})"
            for kind, keys in kinds.items()
            if keys
        )


def compare(given: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> Mismatch:
    """Compare the keys and shapes of two state dicts."""
    return Mismatch(
        [key for key in expected if key not in given],
        [key for key in given if key not in expected],
        [
            (key, given[key].shape, value.shape)
            for key, value in expected.items()
            if key in given and given[key].shape != value.shape
        ],
    )
