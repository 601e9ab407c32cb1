"""Mappers and loaders of evaluation and inference."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
from detectron2.config import CfgNode
from detectron2.data import DatasetMapper, build_detection_test_loader
from detectron2.data import transforms as T
from detectron2.data.detection_utils import build_augmentation
from detectron2.data.detection_utils import read_image as read_with_pillow
from torch.utils.data import DataLoader

from .augmentation import ResizeSquare
from .datasets import check_num_classes
from .image_io import PILLOW_ERRORS, UnreadableImage, check_size, read_image
from .loader import start_worker
from .mapper import to_tensor

READERS = 4  # threads that read images ahead


def build_reader(cfg: CfgNode) -> Callable[[str | os.PathLike], np.ndarray]:
    """Build a function that reads a file as an evaluation does.

    It returns RGB pixels (H, W, 3), uint8, upright as EXIF says, and raises an UnreadableImage that
    names the file and the reason.
    """
    if cfg.INPUT.SQUARE:
        return read_image

    def read(path: str | os.PathLike) -> np.ndarray:
        # Decoders differ in the last bits, and Detectron2's mapper uses Pillow.
        try:
            return read_with_pillow(os.fspath(path), format="RGB")
        except (*PILLOW_ERRORS, ValueError) as error:
            raise UnreadableImage(f"{path}: {error}") from error

    return read


def build_pixel_mapper(cfg: CfgNode) -> Callable[[np.ndarray], dict]:
    """Build a function that maps RGB pixels (H, W, 3), uint8, to the input of a detector.

    It returns ``image`` (3, H', W'), resized as in an evaluation and with its channels in the order
    of INPUT.FORMAT, and H and W as ``height`` and ``width``.

    Raises:
        ValueError: INPUT.FORMAT is neither "RGB" nor "BGR".
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


def build_test_mapper(cfg: CfgNode) -> Callable[[dict], dict]:
    """Build the mapper of evaluation: from a dataset dict to ``image``, without annotations."""
    if not cfg.INPUT.SQUARE:
        return DatasetMapper(cfg, is_train=False)
    read, map_pixels = build_reader(cfg), build_pixel_mapper(cfg)

    def map_dict(dataset_dict: dict) -> dict:
        image = read(dataset_dict["file_name"])
        check_size(image, dataset_dict)
        kept = {key: value for key, value in dataset_dict.items() if key != "annotations"}
        return {**kept, **map_pixels(image)}

    return map_dict


def build_test_loader(cfg: CfgNode, dataset_name: str) -> DataLoader:
    """Build a loader of one pass over this process's share of a dataset, in lists of inputs."""
    loader = build_detection_test_loader(
        cfg, dataset_name, mapper=build_test_mapper(cfg), batch_size=cfg.TEST.IMS_PER_BATCH
    )
    loader.worker_init_fn = start_worker
    check_num_classes(cfg, [dataset_name])
    return loader


def read_ahead(read: Callable, items: Iterable, count: int) -> Iterator[Future]:
    """Call a function for items in threads, for up to ``count`` items more than were taken.

    Yields:
        the futures of the items, in their order.
    """
    with ThreadPoolExecutor(READERS) as pool:
        futures: deque[Future] = deque()
        for item in items:
            futures.append(pool.submit(read, item))
            if len(futures) > count:
                yield futures.popleft()
        yield from futures


def resized_shape(cfg: CfgNode, height: int, width: int) -> tuple[int, int]:
    """Return the height and width to which an evaluation resizes an image."""
    if cfg.INPUT.SQUARE:
        return cfg.INPUT.TEST_SIZE, cfg.INPUT.TEST_SIZE
    if cfg.INPUT.MIN_SIZE_TEST == 0:  # Detectron2's way to switch resizing off
        return height, width
    return T.ResizeShortestEdge.get_output_shape(
        height, width, cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST
    )
