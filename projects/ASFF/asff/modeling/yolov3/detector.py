"""YOLOv3 as a Detectron2 meta-architecture (paper 3.1, 3.4).

Shape letters: N images, K classes, R all anchors of an image, in the order of anchor_generator.py.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from detectron2.config import CfgNode, configurable
from detectron2.modeling import META_ARCH_REGISTRY
from detectron2.modeling.meta_arch.dense_detector import DenseDetector
from detectron2.structures import Boxes, ImageList, Instances
from torch import Tensor, nn
from torchvision.ops import batched_nms

from ..backbone.pyramid import build_pyramid
from .adjacent_ignore import build_adjacent_ignore
from .anchor_generator import YOLOv3AnchorGenerator
from .box_regression import to_corners
from .ground_truth import GroundTruth
from .head import YOLOv3Head
from .letterbox import letterbox, undo_letterbox
from .losses import YOLOv3Losses
from .matcher import Matches, YOLOv3Matcher
from .predictions import DensePredictions


@META_ARCH_REGISTRY.register()
class YOLOv3(DenseDetector):
    """The one-stage detector of the paper; see :class:`DenseDetector` for its inputs and outputs.

    Detections also have ``pred_levels``: the index into ``head_in_features`` of the level that
    each was predicted at.

    Args:
        backbone: bottom-up, neck and fusion; its features come coarsest first.
        head: maps the features to :class:`DensePredictions`.
        matcher: matches ground truth to anchors.
        losses: computes the loss terms.
        pixel_mean, pixel_std: of the input channels.
        score_thresh: boxes whose score (objectness x class probability) is lower are dropped.
        topk_candidates: boxes of an image that enter NMS.
        nms_thresh: IoU above which the lower scored box of a class is dropped.
        max_detections_per_image: detections kept after NMS.
        multi_label: let a box be detected as each of its classes, not as the best alone.
        letterbox_test: in evaluation, put images in the middle of a grey square; see letterbox.py.
    """

    @configurable
    def __init__(
        self,
        *,
        backbone: nn.Module,
        head: nn.Module,
        matcher: YOLOv3Matcher,
        losses: YOLOv3Losses,
        pixel_mean: Sequence[float],
        pixel_std: Sequence[float],
        score_thresh: float = 0.01,
        topk_candidates: int = 1000,
        nms_thresh: float = 0.6,
        max_detections_per_image: int = 100,
        multi_label: bool = False,
        letterbox_test: bool = False,
    ):
        super().__init__(
            backbone,
            head,
            list(backbone.output_shape()),
            pixel_mean=pixel_mean,
            pixel_std=pixel_std,
        )
        self.matcher = matcher
        self.losses = losses
        self.score_thresh = score_thresh
        self.topk_candidates = topk_candidates
        self.nms_thresh = nms_thresh
        self.max_detections_per_image = max_detections_per_image
        self.multi_label = multi_label
        self.letterbox_test = letterbox_test

    @classmethod
    def from_config(cls, cfg: CfgNode):
        options = cfg.MODEL.YOLOV3
        if options.LETTERBOX_TEST and cfg.INPUT.SQUARE:
            raise ValueError(
                "MODEL.YOLOV3.LETTERBOX_TEST is True, but has no effect while INPUT.SQUARE is True "
                "and resizes images to squares. Set one of them to False."
            )
        backbone = build_pyramid(cfg)
        shapes = backbone.output_shape().values()
        anchor_generator = YOLOv3AnchorGenerator(
            options.ANCHORS[::-1],
            [shape.stride for shape in shapes],
            anchor_free=options.ANCHOR_FREE,
        )
        head = YOLOv3Head(
            in_channels=[shape.channels for shape in shapes],
            anchor_generator=anchor_generator,
            num_classes=options.NUM_CLASSES,
            width=options.NECK.WIDTH,
            guided_anchoring=options.GUIDED_ANCHORING,
            feature_adaption=options.FEATURE_ADAPTION,
            rfb=options.RFB,
            deform_conv=options.DEFORM_CONV,
            norm=options.NORM,
            activation=options.ACTIVATION,
        )
        return {
            "backbone": backbone,
            "head": head,
            "matcher": YOLOv3Matcher(
                anchor_generator,
                ignore_thresh=options.IGNORE_THRESH,
                adjacent_ignore=build_adjacent_ignore(cfg, anchor_generator),
            ),
            "losses": YOLOv3Losses(
                options.NUM_CLASSES,
                iou_loss=options.IOU_LOSS,
                label_smoothing=options.LABEL_SMOOTHING,
                max_smoothing=options.MAX_SMOOTHING,
                weight_all_losses=options.WEIGHT_ALL_LOSSES,
            ),
            "pixel_mean": cfg.MODEL.PIXEL_MEAN,
            "pixel_std": cfg.MODEL.PIXEL_STD,
            "score_thresh": options.SCORE_THRESH_TEST,
            "topk_candidates": options.TOPK_CANDIDATES_TEST,
            "nms_thresh": options.NMS_THRESH_TEST,
            "max_detections_per_image": cfg.TEST.DETECTIONS_PER_IMAGE,
            "multi_label": options.MULTI_LABEL_TEST,
            "letterbox_test": options.LETTERBOX_TEST,
        }

    def preprocess_image(self, batched_inputs: list[dict[str, Tensor]]) -> ImageList:
        """Normalise, pad and batch the images; their sizes are those without the padding."""
        if self.training or not self.letterbox_test:
            return super().preprocess_image(batched_inputs)
        images = [x["image"] for x in batched_inputs]
        squares = letterbox(images, self.backbone.size_divisibility)
        batch = super().preprocess_image([{"image": square} for square in squares])
        return ImageList(batch.tensor, [tuple(image.shape[-2:]) for image in images])

    def forward_training(
        self,
        images: ImageList,
        features: list[Tensor],
        predictions: DensePredictions,
        gt_instances: list[Instances],
    ) -> dict[str, Tensor]:
        # The loss sums are large and the IoUs small differences: float32, also under autocast.
        with torch.autocast(self.device.type, enabled=False):
            gt = GroundTruth.from_instances(gt_instances)
            matches = self.label_anchors(predictions, gt)
            height, width = images.tensor.shape[-2:]
            return self.losses(predictions, matches, gt, float(height * width))

    def label_anchors(self, predictions: DensePredictions, gt: GroundTruth) -> Matches:
        """Match ground truth to anchors; no gradient passes."""
        return self.matcher(predictions, gt)

    def forward_dense(self, images: Tensor) -> Tensor:
        """Predict all boxes of a batch, before any threshold.

        Args:
            images: (N, 3, H, W), normalised; H and W divisible by 32, else a ValueError.

        Returns:
            (N, R, 5 + K): cx, cy, w, h in input pixels, objectness and class probabilities.
        """
        height, width = images.shape[-2:]
        divisor = self.backbone.size_divisibility
        if height % divisor or width % divisor:
            raise ValueError(
                f"The input is {height}x{width} pixels; height and width must be divisible by "
                f"{divisor}. Pad or resize it (INPUT.TRAIN_SIZES, INPUT.TEST_SIZE)."
            )
        return self.head(list(self.backbone(images).values())).decode()

    def forward_inference(
        self, images: ImageList, features: list[Tensor], predictions: DensePredictions
    ) -> list[Instances]:
        """Turn the predictions for a batch into the detections of its images, best first.

        Before NMS, it waits for the device once; with ``multi_label`` twice.

        Returns:
            per image ``pred_boxes``, ``scores``, ``pred_classes`` and ``pred_levels``.
        """
        image_idx, anchor_idx, classes, scores = self._find_candidates(predictions)
        boxes = to_corners(predictions.boxes_at(image_idx, anchor_idx))
        categories = image_idx * predictions.cls_logits.shape[-1] + classes
        # It shifts boxes by multiples of their category: float64 keeps all of their digits.
        keep = batched_nms(boxes.double(), scores.double(), categories, self.nms_thresh)
        # Candidates of score 0 are the last ones of their images: they suppressed no others.
        keep = keep[scores[keep] > 0].sort().values
        counts = image_idx[keep].bincount(minlength=len(images.image_sizes)).tolist()
        results = []
        for image_size, idx in zip(images.image_sizes, keep.split(counts)):
            idx = idx[: self.max_detections_per_image]
            result = Instances(
                image_size,
                pred_boxes=Boxes(boxes[idx]),
                scores=scores[idx],
                pred_classes=classes[idx],
                pred_levels=predictions.grid.levels[anchor_idx[idx]],
            )
            if self.letterbox_test:
                undo_letterbox(result.pred_boxes, image_size, images.tensor.shape[-1])
            results.append(result)
        return results

    def _find_candidates(
        self, predictions: DensePredictions
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Find the boxes that enter NMS: of each image the ``topk_candidates`` best.

        Returns:
            (M,) each: index of the image, index of the anchor, class and score, in the order of the
            images, best first. Scores that do not pass the threshold are 0.
        """
        objectness = predictions.obj_logits.sigmoid()
        # Scores are objectness x class probability: those of the other anchors cannot pass.
        image_idx, anchor_idx = (objectness > self.score_thresh).nonzero(as_tuple=True)
        objectness = objectness[image_idx, anchor_idx]
        cls_logits = predictions.cls_logits[image_idx, anchor_idx]
        if self.multi_label:
            scores = objectness[:, None] * cls_logits.sigmoid()
            box_idx, classes = (scores > self.score_thresh).nonzero(as_tuple=True)
            image_idx, anchor_idx = image_idx[box_idx], anchor_idx[box_idx]
            scores = scores[box_idx, classes]
        else:
            # amax and, of the few, argmax: in one, max, they take longer.
            scores = objectness * cls_logits.amax(dim=1).sigmoid()
            scores = torch.where(scores > self.score_thresh, scores, 0.0)
        num_images = len(predictions.obj_logits)
        order, scores = _best_of_images(image_idx, scores, num_images, self.topk_candidates)
        classes = classes[order] if self.multi_label else cls_logits[order].argmax(dim=1)
        return image_idx[order], anchor_idx[order], classes, scores


def _best_of_images(
    image_idx: Tensor, scores: Tensor, num_images: int, count: int
) -> tuple[Tensor, Tensor]:
    """Find the ``count`` best boxes of each image, without waiting for the device.

    Args:
        image_idx: (M,), ascending.
        scores: (M,).

    Returns:
        Indices of the boxes, by image, best first, equal ones in their order; and their scores.
        Others, with the score 0, may follow.
    """
    scores, order = scores.sort(descending=True, stable=True)
    by_image = image_idx[order].sort(stable=True).indices
    scores, order = scores[by_image], order[by_image]
    if len(order) <= count:
        return order, scores
    first = torch.searchsorted(image_idx, torch.arange(num_images, device=order.device))
    rank = torch.arange(len(order), device=order.device) - first[image_idx]
    is_late, in_time_first = (rank >= count).sort(stable=True)
    kept = in_time_first[: num_images * count]
    return order[kept], scores[kept].masked_fill(is_late[: len(kept)], 0.0)
