"""Report on a run: an HTML page and a JSON file of its training, accuracy and mistakes."""

from .content import describe_run
from .images import ShownImage, choose_images
from .page import render_page, write_report
from .run_folder import RunFolder, read_metrics

__all__ = [
    "RunFolder",
    "ShownImage",
    "choose_images",
    "describe_run",
    "read_metrics",
    "render_page",
    "write_report",
]
