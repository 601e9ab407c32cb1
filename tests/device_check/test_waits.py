from __future__ import annotations

import warnings

from asff.device_check.waits import count_waits


def test_waits_are_counted_by_line():
    """The warnings are those of PyTorch's own code (c10/cuda/CUDAFunctions.cpp)."""

    def run() -> None:
        warnings.warn("Synchronization debug mode is a prototype feature", stacklevel=1)
        for _ in range(3):
            warnings.warn("called a synchronizing CUDA operation (Triggered ...)", stacklevel=1)

    line = run.__code__.co_firstlineno + 3
    assert count_waits(run) == {f"test_waits.py:{line}": 3}
    assert count_waits(lambda: None) == {}
