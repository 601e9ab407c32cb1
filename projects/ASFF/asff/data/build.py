"""From the config to mappers, the training stream and loaders."""

from __future__ import annotations

import logging
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import cv2
import numpy as np
from detectron2.config import CfgNode
from detectron2.data import (
    DatasetFromList,
    DatasetMapper,
    build_detection_test_loader,
    get_detection_dataset_dicts,
)
from detectron2.data import transforms as T
from detectron2.data.samplers import RepeatFactorTrainingSampler
from detectron2.utils import comm
from torch.utils.data import DataLoader

from .augmentation import RandomAffine, RandomColor, RandomExpand, RandomMinIoUCrop
from .batch_plan import BatchPlan, BatchPlanSampler, Mixup, Sizes, epoch_length, phase_length
from .datasets import check_num_classes, summarize
from .image_cache import GIB, ImageCache
from .image_io import read_image
from .loader import TrainingLoader
from .mapper import SquareMapper, WrappedDatasetMapper
from .training_dataset import TrainingDataset

logger = logging.getLogger("asff")

BILINEAR = (cv2.INTER_LINEAR,)
# INTER_NEAREST would move the picture by up to half a pixel.
NEAREST = cv2.INTER_NEAREST_EXACT
INTERPOLATIONS = (*BILINEAR, cv2.INTER_CUBIC, NEAREST, cv2.INTER_AREA, cv2.INTER_LANCZOS4)


def build_augmentations(cfg: CfgNode) -> list[T.Augmentation]:
    """What comes between mixup and the squash to a square; flips by INPUT.RANDOM_FLIP.

    Boxes are clipped once, at the end: nothing after the crop may enlarge the picture.
    """
    options, augmentations = cfg.INPUT, []
    fill = [round(x) for x in cfg.MODEL.PIXEL_MEAN]
    if options.COLOR.PROB:
        color = RandomColor(
            brightness=options.COLOR.BRIGHTNESS,
            contrast=options.COLOR.CONTRAST,
            saturation=options.COLOR.SATURATION,
            hue=options.COLOR.HUE,
            image_format=options.FORMAT,
        )
        augmentations.append(T.RandomApply(color, options.COLOR.PROB))
    if options.EXPAND.PROB:
        expand = RandomExpand(options.EXPAND.MAX_RATIO, fill)
        augmentations.append(T.RandomApply(expand, options.EXPAND.PROB))
    if options.AFFINE.PROB:
        affine = RandomAffine(
            rotation=options.AFFINE.ROTATION,
            shear=options.AFFINE.SHEAR,
            scale=options.AFFINE.SCALE,
            translation=options.AFFINE.TRANSLATION,
            fill=fill,
        )
        augmentations.append(T.RandomApply(affine, options.AFFINE.PROB))
    if options.CROP.ENABLED and options.CROP.TYPE == "min_iou":
        augmentations.append(RandomMinIoUCrop(options.CROP.MIN_IOUS, options.CROP.MIN_SIZE))
    elif options.CROP.ENABLED:
        augmentations.append(T.RandomCrop(options.CROP.TYPE, options.CROP.SIZE))
    for direction in ("horizontal", "vertical"):
        if direction in options.RANDOM_FLIP:
            vertical = direction == "vertical"
            augmentations.append(T.RandomFlip(horizontal=not vertical, vertical=vertical))
    return augmentations


def build_train_mapper(
    cfg: CfgNode, records: Sequence[dict] = ()
) -> SquareMapper | WrappedDatasetMapper:
    """The mapper of training: called with dataset dict, partner or None, ``weight``, ``size``.

    Args:
        records: dataset dicts, needed only for DATALOADER.CACHE.
    """
    if not cfg.INPUT.SQUARE:
        return WrappedDatasetMapper(DatasetMapper(cfg, is_train=True))
    return SquareMapper(
        augmentations=build_augmentations(cfg),
        interpolations=INTERPOLATIONS if cfg.INPUT.RANDOM_INTERPOLATION else BILINEAR,
        image_format=cfg.INPUT.FORMAT,
        min_box_side=cfg.INPUT.MIN_BOX_SIDE,
        min_box_visible=cfg.INPUT.MIN_BOX_VISIBLE,
        read=build_cache(cfg, records) if cfg.DATALOADER.CACHE else None,
    )


