"""ONNX's NonMaxSuppression behind the outputs of an exported model.

Shape letters: N images, K classes, R all anchors of an image, M all detections, C candidates and D
detections of an image at most.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .metadata import Thresholds

if TYPE_CHECKING:
    import onnx

_BEST_CLASS = """
    best_idx = ArgMax<axis = 2, keepdims = 0>(scores)
    num_classes_of_best = Shape<start = 2, end = 3>(scores)
    zero_one = Constant<value_floats = [0.0, 1.0]>()
    is_best = OneHot(best_idx, num_classes_of_best, zero_one)
    masked = Mul(scores, is_best)
"""
_ALL_CLASSES = """
    masked = Identity(scores)
"""
# The candidates are boxes of all levels together. PyTorch's are pairs of box and class, RetinaNet's
# of each level: they may differ where more pairs than TOPK_CANDIDATES_TEST pass the threshold.
_NMS = """
    last_axis = Constant<value_ints = [2]>()
    best = ReduceMax<keepdims = 0>(masked, last_axis)
    max_candidates = Constant<value_ints = [{candidates}]>()
    num_anchors = Shape<start = 1, end = 2>(scores)
    num_candidates = Min(max_candidates, num_anchors)
    best_scores, anchor_idx = TopK(best, num_candidates)
    anchor_index = Unsqueeze(anchor_idx, last_axis)
    candidates = GatherND<batch_dims = 1>(boxes, anchor_index)
    candidate_scores = GatherND<batch_dims = 1>(masked, anchor_index)
    scores_by_class = Transpose<perm = [0, 2, 1]>(candidate_scores)
    max_detections = Constant<value_ints = [{detections}]>()
    iou = Constant<value_floats = [{nms}]>()
    least = Constant<value_floats = [{score}]>()
    image_class_box = NonMaxSuppression(candidates, scores_by_class, max_detections, iou, least)
    order = Constant<value_ints = [0, 2, 1]>()
    image_box_class = Gather<axis = 1>(image_class_box, order)
    kept_scores = GatherND(candidate_scores, image_box_class)
    shape = Shape(candidate_scores)
    zeros = ConstantOfShape(shape)
    only_kept = ScatterND(zeros, image_box_class, kept_scores)
    flat_shape = Constant<value_ints = [0, -1]>()
    flat = Reshape(only_kept, flat_shape)
    num_pairs = Shape<start = 1, end = 2>(flat)
    num_detections = Min(max_detections, num_pairs)
    detection_scores, pair_idx = TopK(flat, num_detections)
    num_classes = Shape<start = 2, end = 3>(scores)
    box_idx = Div(pair_idx, num_classes)
    classes = Mod(pair_idx, num_classes)
    box_index = Unsqueeze(box_idx, last_axis)
    detection_boxes = GatherND<batch_dims = 1>(candidates, box_index)
    zero = Constant<value_float = 0.0>()
    none = Constant<value_ints = [-1]>()
    is_detection = Greater(detection_scores, zero)
    detection_classes = Where(is_detection, classes, none)
"""


def append_nms(model: onnx.ModelProto, thresholds: Thresholds, num_levels: int) -> None:
    """Replace the outputs of a model by its detections, best first.

    They are ``detection_boxes`` (N, D, 4), ``detection_scores`` (N, D), 0 after the last
    detection, and ``detection_classes`` (N, D), -1 after it.
    """
    import onnx

    candidates = thresholds.candidates * (num_levels if thresholds.per_level else 1)
    nodes = _BEST_CLASS if thresholds.best_class else _ALL_CLASSES
    nodes += _NMS.format(
        candidates=candidates,
        detections=thresholds.detections,
        nms=float(thresholds.nms),
        score=float(thresholds.score),
    )
    graph = onnx.parser.parse_graph(
        "nms (float[N, R, 4] boxes, float[N, R, K] scores) => (float[N, D, 4] detection_boxes, "
        f"float[N, D] detection_scores, int64[N, D] detection_classes) {{{nodes}}}"
    )
    graph = onnx.compose.add_prefix_graph(graph, "nms_", rename_inputs=False, rename_outputs=False)
    model.graph.node.extend(graph.node)
    del model.graph.output[:]
    model.graph.output.extend(graph.output)
