"""Checks of what depends on the user's device: agreement, waits, training, processes, speed.

Tests run all of it on a CPU, with narrow detectors and small images. What only a GPU runs (the full
width, the counting of waits, two processes on one GPU) has never been run there.
"""

from .runner import check_device

__all__ = ["check_device"]
