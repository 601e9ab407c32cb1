from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from asff.device_check import agreement
from asff.device_check.target import MOBILE, Target

pytestmark = pytest.mark.usefixtures("one_thread", "clean_loggers")


def is_on_the_device(backbone: nn.Module) -> bool:
    """Tell the detectors apart: on a CPU the compared one has another memory format."""
    weights = (
        p for p in backbone.parameters() if p.ndim == 4 and p.shape[2] > 1 and p.shape[1] > 1
    )
    return next(weights).is_contiguous(memory_format=torch.channels_last)


def lose_a_hundredth(backbone: nn.Module, inputs: tuple, features: dict) -> dict:
    return {k: 0.99 * x if is_on_the_device(backbone) else x for k, x in features.items()}


def lose_the_gradient(backbone: nn.Module, inputs: tuple, features: dict) -> dict:
    factor = 0.0 if is_on_the_device(backbone) else 1.0
    return {k: x.detach() + factor * (x - x.detach()) for k, x in features.items()}


@pytest.mark.parametrize("fault", [None, lose_a_hundredth, lose_the_gradient])
def test_faults_are_found(monkeypatch, tmp_path: Path, fault):
    build = Target.build

    def build_with_fault(self: Target, *args: object):
        model, cfg = build(self, *args)
        if fault:
            model.backbone.register_forward_hook(fault)
        return model, cfg

    monkeypatch.setattr(Target, "build", build_with_fault)
    monkeypatch.setattr(agreement, "STAR", MOBILE)
    monkeypatch.setattr(agreement, "RETINANET", MOBILE)
    results = agreement.check_agreement(Target(torch.device("cpu"), tmp_path))
    first = next(results)
    assert first.name == "yolov3_mobilenetv2_asff, float32"
    assert first.passed is (fault is None), first.numbers
