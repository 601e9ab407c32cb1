"""Detection by exported models, with the interface of the predictor."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence

from ..config_files import merge_options, parse_config
from ..data import build_pixel_mapper, build_reader, check_input
from ..export import RUNTIMES, ExportedDetector, load_model
from .predictor import Predictor


class ExportedPredictor(Predictor):
    """Predictor of a model that ``asff export`` wrote; it needs neither config nor checkpoint.

    ::

        predictor = asff.OnnxPredictor("output/quickstart/model_final.onnx")
        instances = predictor("image.jpg")

    Args:
        weights: the model; its suffix tells the format.
        batch_size: largest number of images that enter the network at once.
        opts: KEY, VALUE, KEY, VALUE, ... that override the config inside the model, as thresholds.

    Raises:
        ValueError: the file is not an exported model, or its runtime is not installed.
    """

    def __init__(self, weights: str | os.PathLike, *, batch_size: int = 8, opts: Sequence = ()):
        if batch_size < 1:
            raise ValueError(f"batch_size is {batch_size}, but must be at least 1.")
        self.batch_size = batch_size
        metadata, run = load_model(weights)
        self.cfg = parse_config(metadata["config"], f"The config inside {weights}")
        merge_options(self.cfg, opts)
        check_input(self.cfg)
        self.cfg.freeze()
        self.class_names = json.loads(metadata["class_names"])
        self.read_file, self.map_pixels = build_reader(self.cfg), build_pixel_mapper(self.cfg)
        self.run = self.model = ExportedDetector(weights, self.cfg, metadata, run)


def build_predictor(
    config: str | os.PathLike | None, weights: str | os.PathLike, **options
) -> Predictor:
    """Build the predictor of a checkpoint or, by its suffix, of an exported model.

    Raises:
        ValueError: see the predictors; or there is a config beside an exported model.
    """
    if os.path.splitext(weights)[1] not in RUNTIMES:
        return Predictor(config, weights, **options)
    if config is not None:
        raise ValueError(f"{weights} is an exported model with its own config: drop --config-file.")
    return ExportedPredictor(weights, **options)
