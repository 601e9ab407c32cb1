"""What there is to train on in a dataset, in numbers.

Shape letters: N images of known size, M boxes that can be trained on, K classes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ..data.datasets import Inspection, usable_annotations


@dataclass(frozen=True)
class DatasetStatistics:
    """Sizes of the images and boxes of a dataset, and its classes.

    Attributes:
        image_sizes: (N, 2), width and height in pixels.
        boxes_per_image: (N,).
        boxes: (M, 2), width and height in pixels of the image.
        input_boxes: (M, 2), in pixels of the network's input.
        classes: K tuples of a name, its number of images, its number of boxes.
    """

    image_sizes: np.ndarray
    boxes_per_image: np.ndarray
    boxes: np.ndarray
    input_boxes: np.ndarray
    classes: list[tuple[str, int, int]]


def compute_statistics(
    inspection: Inspection, resize: Callable[[int, int], tuple[int, int]]
) -> DatasetStatistics:
    """Compute the statistics of a dataset.

    Args:
        resize: height and width of an image to those of the network's input in a test.
    """
    annotations, sizes = usable_annotations(inspection.dataset, inspection.files)
    scales = {}
    for image_id, (width, height) in sizes.items():
        new_height, new_width = resize(height, width)
        scales[image_id] = new_width / width, new_height / height
    boxes = np.array([x["bbox"][2:] for x in annotations], float).reshape(-1, 2)
    factors = np.array([scales[x["image_id"]] for x in annotations]).reshape(-1, 2)
    per_image = Counter(x["image_id"] for x in annotations)
    per_class = Counter(x["category_id"] for x in annotations)
    pairs = {(x["category_id"], x["image_id"]) for x in annotations}
    images = Counter(category_id for category_id, _ in pairs)
    categories = [(x["name"], x["id"]) for x in inspection.dataset.categories]
    return DatasetStatistics(
        image_sizes=np.array(list(sizes.values()), int).reshape(-1, 2),
        boxes_per_image=np.array([per_image[image_id] for image_id in sizes], int),
        boxes=boxes,
        input_boxes=boxes * factors,
        classes=[(name, images[x], per_class[x]) for name, x in categories],
    )
