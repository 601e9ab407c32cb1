"""Detectors as files for other runtimes: written, read and run."""

from .detector import ExportedDetector
from .formats import FORMATS, Options, Source, check_options, default_deformable
from .graph import build_graph
from .metadata import Thresholds, describe
from .runtimes import RUNTIMES, load_model
from .verification import Agreement, Detector, Tolerance, another_size, compare

__all__ = [
    "FORMATS",
    "RUNTIMES",
    "Agreement",
    "Detector",
    "ExportedDetector",
    "Options",
    "Source",
    "Thresholds",
    "Tolerance",
    "another_size",
    "build_graph",
    "check_options",
    "compare",
    "default_deformable",
    "describe",
    "load_model",
]