def build_test_mapper(cfg: CfgNode) -> Callable[[dict], dict]:
    """The mapper of evaluation: dataset dict to ``image``, without annotations."""
    if not cfg.INPUT.SQUARE:
        return DatasetMapper(cfg, is_train=False)
    mapper = SquareMapper(image_format=cfg.INPUT.FORMAT)

    def map_record(record: dict) -> dict:
        image = {key: value for key, value in record.items() if key != "annotations"}
        return mapper(image, size=cfg.INPUT.TEST_SIZE)

    return map_record


def build_cache(cfg: CfgNode, records: list[dict]) -> ImageCache:
    """The image cache of this process; those of a machine share the limit."""
    on_disk = cfg.DATALOADER.CACHE == "disk"
    limit = cfg.DATALOADER.CACHE_LIMIT * GIB
    if on_disk:
        # To write into a mapped file when the disk is full ends a process without a word.
        limit = min(limit, shutil.disk_usage(tempfile.gettempdir()).free)
    return ImageCache(
        records,
        partial(read_image, image_format=cfg.INPUT.FORMAT),
        on_disk=on_disk,
        limit=limit / comm.get_local_size(),
    )


def build_batch_plan(cfg: CfgNode, records: list[dict], seed: int) -> BatchPlan:
    """The stream over dataset dicts, for SOLVER.MAX_ITER iterations; says what it is like."""
    factors = np.ones(len(records))
    if cfg.DATALOADER.SAMPLER_TRAIN == "RepeatFactorTrainingSampler":
        factors = RepeatFactorTrainingSampler.repeat_factors_from_category_frequency(
            records, cfg.DATALOADER.REPEAT_THRESHOLD, sqrt=cfg.DATALOADER.REPEAT_SQRT
        )
        # In float32 their running sum would drift.
        factors = factors.double().numpy()
    options, end = cfg.INPUT, cfg.SOLVER.MAX_ITER
    per_epoch = epoch_length(factors) / cfg.SOLVER.IMS_PER_BATCH
    without = phase_length(options.MIXUP.OFF_EPOCHS, options.MIXUP.OFF_ITERS, per_epoch=per_epoch)
    fixed = phase_length(options.FINAL_SIZE_EPOCHS, options.FINAL_SIZE_ITERS, per_epoch=per_epoch)
    mixup = Mixup(options.MIXUP.PROB, options.MIXUP.ALPHA, max(end - without, 0))
    sizes = Sizes(
        options.TRAIN_SIZES,
        options.SIZE_PERIOD,
        # A lack of memory shows at once.
        first=max([*options.TRAIN_SIZES, options.FINAL_SIZE] if fixed else options.TRAIN_SIZES),
        final=options.FINAL_SIZE,
        final_start=max(end - fixed, 0),
    )
    least = max(options.MIXUP.MIN_IMAGES, 2)
    if mixup.prob and len(records) < least:
        logger.info(
            f"Mixup is off: there are {len(records)} images, fewer than {least} "
            "(INPUT.MIXUP.MIN_IMAGES)."
        )
        mixup = replace(mixup, prob=0.0)
    stream = BatchPlan(
        factors,
        batch_size=cfg.SOLVER.IMS_PER_BATCH,
        seed=seed,
        sizes=sizes,
        mixup=mixup,
        groups=aspect_groups(cfg, records),
    )
    parts = [f"{len(records)} images, {per_epoch:.1f} iterations an epoch"]
    if options.SQUARE:
        several = f", another every {sizes.period} iterations" if len(sizes.choices) > 1 else ""
        final = f", {sizes.final} from iteration {sizes.final_start} on" if fixed else ""
        parts.append(f"sizes {', '.join(map(str, sizes.choices))}{several}{final}")
        parts.append(f"mixup up to iteration {mixup.end}" if mixup.prob else "no mixup")
    logger.info(f"Training stream: {'; '.join(parts)}.")
    return stream


