"""Checkpoints: loading, saving, and weights of others under our names."""

from .about import describe_model, read_description
from .checkpointer import Checkpointer

__all__ = ["Checkpointer", "describe_model", "read_description"]
