"""A run as one page to look at, and as numbers: how it was trained, how good it is, what it gets
wrong."""

from ..analysis.detection_metrics import Evaluation, evaluate
from .content import describe_run
from .images import ShownImage, choose_images
from .page import render_page
from .run_folder import RunFolder

__all__ = [
    "Evaluation",
    "RunFolder",
    "ShownImage",
    "choose_images",
    "describe_run",
    "evaluate",
    "render_page",
]
