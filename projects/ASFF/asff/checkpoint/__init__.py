"""Checkpoints: loading, saving, and weights of others under our names."""

from .checkpointer import Checkpointer
from .metadata import model_metadata, read_metadata

__all__ = ["Checkpointer", "model_metadata", "read_metadata"]
