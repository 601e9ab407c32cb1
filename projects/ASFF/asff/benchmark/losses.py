"""Time of YOLOv3's matching and losses, against a plain Python loop over the objects."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from detectron2.structures import Boxes, Instances
from torch import Tensor

from ..analysis.cost import measure_seconds
from ..modeling import (
    DensePredictions,
    GroundTruth,
    YOLOv3AnchorGenerator,
    YOLOv3Losses,
    YOLOv3Matcher,
    shape_iou,
)
from ..modeling.yolov3.anchor_generator import AnchorGrid
from ..modeling.yolov3.box_regression import box_iou, get_deltas

# (width, height) in pixels at strides 32, 16 and 8.
ANCHORS = (
    ((116, 90), (156, 198), (373, 326)),
    ((30, 61), (62, 45), (42, 119)),
    ((10, 13), (16, 30), (33, 23)),
)
STRIDES = (32, 16, 8)
IGNORE_THRESH = 0.7
REPEATS = 10


def measure_losses(
    num_images: int = 16, num_boxes: int = 50, size: int = 416, num_classes: int = 80
) -> str:
    """Time matching, losses and gradients of a batch of random boxes and predictions.

    Args:
        num_boxes: objects of each image.
        size: height and width of the images in pixels, divisible by 32.
    """
    anchors = YOLOv3AnchorGenerator(ANCHORS, STRIDES, anchor_free=True)
    matcher, losses = YOLOv3Matcher(anchors, ignore_thresh=IGNORE_THRESH), YOLOv3Losses(num_classes)
    predictions = _random_predictions(anchors, num_images, size, num_classes)
    gt = GroundTruth.from_instances(
        [_random_instances(num_boxes, size, num_classes) for _ in range(num_images)]
    )

    def seconds(compute: Callable[[], dict[str, Tensor]]) -> float:
        return measure_seconds(
            lambda: torch.autograd.grad(sum(compute().values()), _logits(predictions))
        )

    best = min(
        seconds(lambda: losses(predictions, matcher(predictions, gt), gt, float(size**2)))
        for _ in range(REPEATS)
    )
    in_loop = seconds(lambda: compute_in_loop(predictions, gt, float(size**2)))
    return (
        f"Matching, losses and gradients of {num_images} images of {size} pixels, {num_boxes} "
        f"boxes each, {num_classes} classes, {torch.get_num_threads()} threads: {best:.3f} s at "
        f"best, {in_loop / best:.0f} times as fast as a loop over the boxes ({in_loop:.1f} s)."
    )


def _logits(predictions: DensePredictions) -> tuple[Tensor, ...]:
    x = predictions
    return x.box_logits, x.obj_logits, x.cls_logits, x.shape_logits


def _random_predictions(
    anchors: YOLOv3AnchorGenerator, num_images: int, size: int, num_classes: int
) -> DensePredictions:
    grid = anchors([(size // stride, size // stride) for stride in STRIDES])
    logits = [
        torch.randn(num_images, len(grid.strides), *shape, requires_grad=True)
        for shape in ((4,), (), (num_classes,), (2,))
    ]
    return DensePredictions(*logits, grid)


def _random_instances(num_boxes: int, size: int, num_classes: int) -> Instances:
    """Draw boxes of 5 pixels to the whole image."""
    sides = 5 * (size / 5) ** torch.rand(num_boxes, 2)
    corners = torch.rand(num_boxes, 2) * (size - sides)
    instances = Instances((size, size))
    instances.gt_boxes = Boxes(torch.cat([corners, corners + sides], dim=1))
    instances.gt_classes = torch.randint(num_classes, (num_boxes,))
    return instances


def compute_in_loop(
    predictions: DensePredictions, gt: GroundTruth, image_area: float
) -> dict[str, Tensor]:
    """Compute what matcher and losses do, image by image and object by object.

    Args:
        gt: ground truth, of which all boxes are valid and all weights 1.
        image_area: pixels of one image.
    """
    total: dict[str, Tensor] = {}
    images = zip(*(x.unbind() for x in _logits(predictions)))
    for logits, gt_boxes, gt_classes in zip(images, gt.boxes, gt.classes):
        image = DensePredictions(*logits, predictions.grid)
        for name, loss in _image_losses(image, gt_boxes, gt_classes, image_area):
            total[name] = total.get(name, 0) + loss / len(gt.boxes)
    return total


def _image_losses(
    image: DensePredictions, gt_boxes: Tensor, gt_classes: Tensor, image_area: float
) -> Iterator[tuple[str, Tensor]]:
    """Yield the loss terms of an image, without the dimension N, under their names."""
    sizes, boxes = image.anchor_sizes(), image.boxes()
    matched: dict[int, Tensor] = {}  # anchor to its object; a later one overwrites
    shapes: dict[int, Tensor] = {}  # anchor to the object whose shape it learns
    cls_targets = torch.zeros_like(image.cls_logits)
    ignored = torch.zeros(len(boxes), dtype=torch.bool)
    for gt_box, gt_class in zip(gt_boxes, gt_classes):
        anchor, *shape_anchors = _match_object(image.grid, sizes.detach(), gt_box)
        matched[anchor] = gt_box
        shapes.update(dict.fromkeys(shape_anchors, gt_box))
        cls_targets[anchor, gt_class] = 1.0
        ignored |= box_iou(boxes.detach(), gt_box) > IGNORE_THRESH

    obj_targets = torch.zeros(len(boxes))
    obj_targets[list(matched)] = 1.0
    obj_weights = ((obj_targets > 0) | ~ignored).float()
    yield "loss_obj", _cross_entropy(image.obj_logits, obj_targets, obj_weights)
    # Indexed at once: the gradient of each single index would be as large as all anchors.
    values = image.cls_logits, cls_targets, image.box_logits, boxes, sizes
    values = (x[list(matched)] for x in (*values, image.grid.locations, image.grid.strides))
    for gt_box, *object_values in zip(matched.values(), *values):
        yield from _object_losses(gt_box, image_area, *object_values)
    for gt_box, size in zip(shapes.values(), sizes[list(shapes)]):
        yield "loss_shape", 1 - shape_iou(size, gt_box[2:]) ** 2


def _object_losses(
    gt_box: Tensor,
    image_area: float,
    cls_logits: Tensor,
    cls_targets: Tensor,
    box_logits: Tensor,
    box: Tensor,
    *anchor: Tensor,
) -> Iterator[tuple[str, Tensor]]:
    """Yield the loss terms of an object, matched to an anchor of this size, location and stride."""
    yield "loss_cls", _cross_entropy(cls_logits, cls_targets)
    targets = get_deltas(gt_box, *anchor)
    scale = 2 - gt_box[2:].prod() / image_area
    center = _cross_entropy(box_logits[:2], targets[:2])
    yield "loss_box", scale * (center + (box_logits[2:] - targets[2:]).abs().sum())
    yield "loss_iou", scale * (1 - box_iou(box, gt_box) ** 2)


def _cross_entropy(logits: Tensor, targets: Tensor, weights: Tensor | None = None) -> Tensor:
    return F.binary_cross_entropy_with_logits(logits, targets, weights, reduction="sum")


def _match_object(grid: AnchorGrid, sizes: Tensor, gt_box: Tensor) -> tuple[int, int, int]:
    """Match an object, given the predicted anchors (R, 2) in pixels.

    Returns:
        The anchor it is matched to; the preset and the anchor-free one whose shapes it trains.
    """
    best = -1.0
    for stride in STRIDES[::-1]:
        at_location = (grid.locations == gt_box[:2] // stride).all(dim=1)
        at_location &= grid.strides[:, 0] == stride
        *candidates, anchor_free = at_location.nonzero()[:, 0].tolist()
        for candidate in candidates:
            iou = shape_iou(grid.sizes[candidate], gt_box[2:])
            if iou > best:
                best, preset, free = iou, candidate, anchor_free
    free_is_better = shape_iou(sizes[free], gt_box[2:]) > best
    return free if free_is_better else preset, preset, free
