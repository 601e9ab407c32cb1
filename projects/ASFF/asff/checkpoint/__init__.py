"""Checkpoints: loading, saving, and weights of others under our names."""

from .checkpointer import Checkpointer
from .metadata import model_metadata, read_metadata
from .mismatch import Mismatch

__all__ = ["Checkpointer", "Mismatch", "model_metadata", "read_metadata"]
