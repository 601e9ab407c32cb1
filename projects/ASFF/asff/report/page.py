"""The report as one HTML file that loads nothing: style, script, numbers and pictures are in it.

The charts are few and plain, lines and bars. A script of our own draws them as SVG in some hundred
lines. A plotting library's script would put megabytes into every report, and its charts would not
follow the page: its text size, its light and dark colours, its score threshold.
"""

from __future__ import annotations

import base64
import html
import json
from collections.abc import Sequence
from importlib.resources import files
from string import Template
from typing import Any

from .images import ShownImage

# In the order in which they are run, as one.
SCRIPTS = ("charts.js", "choice.js", "accuracy.js", "mistakes.js", "images.js", "report.js")


def render_page(
    content: dict[str, Any], images: list[ShownImage], fusion_maps: Sequence[tuple[str, bytes]]
) -> str:
    """The page as HTML.

    Args:
        content: what report.json holds.
        images: those of ``content["worst_images"]``.
        fusion_maps: captions and figures as WebP; may be empty.
    """
    data = {
        **content,
        "pictures": [data_uri(image.jpeg, "jpeg") for image in images],
        "fusion_maps": [
            {"caption": caption, "picture": data_uri(picture, "webp")}
            for caption, picture in fusion_maps
        ],
    }
    return Template(asset("report.html")).substitute(
        title=html.escape(f"{content['run']} on {content['dataset']}"),
        style=asset("report.css"),
        # Nothing in it can end the element that it stands in.
        data=json.dumps(data, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c"),
        script="".join(map(asset, SCRIPTS)),
    )


def asset(name: str) -> str:
    return files(__package__).joinpath(name).read_text(encoding="utf-8")


def data_uri(picture: bytes, kind: str) -> str:
    """A picture as an address that needs no file.

    Args:
        kind: "jpeg" or "webp".
    """
    return f"data:image/{kind};base64,{base64.b64encode(picture).decode()}"
