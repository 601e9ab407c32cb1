"""A figure like the paper's Figures 3 and 4: detections, weight maps and fused features.

Shape letters: L fused levels, H and W of a level.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from ..analysis import FusionView
from .detections import draw_boxes, resize
from .overlay import COLORS, brightness

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.gridspec import GridSpec
    from matplotlib.image import AxesImage

# In pixels; the layout shrinks everything a little to make room for titles and numbers.
MAP_SIZE = (230, 180)  # width and height into which a map fits
MIN_MAP_SIZE = (84, 32)  # titles and names of levels need this
DETECTIONS_WIDTH = (200, 720)  # lower and upper limit
BAR_WIDTH = 10  # of a colour bar
MARGINS = (250, 60)  # sums over the width and height, for titles, names and numbers
DPI = 100
HEAT = 0.7  # opacity of a map over the image
COLORMAP = "viridis"  # its lightness grows with the value, for any colour vision


def draw_fusion(
    image: np.ndarray, view: FusionView, class_names: Sequence[str], *, min_score: float = 0.3
) -> np.ndarray:
    """Draw the detections in an image with their levels, and the fusion of each level.

    Left: boxes in the colours of their levels. Right, in a row for each level: its weights of all
    levels, its self weight framed, and the fused feature, summed over the channels.

    Args:
        image: (H, W, 3), RGB, uint8.
        view: of this image.
        class_names: of the detections.
        min_score: detections with a lower score are not drawn.

    Returns:
        The figure, (height, width, 3), RGB, uint8.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # needs no display

    canvas = FigureCanvasAgg(make_fusion_figure(image, view, class_names, min_score=min_score))
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def make_fusion_figure(
    image: np.ndarray, view: FusionView, class_names: Sequence[str], *, min_score: float = 0.3
) -> Figure:
    """Lay out the figure of :func:`draw_fusion`."""
    from matplotlib.figure import Figure

    num_levels = len(view.maps)
    grey = resize(Image.fromarray(image), _scale_to_fit(image, MAP_SIZE)).convert("L")
    map_width, map_height = (max(sides) for sides in zip(grey.size, MIN_MAP_SIZE))
    height = num_levels * map_height
    scale = _scale_to_fit(image, (DETECTIONS_WIDTH[1], height))
    detections = draw_levels(image, view, class_names, min_score=min_score, scale=scale)
    widths = [max(detections.shape[1], DETECTIONS_WIDTH[0])]
    widths += [*[map_width] * num_levels, BAR_WIDTH, map_width, BAR_WIDTH]
    size = ((sum(widths) + MARGINS[0]) / DPI, (height + MARGINS[1]) / DPI)
    figure = Figure(figsize=size, dpi=DPI, layout="constrained")
    grid = figure.add_gridspec(num_levels, len(widths), width_ratios=widths)

    axes = figure.add_subplot(grid[:, 0], xticks=[], yticks=[])
    axes.imshow(detections)
    axes.set_title("detections and their levels", fontsize=10)
    for row, level in enumerate(view.maps):
        weights = _draw_row(figure, grid, row, level, np.asarray(grey), view)
    _draw_bar(figure.add_subplot(grid[:, num_levels + 1]), weights)
    return figure


def _draw_row(
    figure: Figure, grid: GridSpec, row: int, level: str, grey: np.ndarray, view: FusionView
) -> AxesImage:
    """Draw the maps of a level; return the last map of its weights."""
    maps, num_levels, color = view.maps[level], len(view.maps), COLORS[row % len(COLORS)]
    panels = {f"weight of {source}": x for source, x in zip(view.maps, maps.weights)}
    heats = []
    for column, (title, values) in enumerate({**panels, "activation": maps.activation}.items()):
        # Between weights and activation is the colour bar of the weights.
        cell = grid[row, 1 + column + (column == num_levels)]
        axes = figure.add_subplot(cell, xticks=[], yticks=[])
        heats.append(_draw_map(axes, grey, values.numpy(), maps.stride, view))
        if column < num_levels:
            heats[-1].set_clim(0, 1)
        if row == 0:
            axes.set_title(title, fontsize=10)
        if column == 0:
            _write_name(axes, f"{level}\nstride {maps.stride}", color)
        if column == row:
            axes.spines[:].set(color=np.divide(color, 255), linewidth=3)
    _draw_bar(figure.add_subplot(grid[row, num_levels + 3]), heats[-1])
    return heats[-2]


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
    instances = view.instances[kept]
    colors = instances.pred_classes.tolist()
    labels = [class_names[category] for category in colors]
    if view.levels is not None:
        levels = [view.levels[index] for index in kept]
        # Levels that are not fused come after the fused ones.
        order = [*view.maps, *sorted({*levels} - {*view.maps})]
        colors = [order.index(level) for level in levels]
        labels = [f"{label} {level}" for label, level in zip(labels, levels)]
    return draw_boxes(image, instances.pred_boxes.tensor.tolist(), colors, labels, scale)


def _scale_to_fit(image: np.ndarray, size: tuple[int, int]) -> float:
    """Return the factor by which an image (H, W, 3) fills this width or height."""
    return min(size[0] / image.shape[1], size[1] / image.shape[0])


def _draw_map(
    axes: Axes, grey: np.ndarray, values: np.ndarray, stride: int, view: FusionView
) -> AxesImage:
    """Draw a map (H, W) over the grey image; what goes beyond the image is cut off."""
    (height, width), (input_height, input_width) = view.instances.image_size, view.input_size
    axes.imshow(grey, cmap="gray", vmin=0, vmax=255, extent=(0, width, height, 0))
    right = values.shape[1] * stride * width / input_width
    bottom = values.shape[0] * stride * height / input_height
    heat = axes.imshow(
        values, cmap=COLORMAP, alpha=HEAT, extent=(0, right, bottom, 0), interpolation="nearest"
    )
    axes.set(xlim=(0, width), ylim=(height, 0))
    return heat


def _write_name(axes: Axes, name: str, color: tuple[int, int, int]) -> None:
    """Write the name of a level left of its maps, on its colour."""
    ink = "black" if brightness(color) > 110 else "white"
    patch = {"facecolor": np.divide(color, 255), "edgecolor": "none", "pad": 3}
    style = {"rotation": 0, "ha": "right", "va": "center", "fontsize": 8, "labelpad": 8}
    axes.set_ylabel(name, color=ink, bbox=patch, **style)


def _draw_bar(axes: Axes, heat: AxesImage) -> None:
    """Draw the colour bar of a map on grey, like the map."""
    axes.set_facecolor("0.5")
    axes.figure.colorbar(heat, cax=axes)
    axes.tick_params(labelsize=8)
