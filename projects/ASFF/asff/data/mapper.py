"""Dataset dicts to what a detector takes: square images, their boxes and mixup weights.

Shape letters: H, W of an image, M boxes, S side of the square in pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import cv2
import numpy as np
import torch
from detectron2.data import DatasetMapper
from detectron2.data import transforms as T
from detectron2.data.detection_utils import SizeMismatchError
from detectron2.structures import Boxes, Instances

from .augmentation import ResizeLongestEdge, ResizeSquare
from .boxes import corner_boxes
from .image_io import PILLOW_ERRORS, UnreadableImage, check_size, read_image
from .mixup import mix_images


class SquareMapper:
    """Read, mix, augment and squash to a square, as the authors do.

    Args:
        augmentations: Detectron2's or ours, applied between mixup and the squash to the square.
        interpolations: of OpenCV, one of which is drawn for the squash.
        image_format: "RGB" or "BGR".
        min_box_side: in pixels of the square; smaller boxes are dropped.
        min_box_visible: share of a box's area that must be left in the image, or it is dropped.
        read: reads a file to (H, W, 3), uint8; by default :func:`read_image`.
    """

    def __init__(
        self,
        *,
        augmentations: Sequence[T.Augmentation] = (),
        interpolations: Sequence[int] = (cv2.INTER_LINEAR,),
        image_format: str = "RGB",
        min_box_side: float = 0.0,
        min_box_visible: float = 0.0,
        read: Callable[[str], np.ndarray] | None = None,
    ):
        self.augmentations = list(augmentations)
        self.interpolations = interpolations
        self.image_format = image_format
        self.min_box_side = min_box_side
        self.min_box_visible = min_box_visible
        self.read = read or partial(read_image, image_format=image_format)

    def __call__(
        self, record: dict, other: dict | None = None, *, weight: float = 1.0, size: int
    ) -> dict:
        """Map a dataset dict, mixed with another one where there is one.

        Args:
            weight: lambda, the share of the first image.
            size: S.

        Returns:
            The first dataset dict without its annotations, with ``image`` (3, S, S), uint8, and, if
            it had annotations, ``instances`` with ``gt_boxes``, ``gt_classes`` and ``gt_weights``,
            and ``dropped_boxes``, how many boxes augmentation left too little of.

        Raises:
            UnreadableImage: a file cannot be read, or is not of the size its dict says.
        """
        image, boxes, classes = self.load(record)
        height, width = image.shape[:2]
        weights = np.full(len(boxes), weight)
        if other is not None:
            other_image, other_boxes, other_classes = self.load(other)
            image = mix_images(image, other_image, weight)
            boxes = np.concatenate([boxes, other_boxes])
            classes = np.concatenate([classes, other_classes])
            weights = np.concatenate([weights, np.full(len(other_boxes), 1 - weight)])

        # Twice the square is all that a crop to half the sides needs, and bounds time and memory.
        squash = [ResizeSquare(size, self.interpolations)]
        shrink = [ResizeLongestEdge(2 * size)] if self.augmentations else []
        view = T.AugInput(image, boxes=boxes)
        T.AugmentationList([*shrink, *self.augmentations, *squash])(view)

        mapped = {"height": height, "width": width, **record}
        annotated = mapped.pop("annotations", None) is not None
        mapped["image"] = to_tensor(view.image)
        if annotated:
            boxes, kept = self.clip(view.boxes, size)
            instances = Instances((size, size))
            instances.gt_boxes = Boxes(torch.from_numpy(boxes[kept]).float())
            instances.gt_classes = torch.from_numpy(classes[kept])
            instances.gt_weights = torch.from_numpy(weights[kept]).float()
            mapped.update(instances=instances, dropped_boxes=int((~kept).sum()))
        return mapped

    def load(self, record: dict) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Image (H, W, 3), boxes (M, 4) and classes (M,) but for crowds and boxes without area."""
        image = self.read(record["file_name"])
        check_size(record["file_name"], image, record)
        objects = [x for x in record.get("annotations", ()) if not x.get("iscrowd", 0)]
        height, width = image.shape[:2]
        boxes = corner_boxes(objects).clip(0, (width, height, width, height))
        classes = np.array([x["category_id"] for x in objects], np.int64)
        valid = (boxes[:, 2:] > boxes[:, :2]).all(axis=1)
        return image, boxes[valid], classes[valid]

    def clip(self, boxes: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
        """Boxes clipped to the square, and which of them are to be kept."""
        clipped = boxes.clip(0, size)
        sides, clipped_sides = boxes[:, 2:] - boxes[:, :2], clipped[:, 2:] - clipped[:, :2]
        visible = clipped_sides.prod(axis=1) >= self.min_box_visible * sides.prod(axis=1)
        large = (clipped_sides >= self.min_box_side).all(axis=1) & (clipped_sides > 0).all(axis=1)
        return clipped, visible & large


def to_tensor(image: np.ndarray) -> torch.Tensor:
    """(H, W, 3) to (3, H, W)."""
    # By channels: a transposed copy takes four times as long.
    return torch.from_numpy(np.stack(cv2.split(image)))


class WrappedDatasetMapper:
    """Lets Detectron2's own mapper take part in the training stream; it cannot mix."""

    def __init__(self, mapper: DatasetMapper):
        self.mapper = mapper

    def __call__(
        self, record: dict, other: dict | None = None, *, weight: float = 1.0, size: int = 0
    ) -> dict:
        try:
            mapped = self.mapper(record)
        except (*PILLOW_ERRORS, SizeMismatchError) as error:
            raise UnreadableImage(f"{record['file_name']}: {error}") from error
        if "instances" in mapped:
            boxes = sum(not x.get("iscrowd", 0) for x in record["annotations"])
            mapped["dropped_boxes"] = boxes - len(mapped["instances"])
        return mapped