def aspect_groups(cfg: CfgNode, records: list[dict]) -> np.ndarray | None:
    """Which images are wide: padded to one size, they should share batches. Squares need not."""
    if cfg.INPUT.SQUARE or not cfg.DATALOADER.ASPECT_RATIO_GROUPING:
        return None
    return np.array([x.get("width", 0) > x.get("height", 0) for x in records], int)


def load_training_dicts(cfg: CfgNode) -> list[dict]:
    """The dataset dicts of ``cfg.DATASETS.TRAIN``; the log says what of them cannot be used.

    Raises:
        ValueError: annotations cannot be read, no image is there, or the class counts differ.
    """
    names = cfg.DATASETS.TRAIN
    if not names:
        raise ValueError("DATASETS.TRAIN is empty: name at least one dataset.")
    keypoints, proposals = cfg.MODEL.KEYPOINT_ON, cfg.MODEL.LOAD_PROPOSALS
    try:
        dicts = get_detection_dataset_dicts(
            names,
            filter_empty=cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS,
            min_keypoints=cfg.MODEL.ROI_KEYPOINT_HEAD.MIN_KEYPOINTS_PER_IMAGE if keypoints else 0,
            proposal_files=cfg.DATASETS.PROPOSAL_FILES_TRAIN if proposals else None,
        )
    except (KeyError, TypeError, ValueError, AssertionError) as error:
        kind = "" if type(error) is ValueError else f"{type(error).__name__}: "
        raise ValueError(
            f"DATASETS.TRAIN ({', '.join(names)}) cannot be used: {kind}{error}"
        ) from error
    for record in dicts:
        for annotation in record.get("annotations", ()):
            # Detectron2's transforms compute in the type of a box: whole numbers would stay whole.
            annotation["bbox"] = [float(x) for x in annotation["bbox"]]
    check_num_classes(cfg, names)
    for level, line in summarize(dicts):
        logger.log(level, line)
    return dicts


def build_train_dataset(cfg: CfgNode, records: list[dict]) -> TrainingDataset:
    """The dataset that maps the stream's samples; serialised once, for all workers."""
    return TrainingDataset(DatasetFromList(records), build_train_mapper(cfg, records))


def build_train_loader(
    cfg: CfgNode, records: list[dict] | None = None, *, seed: int | None = None
) -> TrainingLoader:
    """An endless loader of this process's share of the training stream.

    Args:
        records: of ``cfg.DATASETS.TRAIN``, if already loaded.
        seed: of the stream, the same in all processes; by default that of the config.
    """
    records = load_training_dicts(cfg) if records is None else records
    stream = build_batch_plan(cfg, records, resolve_seed(cfg) if seed is None else seed)
    sampler = BatchPlanSampler(stream, rank=comm.get_rank(), world_size=comm.get_world_size())
    return TrainingLoader(
        build_train_dataset(cfg, records),
        sampler,
        num_workers=cfg.DATALOADER.NUM_WORKERS,
        max_unreadable=cfg.DATALOADER.MAX_UNREADABLE,
    )


def resolve_seed(cfg: CfgNode) -> int:
    """The config's SEED; a negative one is drawn, the same for all processes."""
    return cfg.SEED if cfg.SEED >= 0 else comm.shared_random_seed()


def resized_shape(cfg: CfgNode, height: int, width: int) -> tuple[int, int]:
    """Height and width that a test image of this height and width has at the network's input."""
    if cfg.INPUT.SQUARE:
        return cfg.INPUT.TEST_SIZE, cfg.INPUT.TEST_SIZE
    if cfg.INPUT.MIN_SIZE_TEST == 0:  # Detectron2's way to switch resizing off
        return height, width
    return T.ResizeShortestEdge.get_output_shape(
        height, width, cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST
    )


def build_test_loader(cfg: CfgNode, dataset_name: str) -> DataLoader:
    """A loader that passes once over this process's share of a dataset, image by image."""
    loader = build_detection_test_loader(cfg, dataset_name, mapper=build_test_mapper(cfg))
    check_num_classes(cfg, [dataset_name])
    return loader
