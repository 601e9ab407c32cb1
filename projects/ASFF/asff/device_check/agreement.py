"""Agreement of the device with the CPU: outputs, losses and gradients of all variants."""

from __future__ import annotations

import math
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path

import torch
from detectron2.utils.events import EventStorage
from torch import Tensor, nn

from ..config_files import CONFIGS
from .target import MOBILE, RETINANET, STAR, Result, Target, distance, plain_float32

# Relative noise in the weights: rounding to the dtype; for float32, of sums in another order. The
# device may be as far from the CPU as twice what this noise does on the CPU, and as LIMITS.
NOISE = {torch.float32: 1e-5, torch.float16: 2**-10, torch.bfloat16: 2**-7}
LIMITS = {"outputs": 1e-3, "losses": 1e-3, "gradient": 5e-2}


def check_agreement(target: Target) -> Iterator[Result]:
    """Compare the detectors of the paper, and RetinaNet with ASFF-FPN, in three dtypes."""
    names = [STAR, MOBILE, RETINANET]
    if target.on_gpu:
        names += [f"coco/{x.name}" for x in sorted((CONFIGS / "coco").glob("yolov3_*.yaml"))]
    batch = target.batch(4, 192)
    for name in dict.fromkeys(names):
        reference, _ = target.build(name, torch.device("cpu"))
        # A CPU is compared with itself, in another memory format.
        reference = reference.to(memory_format=torch.contiguous_format)
        model = deepcopy(reference).to(target.device, memory_format=torch.channels_last)
        with plain_float32():
            expected = compute(reference, batch)
            for dtype, noise in NOISE.items():
                noisy = compute(add_noise(reference, noise), batch)
                limits = {k: LIMITS[k] + 2 * distance(noisy[k], expected[k]) for k in LIMITS}
                if dtype != torch.float32:
                    # Rounding changes most of a random network's gradient: it must be finite.
                    limits["gradient"] = math.inf
                found = compute(model, batch, dtype)
                far = {k: distance(found[k], expected[k]) for k in LIMITS}
                numbers = ", ".join(f"{k} {far[k]:.1e} (< {limits[k]:.1e})" for k in LIMITS)
                passed = all(far[k] < limits[k] for k in LIMITS)
                yield Result(f"{Path(name).stem}, {str(dtype)[6:]}", passed, numbers)


def compute(
    model: nn.Module, batch: list[dict], dtype: torch.dtype = torch.float32
) -> dict[str, Tensor]:
    """Return the losses and the gradient of a training step, and the outputs in evaluation."""
    model = deepcopy(model).train()  # a step changes norms
    kind, use_autocast = model.device.type, dtype != torch.float32
    with EventStorage(), torch.autocast(kind, dtype=dtype, enabled=use_autocast):
        losses = model(batch)
    sum(losses.values()).backward()
    gradient = torch.cat([p.grad.flatten() for p in model.parameters() if p.requires_grad])
    with torch.no_grad(), torch.autocast(kind, dtype=dtype, enabled=use_autocast):
        images = model.eval().preprocess_image(batch).tensor
        if hasattr(model, "forward_dense"):
            outputs = model.forward_dense(images)
        else:
            outputs = torch.cat([x.flatten() for x in model.backbone(images).values()])
    return {"outputs": outputs, "losses": torch.stack([*losses.values()]), "gradient": gradient}


def add_noise(model: nn.Module, noise: float) -> nn.Module:
    """Return a copy whose weights have relative, normal noise."""
    model, generator = deepcopy(model), torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(1 + noise * torch.randn(p.shape, generator=generator))
    return model
