"""Training and evaluation: from the command line to the step."""

from .launch import launch, user_errors
from .predictor import Predictor
from .run import main
from .setup import argument_parser, setup
from .trainer import Trainer

__all__ = ["Predictor", "Trainer", "argument_parser", "launch", "main", "setup", "user_errors"]
