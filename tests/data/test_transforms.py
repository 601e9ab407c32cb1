from __future__ import annotations

import math

import cv2
import numpy as np
import pytest

from asff.data.transforms import AffineTransform, ExpandTransform, ResizeTransform

FILL = (10, 20, 30)
HEIGHT, WIDTH = 24, 36


def smooth_image() -> np.ndarray:
    """Draw colours that change by at most 20 from pixel to pixel."""
    rng = np.random.default_rng(0)
    return cv2.resize(rng.integers(0, 256, (4, 6, 3)).astype(np.uint8), (WIDTH, HEIGHT))


def labels() -> np.ndarray:
    """Return the labels 0 to 254, pixel by pixel, again and again."""
    return (np.arange(HEIGHT * WIDTH) % 255).astype(np.uint8).reshape(HEIGHT, WIDTH)


def sample_bilinearly(image: np.ndarray, x: float, y: float, fill: tuple | None) -> np.ndarray:
    """Return the colour at (x, y); beyond the border that of the border, or ``fill``."""
    left, top = math.floor(x - 0.5), math.floor(y - 0.5)
    total = np.zeros(3)
    for column in (left, left + 1):
        for row in (top, top + 1):
            share = (1 - abs(x - 0.5 - column)) * (1 - abs(y - 0.5 - row))
            inside = 0 <= row < image.shape[0] and 0 <= column < image.shape[1]
            if inside or fill is None:
                row = min(max(row, 0), image.shape[0] - 1)
                color = image[row, min(max(column, 0), image.shape[1] - 1)]
            else:
                color = np.array(fill)
            total += share * color
    return total


def assert_near(image: np.ndarray, wanted: np.ndarray, levels: float) -> None:
    assert image.dtype == np.uint8 and image.shape == wanted.shape
    assert np.abs(image - wanted).max() <= levels


@pytest.mark.parametrize(("new_h", "new_w"), [(48, 12), (16, 40), (24, 36), (8, 4)])
def test_resize_samples_at_centres(new_h, new_w):
    image, transform = smooth_image(), ResizeTransform(HEIGHT, WIDTH, new_h, new_w)
    wanted, nearest = np.zeros((new_h, new_w, 3)), np.zeros((new_h, new_w))
    for row in range(new_h):
        for column in range(new_w):
            x, y = (column + 0.5) * WIDTH / new_w, (row + 0.5) * HEIGHT / new_h
            wanted[row, column] = sample_bilinearly(image, x, y, fill=None)
            nearest[row, column] = labels()[math.floor(y), math.floor(x)]
    assert_near(transform.apply_image(image), wanted, 1)
    np.testing.assert_array_equal(transform.apply_segmentation(labels()), nearest)


def test_expand_moves_the_image_and_nothing_else():
    image, transform = smooth_image(), ExpandTransform(3, 2, 4, 5, FILL)
    expanded, segmentation = transform.apply_image(image), transform.apply_segmentation(labels())
    assert expanded.shape == (HEIGHT + 7, WIDTH + 7, 3)
    assert segmentation.shape == (HEIGHT + 7, WIDTH + 7)
    for y in range(HEIGHT + 7):
        for x in range(WIDTH + 7):
            inside = 3 <= x < WIDTH + 3 and 2 <= y < HEIGHT + 2
            color = image[y - 2, x - 3] if inside else FILL
            assert expanded[y, x].tolist() == list(color)
            assert segmentation[y, x] == (labels()[y - 2, x - 3] if inside else 255)
    boxes = transform.apply_box(np.array([[0, 0, WIDTH, HEIGHT], [5, 6, 7, 9]]))
    np.testing.assert_array_equal(boxes, [[3, 2, WIDTH + 3, HEIGHT + 2], [8, 8, 10, 11]])


def rotate(degrees: float, scale: float = 1.0, shift: tuple[float, float] = (0, 0)) -> np.ndarray:
    """Return the matrix of a rotation about the centre, clockwise as y points down."""
    cosine, sine = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    linear = scale * np.array([[cosine, -sine], [sine, cosine]])
    center = np.array([WIDTH, HEIGHT]) / 2
    return np.column_stack([linear, center - linear @ center + shift])


@pytest.mark.parametrize(
    "matrix",
    [
        rotate(0),
        rotate(0, shift=(2.5, -3.25)),
        rotate(0, scale=1.3),
        rotate(0, scale=0.7, shift=(3, 1)),
        rotate(7, scale=0.9, shift=(1, 2)),
        rotate(-40),
        np.array([[1.0, 0.3, -2.0], [-0.2, 1.1, 4.0]]),  # sheared
    ],
)
def test_affine_takes_each_pixel_from_where_it_was(matrix):
    image, transform = smooth_image(), AffineTransform(matrix, FILL)
    inverse = np.linalg.inv(np.vstack([matrix, [0, 0, 1]]))
    wanted, nearest = np.zeros((HEIGHT, WIDTH, 3)), np.zeros((HEIGHT, WIDTH))
    unclear = np.zeros((HEIGHT, WIDTH), bool)
    for row in range(HEIGHT):
        for column in range(WIDTH):
            x, y, _ = inverse @ (column + 0.5, row + 0.5, 1)
            wanted[row, column] = sample_bilinearly(image, x, y, fill=FILL)
            inside = 0 <= x < WIDTH and 0 <= y < HEIGHT
            nearest[row, column] = labels()[math.floor(y), math.floor(x)] if inside else 255
            # OpenCV rounds locations to a fraction of a pixel.
            unclear[row, column] = min(abs(x - round(x)), abs(y - round(y))) < 0.04
    # Of at most 245 levels between neighbours (at the border) at most 1 / 32 pixel.
    assert_near(transform.apply_image(image), wanted, 9)
    assert np.abs(transform.apply_image(image) - wanted).mean() < 1
    segmentation = transform.apply_segmentation(labels())
    np.testing.assert_array_equal(segmentation[~unclear], nearest[~unclear])
    assert unclear.mean() < 0.3 or (matrix[:, :2] == np.eye(2)).all()


@pytest.mark.parametrize(
    "transform",
    [
        ResizeTransform(HEIGHT, WIDTH, 72, 72),
        ResizeTransform(HEIGHT, WIDTH, 72, 72, cv2.INTER_CUBIC),
        ResizeTransform(HEIGHT, WIDTH, 12, 12, cv2.INTER_AREA),
        ExpandTransform(3, 2, 4, 5, (0, 0, 0)),
        AffineTransform(rotate(30), (0, 0, 0)),
        AffineTransform(rotate(-90, shift=(1.5, 0.25)), (0, 0, 0)),
        AffineTransform(rotate(5, scale=1.2, shift=(-3, 2)), (0, 0, 0)),
    ],
)
@pytest.mark.parametrize("pixel", [(12, 9), (18, 12), (20, 15)])
def test_a_marked_pixel_goes_where_coordinates_say(transform, pixel):
    """The bright spot's centre of mass, to a tenth of a pixel."""
    x, y = pixel
    image = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    image[y, x] = 250
    moved = transform.apply_image(image)[..., 0].astype(float)
    rows, columns = np.mgrid[: moved.shape[0], : moved.shape[1]]
    spot = [(moved * (columns + 0.5)).sum(), (moved * (rows + 0.5)).sum()] / moved.sum()
    wanted = transform.apply_coords(np.array([[x + 0.5, y + 0.5]]))[0]
    # Cubic interpolation has negative lobes, which are cut off; areas hide where inside a spot was.
    atol = 0.5 if getattr(transform, "interpolation", None) == cv2.INTER_AREA else 0.1
    np.testing.assert_allclose(spot, wanted, atol=atol)
