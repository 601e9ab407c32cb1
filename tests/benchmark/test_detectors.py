"""Random weights that predict as many objects as wanted, and varied boxes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from asff.benchmark.data import write_photograph
from asff.benchmark.detectors import name_files, randomize
from asff.data import read_image
from asff.engine import Trainer
from tests.helpers import MOBILENET, TINY_DARKNET, detector_cfg


@pytest.mark.parametrize("options", [TINY_DARKNET, (*MOBILENET, "MODEL.YOLOV3.NUM_CLASSES", 5)])
def test_randomize(options: tuple, tmp_path: Path):
    model = Trainer.build_model(detector_cfg(*options))
    write_photograph(tmp_path / "image.jpg", 96, 96, rng=np.random.default_rng(0))
    randomize(model, tmp_path / "image.jpg", (96, 96), objects=20)
    image = torch.from_numpy(read_image(tmp_path / "image.jpg")).permute(2, 0, 1)
    images = model.preprocess_image([{"image": x} for x in (image, image.flip(2))]).tensor
    with torch.no_grad():
        predictions = model.head(list(model.backbone(images).values()))
    # Twenty of each of the two images, up to rounding; and no class is like another.
    assert (predictions.obj_logits > -4.4).sum().item() == pytest.approx(40, abs=2)
    torch.testing.assert_close(
        predictions.cls_logits.std(dim=(0, 1)), torch.full((5,), 2.0), rtol=1e-2, atol=0
    )
    assert all(x.momentum == 0.1 for x in model.modules() if isinstance(x, torch.nn.BatchNorm2d))


def test_names_are_unique():
    """Those of one stem are told apart by their paths; a file named twice is one file."""
    names = name_files(["a/x.yaml", "b/x.yaml", "y.yaml", "y.yaml"], lambda file: Path(file).stem)
    assert names == {"a/x.yaml": "a/x.yaml", "b/x.yaml": "b/x.yaml", "y.yaml": "y"}
