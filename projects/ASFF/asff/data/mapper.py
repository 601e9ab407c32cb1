"""Map dataset dicts to what a detector trains on: square images, boxes and mixup weights.

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
from .boxes import clip_boxes, corner_boxes
from .image_io import PILLOW_ERRORS, UnreadableImage, check_size, read_image
from .mixup import mix_images


def to_tensor(image: np.ndarray) -> torch.Tensor:
    """Convert (H, W, 3) to (3, H, W)."""
    # Channel by channel: a transposed copy takes four times as long.
    return torch.from_numpy(np.stack(cv2.split(image)))


class SquareMapper:
    """Read, mix and augment images, and resize them to a square, as the authors do.

    Args:
        augmentations: Detectron2's or ours, applied between mixup and the resize to the square.
        interpolations: OpenCV's, of which one is drawn for the resize.
        image_format: order of the channels of the default ``read``, "RGB" or "BGR".
        min_box_side: in pixels of the square; boxes with a shorter side are dropped.
        min_box_visible: boxes of which a smaller share of the area remains inside the image are
            dropped.
        read: reads a file to (H, W, 3), uint8; by default :func:`read_image`.
    """

    # Attributes, so that the benchmark of the data can measure their times.
    mix_images = staticmethod(mix_images)
    to_tensor = staticmethod(to_tensor)

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
        self.min_box_side = min_box_side
        self.min_box_visible = min_box_visible
        self.read = read or partial(read_image, image_format=image_format)

    def __call__(
        self, dataset_dict: dict, partner: dict | None = None, *, weight: float = 1.0, size: int
    ) -> dict:
        """Map a dataset dict, or a mixture of two.

        Args:
            partner: dataset dict of the image to mix in, if any.
            weight: lambda, the share of the first image in the mixture.
            size: S.

        Returns:
            The first dataset dict without its annotations, with ``image`` (3, S, S), uint8, and, if
            it had annotations, ``instances`` with ``gt_boxes``, ``gt_classes`` and ``gt_weights``,
            and ``dropped_boxes``, the number of boxes that augmentation made too small.

        Raises:
            UnreadableImage: a file cannot be read, or its size is not that of its dataset dict.
        """
        image, boxes, classes = self.load(dataset_dict)
        height, width = image.shape[:2]
        weights = np.full(len(boxes), weight)
        if partner is not None:
            other_image, other_boxes, other_classes = self.load(partner)
            image = self.mix_images(image, other_image, weight)
            boxes = np.concatenate([boxes, other_boxes])
            classes = np.concatenate([classes, other_classes])
            weights = np.concatenate([weights, np.full(len(other_boxes), 1 - weight)])

        view = T.AugInput(image, boxes=boxes)
        for augmentation in self.augmentations_for(size):
            augmentation(view)

        mapped = {"height": height, "width": width, **dataset_dict}
        annotated = mapped.pop("annotations", None) is not None
        mapped["image"] = self.to_tensor(view.image)
        if annotated:
            boxes, kept = self.clip(view.boxes, size)
            instances = Instances((size, size))
            instances.gt_boxes = Boxes(torch.from_numpy(boxes[kept]).float())
            instances.gt_classes = torch.from_numpy(classes[kept])
            instances.gt_weights = torch.from_numpy(weights[kept]).float()
            mapped.update(instances=instances, dropped_boxes=int((~kept).sum()))
        return mapped

    def load(self, dataset_dict: dict) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Read an image (H, W, 3), and its boxes (M, 4) and classes (M,).

        Crowds and boxes that have no area inside the image are left out.
        """
        image = self.read(dataset_dict["file_name"])
        check_size(image, dataset_dict)
        objects = [x for x in dataset_dict.get("annotations", ()) if not x.get("iscrowd", 0)]
        boxes, valid = clip_boxes(corner_boxes(objects), *image.shape[:2])
        classes = np.array([x["category_id"] for x in objects], np.int64)
        return image, boxes[valid], classes[valid]

    def augmentations_for(self, size: int) -> list[T.Augmentation]:
        """Return the augmentations with the resizes around them."""
        resize = ResizeSquare(size, self.interpolations)
        if not self.augmentations:
            return [resize]
        # A crop to half the sides needs no more than twice the square; this bounds time and memory.
        return [ResizeLongestEdge(2 * size), *self.augmentations, resize]

    def clip(self, boxes: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
        """Clip boxes to the square; return them and which of them are large enough to keep."""
        clipped, has_area = clip_boxes(boxes, size, size)
        sides, clipped_sides = boxes[:, 2:] - boxes[:, :2], clipped[:, 2:] - clipped[:, :2]
        visible = clipped_sides.prod(axis=1) >= self.min_box_visible * sides.prod(axis=1)
        large = (clipped_sides >= self.min_box_side).all(axis=1)
        return clipped, visible & large & has_area


class WrappedDatasetMapper:
    """Detectron2's DatasetMapper with the interface of :class:`SquareMapper`; it cannot mix."""

    def __init__(self, mapper: DatasetMapper):
        self.mapper = mapper

    def __call__(
        self, dataset_dict: dict, partner: None = None, *, weight: float = 1.0, size: int = 0
    ) -> dict:
        try:
            mapped = self.mapper(dataset_dict)
        except (*PILLOW_ERRORS, SizeMismatchError) as error:
            raise UnreadableImage(f"{dataset_dict['file_name']}: {error}") from error
        if "instances" in mapped:
            boxes = sum(not x.get("iscrowd", 0) for x in dataset_dict["annotations"])
            mapped["dropped_boxes"] = boxes - len(mapped["instances"])
        return mapped
