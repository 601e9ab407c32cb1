"""Loaders: Detectron2's, with images squashed to a square as the authors do."""

from __future__ import annotations

import detectron2.data.transforms as T
from detectron2.config import CfgNode
from detectron2.data import (
    DatasetMapper,
    build_detection_test_loader,
    build_detection_train_loader,
    get_detection_dataset_dicts,
)
from torch.utils.data import DataLoader

from .checks import check_num_classes


def build_augmentations(cfg: CfgNode, is_train: bool) -> list[T.Augmentation]:
    """Square resize; in training also Detectron2's crop and flips, by its INPUT keys.

    INPUT.RANDOM_FLIP may name both directions: "horizontal+vertical".
    """
    size = cfg.INPUT.TRAIN_SIZE if is_train else cfg.INPUT.TEST_SIZE
    augmentations = [T.Resize((size, size))]
    if is_train:
        if cfg.INPUT.CROP.ENABLED:
            augmentations.insert(0, T.RandomCrop(cfg.INPUT.CROP.TYPE, cfg.INPUT.CROP.SIZE))
        for direction in ("horizontal", "vertical"):
            if direction in cfg.INPUT.RANDOM_FLIP:
                vertical = direction == "vertical"
                augmentations.append(T.RandomFlip(horizontal=not vertical, vertical=vertical))
    return augmentations


def build_mapper(cfg: CfgNode, is_train: bool) -> DatasetMapper:
    """A Detectron2 mapper: dataset dict to ``image`` (3, S, S) and ``instances``.

    Meta-architectures other than YOLOv3 keep Detectron2's own augmentations and aspect ratio.
    """
    if cfg.MODEL.META_ARCHITECTURE != "YOLOv3":
        return DatasetMapper(cfg, is_train=is_train)
    return DatasetMapper(
        is_train, augmentations=build_augmentations(cfg, is_train), image_format=cfg.INPUT.FORMAT
    )


def load_training_dicts(cfg: CfgNode) -> list[dict]:
    """The dataset dicts of ``cfg.DATASETS.TRAIN``, once loaded checked against the class count.

    Raises:
        ValueError: annotations cannot be read, or the class counts differ.
    """
    try:
        dicts = get_detection_dataset_dicts(
            cfg.DATASETS.TRAIN, filter_empty=cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS
        )
    except (KeyError, ValueError, AssertionError) as error:
        names = ", ".join(cfg.DATASETS.TRAIN)
        raise ValueError(
            f"DATASETS.TRAIN ({names}) cannot be used: {type(error).__name__}: {error}"
        ) from error
    for record in dicts:
        for annotation in record.get("annotations", ()):
            # Detectron2's transforms compute in the type of a box: whole numbers would stay whole.
            annotation["bbox"] = [float(x) for x in annotation["bbox"]]
    check_num_classes(cfg, cfg.DATASETS.TRAIN)
    return dicts


def build_train_loader(cfg: CfgNode, dataset_dicts: list[dict] | None = None) -> DataLoader:
    """An endless loader of this process's share of the batches.

    Args:
        dataset_dicts: of ``cfg.DATASETS.TRAIN``, if already loaded.
    """
    return build_detection_train_loader(
        load_training_dicts(cfg) if dataset_dicts is None else dataset_dicts,
        mapper=build_mapper(cfg, is_train=True),
        total_batch_size=cfg.SOLVER.IMS_PER_BATCH,
        # Squares need no grouping.
        aspect_ratio_grouping=cfg.MODEL.META_ARCHITECTURE != "YOLOv3"
        and cfg.DATALOADER.ASPECT_RATIO_GROUPING,
        num_workers=cfg.DATALOADER.NUM_WORKERS,
    )


def build_test_loader(cfg: CfgNode, dataset_name: str) -> DataLoader:
    """A loader that passes once over this process's share of a dataset, image by image."""
    loader = build_detection_test_loader(
        cfg, dataset_name, mapper=build_mapper(cfg, is_train=False)
    )
    check_num_classes(cfg, [dataset_name])
    return loader
