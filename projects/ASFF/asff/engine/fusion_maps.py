"""Draw and measure the fusion weights of a detector over images and datasets."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator, Sequence

from PIL import Image
from tqdm import tqdm

from ..analysis import FusionStatistics, FusionView, check_fusion_maps, view_fusion
from ..data.image_io import check_size
from ..visualization import draw_fusion
from .predictor import Predictor

WEBP_QUALITY = 85


def draw_fusion_maps(
    predictor: Predictor, files: Iterable[str], *, min_score: float
) -> Iterator[tuple[FusionView, bytes]]:
    """Detect in image files, and draw their fusion maps as WebP; see :func:`draw_fusion`.

    Raises:
        ValueError: the model has no ASFF, or a file cannot be read.
    """
    check_fusion_maps(predictor.cfg, predictor.model)
    for file in files:
        image = predictor.read(file)
        (view,) = view_fusion(predictor.model, [predictor.map_pixels(image)])
        figure = draw_fusion(image, view, predictor.class_names, min_score=min_score)
        webp = io.BytesIO()
        Image.fromarray(figure).save(webp, "WEBP", quality=WEBP_QUALITY)
        yield view, webp.getvalue()


def measure_fusion(predictor: Predictor, dataset_dicts: Sequence[dict]) -> FusionStatistics:
    """Measure the fusion weights over a dataset.

    Args:
        predictor: whose model was checked by :func:`check_fusion_maps`.

    Raises:
        ValueError: an image cannot be read.
    """
    statistics = FusionStatistics()
    for dataset_dict in tqdm(dataset_dicts, unit=" images"):
        image = predictor.read(dataset_dict["file_name"])
        check_size(image, dataset_dict)
        (view,) = view_fusion(predictor.model, [predictor.map_pixels(image)])
        statistics.add(view, dataset_dict)
    return statistics
