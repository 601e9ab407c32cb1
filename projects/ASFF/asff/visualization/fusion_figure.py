"""A figure like the paper's Figures 3 and 4: detections, weight maps and fused features.

Shape letters: L fused levels, H and W of a level, in cells.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from ..analysis.fusion_maps import FusionView
from .detections import draw_boxes, resize
from .overlay import COLORS, brightness

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.image import AxesImage

# All in pixels.
PANEL = (230, 180)  # width and height into which a heat map fits
LEAST_CELL = (84, 32)  # what it takes at least, for titles and names not to touch
PICTURE_WIDTH = 720  # the most for the picture of the detections
GAP = 8
MARGIN = 16
TITLE = 26  # of a column
NAME = 62  # of a row, left of it
BAR, BAR_ROOM = 10, 50  # width of a colour bar; and what it takes with its numbers
DPI = 100
HEAT = 0.7  # share of the heat map where it lies on the image
COLORMAP = "viridis"  # as light as it is high, for any colour vision


@dataclass
class Panel:
    """A heat map over the image.

    Attributes:
        title: what is shown.
        values: (H, W).
        limits: the values at the two ends of the colour bar.
        extent: left, right, bottom and top end of the cells, in pixels of the image.
    """

    title: str
    values: np.ndarray
    limits: tuple[float, float]
    extent: tuple[float, float, float, float]


def prepare_panels(view: FusionView) -> dict[str, list[Panel]]:
    """For each level the L weight maps, from 0 to 1, and last the activation, from end to end."""
    (height, width), (input_height, input_width) = view.instances.image_size, view.input_size
    panels = {}
    for level, maps in view.maps.items():
        rows, columns = maps.activation.shape
        right = columns * maps.stride * width / input_width
        extent = (0.0, right, rows * maps.stride * height / input_height, 0.0)
        weights, activation = maps.weights.numpy(), maps.activation.numpy()
        panels[level] = [
            Panel(f"weight of {source}", weight, (0.0, 1.0), extent)
            for source, weight in zip(view.maps, weights)
        ]
        limits = (float(activation.min()), float(activation.max()))
        panels[level].append(Panel("activation", activation, limits, extent))
    return panels


def draw_fusion(
    image: np.ndarray, view: FusionView, class_names: Sequence[str], *, min_score: float = 0.3
) -> np.ndarray:
    """Draw what was detected in an image, from which level, and how each level was fused.

    Left: boxes in the colours of their levels. Right: a row for each level, of the weights that
    it gives to all levels, its own one framed, and of the fused feature, summed over its channels.

    Args:
        image: (H, W, 3), RGB, uint8.
        view: of this image.
        class_names: of the detections.
        min_score: detections with a lower score are not drawn.

    Returns:
        The figure, (height, width, 3), RGB, uint8.
    """
    panels = prepare_panels(view)
    panel_image = resize(Image.fromarray(image), fit(image, PANEL)).convert("L")
    cell = [max(sides) for sides in zip(panel_image.size, LEAST_CELL)]
    heights = len(panels) * (cell[1] + GAP) - GAP
    scale = fit(image, (PICTURE_WIDTH, heights))
    picture = draw_levels(image, view, class_names, min_score=min_score, scale=scale)
    # From left to right: the picture, names of rows, weights, their bar, activations, their bars.
    lefts = [2 * MARGIN + picture.shape[1] + NAME]
    lefts += [lefts[0] + column * (cell[0] + GAP) for column in range(1, len(panels))]
    lefts.append(lefts[-1] + cell[0] + GAP + BAR_ROOM)

    sheet = Sheet(lefts[-1] + cell[0] + GAP + BAR_ROOM, 2 * MARGIN + TITLE + heights)
    top = MARGIN + TITLE
    axes = sheet.place(MARGIN, top, picture.shape[1], picture.shape[0])
    axes.imshow(picture, aspect="auto", interpolation="nearest")
    axes.set_title("detections and their levels", fontsize=10)
    for row, (level, row_panels) in enumerate(panels.items()):
        y, color = top + row * (cell[1] + GAP), COLORS[row % len(COLORS)]
        name = f"{level}\nstride {view.maps[level].stride}"
        write_name(sheet.place(lefts[0] - NAME, y, NAME, cell[1]), name, color)
        heats = []
        for column, (x, panel) in enumerate(zip(lefts, row_panels)):
            axes = sheet.place(x, y, *panel_image.size)
            heats.append(draw_panel(axes, panel, np.asarray(panel_image), image.shape))
            if row == 0:
                axes.set_title(panel.title, fontsize=10)
            if column == row:
                axes.spines[:].set(color=np.divide(color, 255), linewidth=3)
        draw_bar(sheet.place(lefts[-1] + cell[0] + GAP, y, BAR, panel_image.height), heats[-1])
    draw_bar(sheet.place(lefts[-2] + cell[0] + GAP, top, BAR, heights), heats[0])
    return sheet.to_array()


class Sheet:
    """An empty figure of so many pixels; matplotlib draws on it without a display."""

    def __init__(self, width: int, height: int):
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        self.size = (width, height)
        self.figure = Figure(figsize=(width / DPI, height / DPI), dpi=DPI)
        self.canvas = FigureCanvasAgg(self.figure)

    def place(self, x: float, y: float, width: float, height: float) -> Axes:
        """Axes without ticks, with their upper left corner at a pixel."""
        left, bottom = x / self.size[0], 1 - (y + height) / self.size[1]
        axes = self.figure.add_axes((left, bottom, width / self.size[0], height / self.size[1]))
        axes.set(xticks=[], yticks=[])
        return axes

    def to_array(self) -> np.ndarray:
        """(height, width, 3), RGB, uint8."""
        self.canvas.draw()
        return np.asarray(self.canvas.buffer_rgba())[..., :3].copy()


def fit(image: np.ndarray, room: tuple[int, int]) -> float:
    """By what to scale an image (H, W, 3) to fill a room of this width and height."""
    return min(room[0] / image.shape[1], room[1] / image.shape[0])


def draw_levels(
    image: np.ndarray,
    view: FusionView,
    class_names: Sequence[str],
    *,
    min_score: float,
    scale: float,
) -> np.ndarray:
    """Draw the detections with their classes and levels, in the colours of the levels."""
    kept = (view.instances.scores >= min_score).nonzero().flatten()
    found = view.instances[kept]
    colors = found.pred_classes.tolist()
    labels = [class_names[category] for category in colors]
    if view.levels is not None:
        levels = [view.levels[index] for index in kept]
        # Levels that are not fused come after those of the rows.
        order = [*view.maps, *sorted({*levels} - {*view.maps})]
        colors = [order.index(level) for level in levels]
        labels = [f"{label} {level}" for label, level in zip(labels, levels)]
    return draw_boxes(image, found.pred_boxes.tensor.tolist(), colors, labels, scale)


def write_name(axes: Axes, name: str, color: tuple[int, int, int]) -> None:
    """Write a level's name on its colour, as at its boxes."""
    axes.axis("off")
    ink = "black" if brightness(color) > 110 else "white"
    patch = {"facecolor": np.divide(color, 255), "edgecolor": "none", "pad": 3}
    axes.text(0.45, 0.5, name, color=ink, ha="center", va="center", fontsize=8, bbox=patch)


def draw_panel(
    axes: Axes, panel: Panel, grey: np.ndarray, image_shape: tuple[int, ...]
) -> AxesImage:
    """Draw a heat map, cell by cell, over the grey image."""
    height, width = image_shape[:2]
    image_extent = (0, width, height, 0)
    axes.imshow(grey, cmap="gray", vmin=0, vmax=255, extent=image_extent, aspect="auto")
    low, high = panel.limits
    heat = axes.imshow(
        panel.values,
        cmap=COLORMAP,
        vmin=low,
        vmax=high,
        alpha=HEAT,
        extent=panel.extent,
        aspect="auto",
        interpolation="nearest",
    )
    axes.set(xlim=(0, width), ylim=(height, 0))
    return heat


def draw_bar(axes: Axes, heat: AxesImage) -> None:
    """Draw the colour bar of a heat map, over the same grey as a grey image would show."""
    axes.set_facecolor("0.5")
    axes.figure.colorbar(heat, cax=axes)
    axes.tick_params(labelsize=8)
