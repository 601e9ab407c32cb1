"""Checks of what depends on the user's device: agreement, waits, training, processes, speed."""

from .runner import check_device

__all__ = ["check_device"]
