"""The figure of detections and fusion maps: it shows the numbers that were recorded."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from detectron2.structures import Boxes, Instances
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from asff.analysis import FusionView
from asff.analysis.fusion_maps import LevelMaps
from asff.visualization import draw_fusion
from asff.visualization.fusion_figure import COLORMAP, HEAT, draw_levels, make_fusion_figure
from asff.visualization.overlay import COLORS

NAMES = ["cell", "dust"]


def make_view(
    *detections: tuple[list[float], float, str],
    image_size: tuple[int, int] = (120, 160),
    input_size: tuple[int, int] = (64, 96),
    strides: tuple[int, ...] = (32, 16, 8),
) -> FusionView:
    """Random maps, and detections: box in the image, score, level."""
    generator = torch.Generator().manual_seed(0)
    maps = {}
    for stride in strides:
        size = [-(-side // stride) for side in input_size]
        logits = torch.randn(len(strides), *size, generator=generator)
        activation = 100 * torch.randn(size, generator=generator)
        weights = (3 * logits).softmax(dim=0)
        maps[f"p{stride.bit_length() - 1}"] = LevelMaps(stride, weights, weights, activation)
    instances = Instances(image_size)
    instances.pred_boxes = Boxes(torch.tensor([x[0] for x in detections]).view(-1, 4))
    instances.scores = torch.tensor([x[1] for x in detections])
    instances.pred_classes = torch.zeros(len(detections), dtype=torch.int64)
    return FusionView(instances, [x[2] for x in detections], maps, input_size)


def noise(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)


def maps_of(figure: Figure, view: FusionView) -> list[tuple[Axes, torch.Tensor]]:
    """Return the axes of the maps, row by row, each with the values that it must show."""
    drawn = [axes for axes in figure.axes if len(axes.images) == 2]
    values = [x for maps in view.maps.values() for x in (*maps.weights, maps.activation)]
    assert len(drawn) == len(values)
    return list(zip(drawn, values))


def test_maps_show_the_recorded_numbers():
    """The centre of every location, of a white image, has the colour of its value."""
    view = make_view(image_size=(128, 192), input_size=(64, 96))
    figure = make_fusion_figure(np.full((128, 192, 3), 255, np.uint8), view, NAMES)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    pixels = np.asarray(canvas.buffer_rgba())[..., :3] / 255
    for index, (axes, values) in enumerate(maps_of(figure, view)):
        assert np.array_equal(axes.images[1].get_array(), values)
        is_activation = index % 4 == 3
        low, high = (values.min(), values.max()) if is_activation else (0, 1)
        left, bottom, right, top = axes.get_window_extent().extents
        height, width = values.shape
        for y in range(height):
            for x in range(width):
                column = left + (x + 0.5) * (right - left) / width
                row = len(pixels) - top + (y + 0.5) * (top - bottom) / height
                value = float((values[y, x] - low) / (high - low))
                expected = HEAT * np.array(colormaps[COLORMAP](value)[:3]) + (1 - HEAT)
                assert pixels[int(row), int(column)] == pytest.approx(expected, abs=0.03)


def test_maps_lie_on_the_image():
    """An image of 100 x 140 pixels enters as 70 x 98; the last locations go beyond it."""
    view = make_view(image_size=(100, 140), input_size=(70, 98))
    figure = make_fusion_figure(noise(100, 140), view, NAMES)
    scale = 140 / 98
    sizes = {"p5": (128, 96), "p4": (112, 80), "p3": (104, 72)}
    expected = [(0, w * scale, h * scale, 0) for w, h in sizes.values() for _ in range(4)]
    for (axes, _), extent in zip(maps_of(figure, view), expected):
        assert axes.get_xlim() == (0, 140) and axes.get_ylim() == (100, 0)
        assert axes.images[1].get_extent() == pytest.approx(extent)


def test_boxes_have_labels_and_colors_of_their_levels(texts):
    view = make_view(
        ([10, 10, 50, 50], 0.9, "p4"),
        ([60, 60, 90, 90], 0.8, "p3"),
        ([20, 20, 30, 30], 0.2, "p5"),
        ([90, 10, 150, 40], 0.5, "p7"),  # not fused, as in RetinaNet
    )
    options = {"min_score": 0.3, "scale": 4.0}
    drawn = draw_levels(np.full((120, 160, 3), 255, np.uint8), view, NAMES, **options)
    assert texts == ["cell p4", "cell p3", "cell p7"]
    for x, y, color in ((10, 30, COLORS[1]), (60, 75, COLORS[2]), (90, 25, COLORS[3])):
        assert tuple(drawn[4 * y, 4 * x + 1]) == color
    view.levels = None
    texts.clear()
    draw_levels(noise(120, 160), view, NAMES, **options)
    assert texts == ["cell"] * 3


@pytest.mark.parametrize(
    "size, strides",
    [
        ((120, 160), (32, 16, 8)),
        ((12, 16), (8, 16, 32)),
        ((40, 900), (4, 8, 16, 32)),
        ((900, 40), (32, 16, 8)),
        ((1, 1), (32, 16)),
    ],
    ids=str,
)
def test_figures_of_any_image_are_small_files(size, strides):
    figure = draw_fusion(noise(*size), make_view(image_size=size, strides=strides), NAMES)
    assert figure.dtype == np.uint8 and figure.shape[2] == 3
    file = io.BytesIO()
    Image.fromarray(figure).save(file, "WEBP", quality=85)
    assert len(file.getvalue()) < 300_000


def test_one_activation_everywhere():
    view = make_view()
    for maps in view.maps.values():
        maps.activation = torch.zeros_like(maps.activation)
    assert draw_fusion(noise(120, 160), view, NAMES).std() > 0
