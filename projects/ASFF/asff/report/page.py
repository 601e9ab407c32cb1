"""Render the report as one HTML file with its style, script, numbers and images.

A script of our own draws the charts, lines and bars, as SVG. The script of a plotting library would
add megabytes to every report, and its charts would not follow the page's text size, light and dark
colours and score threshold.
"""

from __future__ import annotations

import base64
import html
import json
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Any

from .images import ShownImage

# Concatenated in this order.
SCRIPTS = ("charts.js", "selection.js", "accuracy.js", "mistakes.js", "images.js", "report.js")


def write_report(
    folder: Path,
    content: dict[str, Any],
    images: list[ShownImage],
    fusion_maps: Sequence[tuple[str, bytes]],
) -> tuple[Path, Path]:
    """Write report.html and report.json; see :func:`render_page`. Return both paths."""
    page, numbers = folder / "report.html", folder / "report.json"
    page.write_text(render_page(content, images, fusion_maps), encoding="utf-8")
    numbers.write_text(json.dumps(content, allow_nan=False, indent=1), encoding="utf-8")
    return page, numbers


def render_page(
    content: dict[str, Any], images: list[ShownImage], fusion_maps: Sequence[tuple[str, bytes]]
) -> str:
    """Render the page as HTML.

    Args:
        content: of report.json.
        images: of ``content["worst_images"]``.
        fusion_maps: captions and figures as WebP; may be empty.
    """
    data = {
        **content,
        "image_data": [_data_uri(image.jpeg, "jpeg") for image in images],
        "fusion_maps": [
            {"caption": caption, "image": _data_uri(image, "webp")}
            for caption, image in fusion_maps
        ],
    }
    return Template(_asset("report.html")).substitute(
        title=html.escape(f"{content['run']} on {content['dataset']}"),
        style=_asset("report.css"),
        # Escaped, so that no string can end the script element.
        data=json.dumps(data, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c"),
        script="".join(map(_asset, SCRIPTS)),
    )


def _asset(name: str) -> str:
    return files(__package__).joinpath(name).read_text(encoding="utf-8")


def _data_uri(image: bytes, kind: str) -> str:
    """Encode an image of a kind, "jpeg" or "webp", as a data URI."""
    return f"data:image/{kind};base64,{base64.b64encode(image).decode()}"
