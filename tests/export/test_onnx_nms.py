"""NMS inside an ONNX model finds what is found behind the model."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from asff.export import Thresholds
from asff.export.detector import select
from asff.export.onnx_nms import append_nms

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

OUTPUTS = "float[N, R, 4] boxes, float[N, R, K] scores"
MODEL = f"""<ir_version: 10, opset_import: ["": 20]>
    model (float[N, R, 4] b, float[N, R, K] s) => ({OUTPUTS}) {{
        boxes = Identity(b)
        scores = Identity(s)
    }}"""


@pytest.mark.parametrize("best_class", [True, False])
@pytest.mark.parametrize("score", [0.5, 0.995, 1.0])
def test_equals_the_selection_behind_the_model(best_class, score):
    """Of several images, with fewer detections than there is room for, down to none."""
    rng = np.random.default_rng(0)
    corners = rng.uniform(0, 100, (3, 200, 2)).astype(np.float32)
    boxes = np.concatenate([corners, corners + rng.uniform(5, 60, (3, 200, 2))], axis=2)
    boxes, scores = boxes.astype(np.float32), rng.random((3, 200, 5), dtype=np.float32)
    thresholds = Thresholds(
        score, 0.4, 1000, per_level=not best_class, detections=60, best_class=best_class
    )
    model = onnx.parser.parse_model(MODEL)
    append_nms(model, thresholds, num_levels=2)
    onnx.checker.check_model(model, full_check=True)
    session = onnxruntime.InferenceSession(model.SerializeToString())
    found = session.run(None, {"b": boxes, "s": scores})
    counts = []
    for image_boxes, image_scores, *image in zip(boxes, scores, *found):
        tensors = torch.from_numpy(image_boxes), torch.from_numpy(image_scores)
        expected = select(*tensors, [150, 50], thresholds)
        counts.append(len(expected[0]))
        for value, output in zip(expected, image):
            assert np.array_equal(value.numpy(), output[: counts[-1]])
        assert not image[1][counts[-1] :].any() and (image[2][counts[-1] :] == -1).all()
    assert max(counts) == {0.5: 60, 0.995: max(counts), 1.0: 0}[score]
    assert score != 0.995 or 0 < min(counts) < 60
