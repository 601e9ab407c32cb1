"""Training mappers, batch plans, datasets and loaders from the config."""

from __future__ import annotations

import logging
import math
import shutil
import tempfile
from collections.abc import Sequence
from functools import partial

import cv2
import numpy as np
from detectron2.config import CfgNode
from detectron2.data import DatasetFromList, DatasetMapper, get_detection_dataset_dicts
from detectron2.data import transforms as T
from detectron2.data.samplers import RepeatFactorTrainingSampler
from detectron2.utils import comm

from ..config import images_per_iteration
from .augmentation import RandomAffine, RandomColor, RandomExpand, RandomMinIoUCrop
from .batch_plan import (
    BatchPlan,
    BatchPlanSampler,
    MixupSchedule,
    SizeSchedule,
    epoch_length,
)
from .datasets import check_num_classes, summarize
from .image_cache import GIB, ImageCache
from .image_io import read_image
from .loader import TrainingLoader
from .mapper import SquareMapper, WrappedDatasetMapper
from .training_dataset import TrainingDataset

logger = logging.getLogger("asff")

BILINEAR = (cv2.INTER_LINEAR,)
# INTER_NEAREST would move the image by up to half a pixel.
NEAREST = cv2.INTER_NEAREST_EXACT
INTERPOLATIONS = (*BILINEAR, cv2.INTER_CUBIC, NEAREST, cv2.INTER_AREA, cv2.INTER_LANCZOS4)


def build_augmentations(cfg: CfgNode) -> list[T.Augmentation]:
    """Build the augmentations between mixup and the resize to a square.

    Boxes are clipped once, at the end, so no augmentation after the crop may enlarge the image.
    """
    options, augmentations = cfg.INPUT, []
    fill = [round(x) for x in cfg.MODEL.PIXEL_MEAN]
    for node, build in (
        (options.COLOR, partial(RandomColor, image_format=options.FORMAT)),
        (options.EXPAND, partial(RandomExpand, fill=fill)),
        (options.AFFINE, partial(RandomAffine, fill=fill)),
    ):
        if node.PROB:
            limits = {key.lower(): value for key, value in node.items() if key != "PROB"}
            augmentations.append(T.RandomApply(build(**limits), node.PROB))
    if options.CROP.ENABLED and options.CROP.TYPE == "min_iou":
        augmentations.append(RandomMinIoUCrop(options.CROP.MIN_IOUS, options.CROP.MIN_SIZE))
    elif options.CROP.ENABLED:
        augmentations.append(T.RandomCrop(options.CROP.TYPE, options.CROP.SIZE))
    for direction in ("horizontal", "vertical"):
        if direction in options.RANDOM_FLIP:
            augmentations.append(T.RandomFlip(**{"horizontal": False, direction: True}))
    return augmentations


def build_train_mapper(
    cfg: CfgNode, dataset_dicts: Sequence[dict] = ()
) -> SquareMapper | WrappedDatasetMapper:
    """Build the mapper of a :class:`TrainingDataset`.

    Args:
        dataset_dicts: needed only for DATALOADER.CACHE.
    """
    if not cfg.INPUT.SQUARE:
        return WrappedDatasetMapper(DatasetMapper(cfg, is_train=True))
    return SquareMapper(
        augmentations=build_augmentations(cfg),
        interpolations=INTERPOLATIONS if cfg.INPUT.RANDOM_INTERPOLATION else BILINEAR,
        image_format=cfg.INPUT.FORMAT,
        min_box_side=cfg.INPUT.MIN_BOX_SIDE,
        min_box_visible=cfg.INPUT.MIN_BOX_VISIBLE,
        read=_build_cache(cfg, dataset_dicts) if cfg.DATALOADER.CACHE else None,
    )


def _build_cache(cfg: CfgNode, dataset_dicts: Sequence[dict]) -> ImageCache:
    """Build the image cache of this process; the processes of a machine share the limit."""
    on_disk = cfg.DATALOADER.CACHE == "disk"
    limit = cfg.DATALOADER.CACHE_LIMIT * GIB
    if on_disk:
        # Writing to a mapped file on a full disk kills the process without a message.
        limit = min(limit, shutil.disk_usage(tempfile.gettempdir()).free)
    return ImageCache(
        dataset_dicts,
        partial(read_image, image_format=cfg.INPUT.FORMAT),
        on_disk=on_disk,
        limit=limit / comm.get_local_size(),
    )


def build_batch_plan(cfg: CfgNode, dataset_dicts: Sequence[dict], seed: int) -> BatchPlan:
    """Build the batch plan of SOLVER.MAX_ITER iterations, and log a summary of it."""
    factors = _repeat_factors(cfg, dataset_dicts)
    per_epoch = epoch_length(factors) / images_per_iteration(cfg)
    sizes = _build_sizes(cfg, per_epoch)
    mixup = _build_mixup(cfg, per_epoch, len(dataset_dicts))
    parts = [f"{len(dataset_dicts)} images, {per_epoch:.1f} iterations per epoch"]
    if cfg.INPUT.SQUARE:
        schedule = f"sizes {', '.join(map(str, sizes.choices))}"
        if len(sizes.choices) > 1:
            schedule += f", a new one every {sizes.period} iterations"
        if sizes.final_start < cfg.SOLVER.MAX_ITER:
            schedule += f", {sizes.final} from iteration {sizes.final_start} on"
        parts += [schedule, f"mixup before iteration {mixup.end}" if mixup.prob else "no mixup"]
    logger.info(f"Deterministic batch plan: {'; '.join(parts)}.")
    return BatchPlan(
        factors,
        batch_size=images_per_iteration(cfg),
        seed=seed,
        sizes=sizes,
        mixup=mixup,
        groups=_aspect_groups(cfg, dataset_dicts),
    )


