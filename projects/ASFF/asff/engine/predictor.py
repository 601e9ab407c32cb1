"""Detection in single images, equal to an evaluation."""

from __future__ import annotations

import os
from collections.abc import Sequence
from itertools import islice

import numpy as np
from detectron2.config import CfgNode
from detectron2.structures import Instances

from ..checkpoint import Checkpointer, Mismatch, read_metadata
from ..config_files import load_config, merge_options, parse_config
from ..data import build_pixel_mapper, build_reader, check_input, read_ahead
from ..data.datasets import class_count, known_classes, set_num_classes, shorten
from .inference import InferenceModel
from .setup import check_model, resolve_device, resolve_sync_norm, setup_datasets
from .trainer import Trainer


class Predictor:
    """Detector of objects in files or arrays, as ``asff train --eval-only`` in a dataset.

    ::

        predictor = asff.Predictor(None, "output/quickstart/model_final.pth")
        instances = predictor("image.jpg")
        names = [predictor.class_names[i] for i in instances.pred_classes]

    Args:
        config: a YAML file; a config with our keys; or None, for the one inside the checkpoint.
        weights: a checkpoint file.
        batch_size: largest number of images, all of one shape, that enter the network at once.
            Meanwhile as many more are read.
        opts: KEY, VALUE, KEY, VALUE, ... that override the config.

    Attributes:
        cfg: the resolved config.
        class_names: by the index in ``pred_classes``; its number where nothing names a class.
        model: the detector, in evaluation mode; see :class:`InferenceModel`.

    Raises:
        ValueError: the config is wrong, the checkpoint cannot be read, it does not fill the model,
            or its class names are not those of the config's datasets.
    """

    def __init__(
        self,
        config: str | os.PathLike | CfgNode | None,
        weights: str | os.PathLike,
        *,
        batch_size: int = 8,
        opts: Sequence = (),
    ):
        if batch_size < 1:
            raise ValueError(f"batch_size is {batch_size}, but must be at least 1.")
        self.batch_size = batch_size
        self.cfg, self.class_names = resolve_detector(config, weights, opts)
        self.read_file, self.map_pixels = build_reader(self.cfg), build_pixel_mapper(self.cfg)
        model = Trainer.build_model(self.cfg)
        CompleteCheckpointer(model).load(os.fspath(weights))
        self.run = InferenceModel(self.cfg, model)
        self.model = self.run.model

    def __call__(
        self, images: str | os.PathLike | np.ndarray | Sequence[str | os.PathLike | np.ndarray]
    ) -> Instances | list[Instances]:
        """Detect the objects of one image, or of each in a sequence.

        Args:
            images: paths, or pixels (H, W, 3), uint8, RGB (Detectron2's predictor takes BGR).

        Returns:
            ``pred_boxes`` in the pixels of the image (upright, where EXIF rotates a file),
            ``scores`` and ``pred_classes``, best first, on the CPU; for a sequence, a list.

        Raises:
            UnreadableImage: naming the file and the reason.
            ValueError: an array is not an image.
        """
        if isinstance(images, (str, os.PathLike, np.ndarray)):
            return self([images])[0]
        detections = []
        loaded = (future.result() for future in read_ahead(self.load, images, self.batch_size))
        while batch := [inputs for _, inputs in islice(loaded, self.batch_size)]:
            detections += self.detect(batch)
        return detections

    def load(self, image: str | os.PathLike | np.ndarray) -> tuple[np.ndarray, dict]:
        """Read an image: its pixels, as :meth:`read` returns them, and the input made of them."""
        pixels = self.read(image)
        return pixels, self.map_pixels(pixels)

    def read(self, image: str | os.PathLike | np.ndarray) -> np.ndarray:
        """Read a file, or check an array: (H, W, 3), uint8, RGB."""
        if not isinstance(image, np.ndarray):
            return self.read_file(image)
        if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or not image.size:
            raise ValueError(
                "An image must be an array (height, width, 3) of uint8, in the order RGB; this one "
                f"has the shape {image.shape} and the type {image.dtype}."
            )
        return image

    def detect(self, inputs: list[dict]) -> list[Instances]:
        """Detect the objects of one batch of inputs made by ``map_pixels``."""
        detections = []
        for output in self.run(inputs):
            found = output["instances"].to("cpu")
            # Tensors of inference mode could not be changed in place.
            fields = {name: field.clone() for name, field in found.get_fields().items()}
            detections.append(Instances(found.image_size, **fields))
        return detections


class CompleteCheckpointer(Checkpointer):
    """Checkpointer that refuses weights that leave a part of the model as initialised."""

    def _load_model(self, checkpoint: dict):
        incompatible = super()._load_model(checkpoint)
        difference = Mismatch(incompatible.missing_keys, (), incompatible.incorrect_shapes)
        if difference:
            raise ValueError(
                f"The weights do not fit the config: {difference}. Use the config that they were "
                "trained with."
            )
        return incompatible


def resolve_detector(
    config: str | os.PathLike | CfgNode | None, weights: str | os.PathLike, opts: Sequence
) -> tuple[CfgNode, list[str]]:
    """Return a detector's config, checked and resolved for this machine, and its class names.

    Raises:
        ValueError: naming the key or file, its value, and the fix.
    """
    saved, names = read_metadata(weights)
    if config is None:
        if not saved:
            raise ValueError(
                f"{weights} holds no config: it is older, damaged, or of another program. Name "
                "the config that it was trained with."
            )
        cfg = parse_config(saved, f"The config inside {weights}")
        merge_options(cfg, opts)
    elif isinstance(config, CfgNode):
        cfg = config.clone()
        cfg.defrost()
        merge_options(cfg, opts)
    else:
        cfg = load_config(os.fspath(config), opts)
    check_model(cfg)
    check_input(cfg)
    # The names in the checkpoint are those of its own config, whose datasets may be absent.
    if config is not None or not names:
        names = _agree_on_names(cfg, config, weights, names)
    count = class_count(cfg)
    if names:
        set_num_classes(cfg, names, f"{weights} was trained on")
    elif count is None:
        raise ValueError(
            f"Neither {weights} nor the config tells the classes. Name a dataset that has them "
            "in DATASETS.TEST."
        )
    else:
        names = [str(i) for i in range(count[1])]
    resolve_device(cfg, num_gpus=1)
    resolve_sync_norm(cfg, world_size=1)
    cfg.freeze()
    return cfg, names


def _agree_on_names(
    cfg: CfgNode,
    config: str | os.PathLike | CfgNode | None,
    weights: str | os.PathLike,
    names: list[str],
) -> list[str]:
    """Return the class names that checkpoint and datasets agree on; empty where neither has any.

    Args:
        config: the argument that ``cfg`` was read from.
        names: those of the checkpoint, if any.

    Raises:
        ValueError: the names differ; or the checkpoint has none, and a dataset is not there.
    """
    datasets = [*(cfg.DATASETS.TRAIN or ()), *(cfg.DATASETS.TEST or ())]
    file = os.fspath(config) if isinstance(config, (str, os.PathLike)) else ""
    try:
        setup_datasets(cfg, file, datasets)
    except ValueError:
        if not names:
            raise
        return names  # detecting needs no dataset
    for dataset, classes in known_classes(datasets).items():
        if names and classes != names:
            raise ValueError(
                f"{weights} was trained on the classes {shorten(names)}, but the config's dataset "
                f"'{dataset}' has {shorten(classes)}. Use the config it was trained with."
            )
        names = classes
    return names
