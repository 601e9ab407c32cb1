"""An image on disk with its dataset dict, and datasets that a test registers."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import cv2
import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import BoxMode


@pytest.fixture
def dataset_dict(tmp_path) -> dict:
    """Write an image of 100 x 50 pixels, red, its left fifth blue; return its dataset dict."""
    pixels = np.zeros((50, 100, 3), np.uint8)
    pixels[..., 2] = 200  # OpenCV writes blue, green, red
    pixels[:, :20] = (200, 0, 0)
    path = tmp_path / "image.png"
    cv2.imwrite(str(path), pixels)
    boxes = [[10.0, 5.0, 20.0, 20.0], [50.0, 25.0, 0.0, 10.0], [90.0, 40.0, 10.0, 10.0]]
    annotations = [
        {"bbox": box, "bbox_mode": BoxMode.XYWH_ABS, "category_id": k, "iscrowd": 0}
        for k, box in enumerate(boxes)
    ]
    return {"file_name": str(path), "height": 50, "width": 100, "annotations": annotations}


@pytest.fixture
def register() -> Iterator[Callable[..., None]]:
    """Register datasets for the length of a test."""
    names = []

    def register(name: str, load: Callable[[], list[dict]] = list, **metadata) -> None:
        names.append(name)
        DatasetCatalog.register(name, load)
        MetadataCatalog.get(name).set(**metadata)

    yield register
    for name in names:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)
