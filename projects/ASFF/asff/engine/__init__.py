"""Training and evaluation: from the command line to the step."""

from .exported_predictor import ExportedPredictor, build_predictor
from .launch import launch, user_errors
from .predictor import Predictor
from .run import main
from .setup import argument_parser, setup
from .trainer import Trainer

__all__ = [
    "ExportedPredictor",
    "Predictor",
    "Trainer",
    "argument_parser",
    "build_predictor",
    "launch",
    "main",
    "setup",
    "user_errors",
]
