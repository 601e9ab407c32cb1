from __future__ import annotations

import numpy as np
import pytest

from asff.data.mixup import mix_images
from tests.data.rectangles import noise

SIZES = [((20, 30), (30, 24)), ((20, 30), (20, 30)), ((30, 30), (7, 5)), ((1, 9), (9, 1))]


def mix_slowly(image: np.ndarray, other: np.ndarray, weight: float) -> np.ndarray:
    """Mix pixel by pixel, without rounding."""
    mixed = np.zeros((*np.maximum(image.shape[:2], other.shape[:2]), 3))
    for y, x in np.ndindex(mixed.shape[:2]):
        for pixels, share in ((image, weight), (other, 1 - weight)):
            if y < pixels.shape[0] and x < pixels.shape[1]:
                mixed[y, x] += share * pixels[y, x].astype(float)
    return mixed


@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("weight", [0.0, 0.3, 0.5, 0.87, 1.0])
def test_mixed_pixels(sizes, weight):
    image, other = noise(*sizes[0]), noise(*sizes[1], seed=1)
    mixed = mix_images(image, other, weight)
    assert mixed.dtype == np.uint8
    assert np.abs(mixed - mix_slowly(image, other, weight)).max() <= 0.5 + 1e-6
    np.testing.assert_array_equal(image, noise(*sizes[0]))  # it may come from a cache
    np.testing.assert_array_equal(other, noise(*sizes[1], seed=1))
