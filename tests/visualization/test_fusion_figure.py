"""The figure of detections and fusion maps: it shows the numbers that were recorded."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from detectron2.structures import Boxes, Instances
from matplotlib import colormaps
from PIL import Image

from asff.analysis import FusionView
from asff.analysis.fusion_maps import LevelMaps
from asff.visualization import draw_fusion, fusion_figure
from asff.visualization.fusion_figure import COLORMAP, HEAT, MARGIN, TITLE, prepare_panels
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


def test_panels_are_the_recorded_numbers():
    view = make_view()
    panels = prepare_panels(view)
    assert list(panels) == ["p5", "p4", "p3"]
    for level, (*weights, activation) in panels.items():
        assert [panel.title for panel in weights] == [f"weight of {x}" for x in ("p5", "p4", "p3")]
        for source, panel in enumerate(weights):
            assert np.array_equal(panel.values, view.maps[level].weights[source])
            assert panel.limits == (0, 1)
        recorded = view.maps[level].activation
        assert activation.title == "activation"
        assert np.array_equal(activation.values, recorded)
        assert activation.limits == (recorded.min(), recorded.max())


def test_panels_lie_on_the_image():
    """An image of 100 x 140 pixels enters as 70 x 98; the last cells go beyond it."""
    view = make_view(image_size=(100, 140), input_size=(70, 98))
    extents = {level: row[0].extent for level, row in prepare_panels(view).items()}
    scale = 140 / 98
    assert extents["p5"] == pytest.approx((0, 128 * scale, 96 * scale, 0))
    assert extents["p4"] == pytest.approx((0, 112 * scale, 80 * scale, 0))
    assert extents["p3"] == pytest.approx((0, 104 * scale, 72 * scale, 0))


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list:
    """Every heat map that is drawn: its axes and panel."""
    found, draw_panel = [], fusion_figure.draw_panel

    def draw(axes, panel, *args):
        found.append((axes, panel))
        return draw_panel(axes, panel, *args)

    monkeypatch.setattr(fusion_figure, "draw_panel", draw)
    return found


def test_pixels_are_the_recorded_numbers(drawn):
    """The middle of every cell, of a white image, has the colour of its value."""
    view = make_view(image_size=(128, 192), input_size=(64, 96))
    figure = draw_fusion(np.full((128, 192, 3), 255, np.uint8), view, NAMES)
    assert len(drawn) == 3 * 4
    for axes, panel in drawn:
        low, high = panel.limits
        left, bottom, right, top = axes.get_window_extent().extents
        rows, columns = panel.values.shape
        for row in range(rows):
            for column in range(columns):
                x = left + (column + 0.5) * (right - left) / columns
                y = len(figure) - top + (row + 0.5) * (top - bottom) / rows
                share = (panel.values[row, column] - low) / (high - low)
                expected = HEAT * np.array(colormaps[COLORMAP](share)[:3]) + (1 - HEAT)
                assert figure[int(y), int(x)] / 255 == pytest.approx(expected, abs=0.03)


def test_only_the_image_is_covered(drawn):
    """Cells beyond it are cut off, not squeezed into it."""
    view = make_view(image_size=(100, 140), input_size=(70, 98))
    draw_fusion(noise(100, 140), view, NAMES)
    for axes, panel in drawn:
        assert axes.get_xlim() == (0, 140) and axes.get_ylim() == (100, 0)
        heat = axes.images[-1]
        assert heat.get_extent() == list(panel.extent)


def test_boxes_have_the_colors_of_their_levels(monkeypatch):
    labels, draw_boxes = [], fusion_figure.draw_boxes

    def draw(image, boxes, colors, texts, scale):
        labels.extend(zip(texts, colors))
        return draw_boxes(image, boxes, colors, texts, scale)

    monkeypatch.setattr(fusion_figure, "draw_boxes", draw)
    view = make_view(
        ([10, 10, 50, 50], 0.9, "p4"),
        ([60, 60, 90, 90], 0.8, "p3"),
        ([20, 20, 30, 30], 0.2, "p5"),
        ([90, 10, 150, 40], 0.5, "p7"),  # not fused, as in RetinaNet
    )
    figure = draw_fusion(np.full((120, 160, 3), 255, np.uint8), view, NAMES)
    assert labels == [("cell p4", 1), ("cell p3", 2), ("cell p7", 3)]
    heights = len(figure) - 2 * MARGIN - TITLE  # those of the picture, too
    y, x = (MARGIN + TITLE + heights * 30 / 120, MARGIN + heights / 120 * 10)
    assert tuple(figure[int(y), int(x) + 1]) == COLORS[1]


def test_unknown_levels_are_left_out(monkeypatch):
    labels = []
    draw_boxes = fusion_figure.draw_boxes
    monkeypatch.setattr(
        fusion_figure, "draw_boxes", lambda *args: labels.extend(args[3]) or draw_boxes(*args)
    )
    view = make_view(([10, 10, 50, 50], 0.9, ""))
    view.levels = None
    draw_fusion(noise(120, 160), view, NAMES)
    assert labels == ["cell"]


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