def _repeat_factors(cfg: CfgNode, dataset_dicts: Sequence[dict]) -> np.ndarray:
    if cfg.DATALOADER.SAMPLER_TRAIN != "RepeatFactorTrainingSampler":
        return np.ones(len(dataset_dicts))
    factors = RepeatFactorTrainingSampler.repeat_factors_from_category_frequency(
        dataset_dicts, cfg.DATALOADER.REPEAT_THRESHOLD, sqrt=cfg.DATALOADER.REPEAT_SQRT
    )
    return factors.double().numpy()  # in float32 their running sum would drift


def _build_sizes(cfg: CfgNode, per_epoch: float) -> SizeSchedule:
    """Build the size schedule, given the iterations per epoch."""
    options = cfg.INPUT
    fixed = max(math.ceil(options.FINAL_SIZE_EPOCHS * per_epoch), options.FINAL_SIZE_ITERS)
    return SizeSchedule(
        options.TRAIN_SIZES,
        options.SIZE_PERIOD,
        # The largest comes first, so that a lack of memory shows at once.
        first=max([*options.TRAIN_SIZES, options.FINAL_SIZE] if fixed else options.TRAIN_SIZES),
        final=options.FINAL_SIZE,
        final_start=max(cfg.SOLVER.MAX_ITER - fixed, 0),
    )


def _build_mixup(cfg: CfgNode, per_epoch: float, num_images: int) -> MixupSchedule:
    """Build the mixup schedule, given the iterations per epoch; it is off for too few images."""
    options, prob = cfg.INPUT.MIXUP, cfg.INPUT.MIXUP.PROB
    least = max(options.MIN_IMAGES, 2)
    if prob and num_images < least:
        logger.info(
            f"Mixup is off: there are {num_images} images, fewer than {least} "
            "(INPUT.MIXUP.MIN_IMAGES)."
        )
        prob = 0.0
    without = max(math.ceil(options.OFF_EPOCHS * per_epoch), options.OFF_ITERS)
    return MixupSchedule(prob, options.ALPHA, max(cfg.SOLVER.MAX_ITER - without, 0))


def _aspect_groups(cfg: CfgNode, dataset_dicts: Sequence[dict]) -> np.ndarray | None:
    """Group wide and high images, because a batch is padded to one shape; squares need none."""
    if cfg.INPUT.SQUARE or not cfg.DATALOADER.ASPECT_RATIO_GROUPING:
        return None
    return np.array([x.get("width", 0) > x.get("height", 0) for x in dataset_dicts], int)


def load_training_dicts(cfg: CfgNode) -> list[dict]:
    """Load the dataset dicts of ``cfg.DATASETS.TRAIN``, and log which annotations are not used.

    Raises:
        ValueError: annotations cannot be read, no image is left, or the class counts differ.
    """
    names = cfg.DATASETS.TRAIN
    if not names:
        raise ValueError("DATASETS.TRAIN is empty: name at least one dataset.")
    keypoints, proposals = cfg.MODEL.KEYPOINT_ON, cfg.MODEL.LOAD_PROPOSALS
    try:
        dataset_dicts = get_detection_dataset_dicts(
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
    for dataset_dict in dataset_dicts:
        for annotation in dataset_dict.get("annotations", ()):
            # Detectron2's transforms keep the dtype of a box: integers would be rounded.
            annotation["bbox"] = [float(x) for x in annotation["bbox"]]
    check_num_classes(cfg, names)
    for level, line in summarize(dataset_dicts):
        logger.log(level, line)
    return dataset_dicts


def build_train_dataset(cfg: CfgNode, dataset_dicts: Sequence[dict]) -> TrainingDataset:
    """Build the dataset of training; its dicts are serialized once, for all workers."""
    return TrainingDataset(DatasetFromList(dataset_dicts), build_train_mapper(cfg, dataset_dicts))


def build_train_loader(
    cfg: CfgNode, dataset_dicts: list[dict] | None = None, *, seed: int | None = None
) -> TrainingLoader:
    """Build an endless loader of this process's share of the batches.

    Args:
        dataset_dicts: of ``cfg.DATASETS.TRAIN``, if already loaded.
        seed: of the batch plan, the same in all processes; by default the config's.
    """
    dataset_dicts = load_training_dicts(cfg) if dataset_dicts is None else dataset_dicts
    batch_plan = build_batch_plan(cfg, dataset_dicts, resolve_seed(cfg) if seed is None else seed)
    return TrainingLoader(
        build_train_dataset(cfg, dataset_dicts),
        BatchPlanSampler(batch_plan, rank=comm.get_rank(), world_size=comm.get_world_size()),
        num_workers=cfg.DATALOADER.NUM_WORKERS,
        max_unreadable=cfg.DATALOADER.MAX_UNREADABLE,
    )


def resolve_seed(cfg: CfgNode) -> int:
    """Return the config's SEED, or draw one for all processes if it is negative."""
    return cfg.SEED if cfg.SEED >= 0 else comm.shared_random_seed()
