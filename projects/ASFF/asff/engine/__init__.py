"""Training and evaluation: from the command line to the step."""

from .launch import launch, user_errors
from .setup import argument_parser, setup
from .trainer import Trainer

__all__ = ["Trainer", "argument_parser", "launch", "setup", "user_errors"]
