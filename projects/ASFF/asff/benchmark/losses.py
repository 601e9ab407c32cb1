"""Time of YOLOv3's matching and losses, against a plain Python loop over the objects."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

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
from ..modeling.yolov3.box_regression import (
    apply_deltas,
    box_iou,
    get_deltas,
    predict_anchors,
)

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
    predictions = _random_predictions(anchors, num_images, size, num_classes)
    gt = GroundTruth.from_instances(
        [_random_instances(num_boxes, size, num_classes) for _ in range(num_images)]
    )
    matcher = YOLOv3Matcher(anchors, ignore_thresh=IGNORE_THRESH)
    losses = YOLOv3Losses(num_classes)

    def vectorized() -> dict[str, Tensor]:
        return losses(predictions, matcher(predictions, gt), gt, float(size**2))

    def loop() -> dict[str, Tensor]:
        return compute_in_loop(predictions, gt, float(size**2))

    seconds = min(
        measure_seconds(partial(_backward, vectorized, predictions)) for _ in range(REPEATS)
    )
    loop_seconds = measure_seconds(partial(_backward, loop, predictions))
    return (
        f"Matching, losses and gradients of {num_images} images of {size} pixels, {num_boxes} "
        f"boxes each, {num_classes} classes, {torch.get_num_threads()} threads: {seconds:.3f} s at "
        f"best, {loop_seconds / seconds:.0f} times as fast as a loop over the boxes "
        f"({loop_seconds:.1f} s)."
    )


def _backward(compute: Callable[[], dict[str, Tensor]], predictions: DensePredictions) -> None:
    """Compute losses and their gradients."""
    predictions.box_logits.grad = predictions.obj_logits.grad = None
    predictions.cls_logits.grad = predictions.shape_logits.grad = None
    sum(compute().values()).backward()


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
    for image in range(len(gt.boxes)):
        for name, loss in _image_losses(predictions, image, gt, image_area):
            total[name] = total.get(name, 0) + loss / len(gt.boxes)
    return total


def _image_losses(
    predictions: DensePredictions, image: int, gt: GroundTruth, image_area: float
) -> Iterator[tuple[str, Tensor]]:
    """Yield the loss terms of an image under their names."""
    boxes, grid = gt.boxes[image], predictions.grid
    matched, classes, shapes, ignored = _match_in_loop(predictions, image, boxes, gt.classes[image])
    obj_targets = torch.zeros(len(ignored))
    obj_targets[list(matched)] = 1.0
    obj_weights = ((obj_targets > 0) | ~ignored).float()
    yield "loss_obj", _cross_entropy(predictions.obj_logits[image], obj_targets, obj_weights)

    # Indexed at once: the gradient of each single index would be as large as all anchors.
    logits = [
        x[image, list(matched)].unbind()
        for x in (predictions.box_logits, predictions.cls_logits, predictions.shape_logits)
    ]
    for (anchor, index), box_logits, cls_logits, shape_logits in zip(matched.items(), *logits):
        cls_targets = torch.zeros_like(cls_logits)
        cls_targets[list(classes[anchor])] = 1.0
        yield "loss_cls", _cross_entropy(cls_logits, cls_targets)
        size = predict_anchors(shape_logits, grid.sizes[anchor])
        location = size, grid.locations[anchor], grid.strides[anchor]
        targets = get_deltas(boxes[index], *location)
        scale = 2 - boxes[index, 2:].prod() / image_area
        difference = (box_logits[2:] - targets[2:]).abs().sum()
        yield "loss_box", scale * (_cross_entropy(box_logits[:2], targets[:2]) + difference)
        iou = box_iou(apply_deltas(box_logits, *location), boxes[index])
        yield "loss_iou", scale * (1 - iou**2)

    shape_logits = predictions.shape_logits[image, list(shapes)].unbind()
    for (anchor, index), logits in zip(shapes.items(), shape_logits):
        size = predict_anchors(logits, grid.sizes[anchor])
        yield "loss_shape", 1 - shape_iou(size, boxes[index, 2:]) ** 2


def _cross_entropy(logits: Tensor, targets: Tensor, weights: Tensor | None = None) -> Tensor:
    return F.binary_cross_entropy_with_logits(logits, targets, weights, reduction="sum")


@torch.no_grad()
def _match_in_loop(
    predictions: DensePredictions, image: int, gt_boxes: Tensor, gt_classes: Tensor
) -> tuple[dict[int, int], dict[int, set[int]], dict[int, int], Tensor]:
    """Match the objects of an image one after the other.

    Returns:
        The object of each positive anchor, the classes of all objects matched to it, the object
        whose shape each anchor predicts, and the (R,) anchors that overlap any object.
    """
    grid = predictions.grid
    boxes = predictions.boxes()[image]
    ignored = torch.zeros(len(boxes), dtype=torch.bool)
    matched: dict[int, int] = {}
    classes: dict[int, set[int]] = {}
    shapes: dict[int, int] = {}
    for index, (box, category) in enumerate(zip(gt_boxes, gt_classes.tolist())):
        best = -1.0
        for stride in STRIDES[::-1]:
            at_location = (grid.locations == box[:2] // stride).all(dim=1)
            *preset, free = torch.nonzero(at_location & (grid.strides[:, 0] == stride))[:, 0]
            for candidate in preset:
                iou = shape_iou(grid.sizes[candidate], box[2:])
                if iou > best:
                    best, anchor, anchor_free = iou, int(candidate), int(free)
        shapes[anchor] = shapes[anchor_free] = index
        free_size = predict_anchors(
            predictions.shape_logits[image, anchor_free], grid.sizes[anchor_free]
        )
        if shape_iou(free_size, box[2:]) > best:
            anchor = anchor_free
        matched[anchor] = index
        classes.setdefault(anchor, set()).add(category)
        ignored |= box_iou(boxes, box) > IGNORE_THRESH
    return matched, classes, shapes, ignored
