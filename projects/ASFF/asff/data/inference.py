"""Images that belong to no dataset, on the way that an evaluation's images take to the network."""

from __future__ import annotations

import os
from collections.abc import Callable

import numpy as np
from detectron2.config import CfgNode
from detectron2.data import transforms as T
from detectron2.data.detection_utils import build_augmentation
from detectron2.data.detection_utils import read_image as read_with_pillow

from .augmentation import ResizeSquare
from .image_io import PILLOW_ERRORS, UnreadableImage, read_image
from .mapper import to_tensor


def build_reader(cfg: CfgNode) -> Callable[[str | os.PathLike], np.ndarray]:
    """Reads a file to RGB pixels (H, W, 3), uint8, upright as EXIF says.

    Raises (the reader):
        UnreadableImage: naming the file and the reason.
    """
    if cfg.INPUT.SQUARE:
        return lambda path: read_image(os.fspath(path))

    def read(path: str | os.PathLike) -> np.ndarray:
        # Decoders differ in the last bits: Detectron2's mapper has Pillow's.
        try:
            return read_with_pillow(os.fspath(path), format="RGB")
        except (*PILLOW_ERRORS, ValueError) as error:
            raise UnreadableImage(f"{path}: {error}") from error

    return read


def build_pixel_mapper(cfg: CfgNode) -> Callable[[np.ndarray], dict]:
    """As :func:`build_test_mapper`, but from RGB pixels in place of a dataset dict.

    The mapper makes of (H, W, 3), uint8, what a detector takes: ``image``, resized and with the
    channels in the order of INPUT.FORMAT, and H and W as ``height`` and ``width``.

    Raises:
        ValueError: INPUT.FORMAT is none that RGB pixels can be turned into.
    """
    if cfg.INPUT.FORMAT not in ("RGB", "BGR"):
        raise ValueError(f"INPUT.FORMAT is '{cfg.INPUT.FORMAT}', but must be 'RGB' or 'BGR'.")
    if cfg.INPUT.SQUARE:
        resize = [ResizeSquare(cfg.INPUT.TEST_SIZE)]
    else:
        resize = build_augmentation(cfg, is_train=False)
    augmentations = T.AugmentationList(resize)

    def map_pixels(pixels: np.ndarray) -> dict:
        ordered = pixels if cfg.INPUT.FORMAT == "RGB" else pixels[..., ::-1]
        view = T.AugInput(np.ascontiguousarray(ordered))
        augmentations(view)
        height, width = pixels.shape[:2]
        return {"image": to_tensor(view.image), "height": height, "width": width}

    return map_pixels
