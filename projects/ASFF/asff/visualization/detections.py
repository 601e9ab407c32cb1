"""Pictures of detections beside the truth."""

from __future__ import annotations

import numpy as np
from detectron2.data import Metadata
from detectron2.data.detection_utils import read_image
from detectron2.structures import Instances


def draw_detections(
    record: dict,
    instances: Instances,
    metadata: Metadata,
    *,
    min_score: float = 0.3,
    scale: float = 2.0,
) -> np.ndarray:
    """Draw an image twice, side by side: with its truth, and with what was detected.

    Args:
        record: dataset dict with ``file_name`` and ``annotations``.
        instances: detections on the image, on the CPU, in its pixels.
        metadata: of the dataset, for class names.
        min_score: detections with a lower score are not drawn.
        scale: size of the picture over that of the image.

    Returns:
        (scale H, 2 scale W, 3), RGB, uint8.
    """
    from detectron2.utils.visualizer import Visualizer  # brings matplotlib

    image = read_image(record["file_name"], format="RGB")
    truth = Visualizer(image, metadata, scale=scale).draw_dataset_dict(record)
    kept = instances[instances.scores >= min_score]
    detected = Visualizer(image, metadata, scale=scale).draw_instance_predictions(kept)
    return np.concatenate([truth.get_image(), detected.get_image()], axis=1)
