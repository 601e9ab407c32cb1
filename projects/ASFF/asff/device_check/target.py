"""What is checked: a device, with detectors and images that are the same on every machine."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import torch
from detectron2.config import CfgNode
from detectron2.structures import Boxes, Instances
from torch import Tensor, nn

from ..config_files import load_config
from ..data.datasets.shapes import draw_image
from ..engine import Trainer
from ..engine.setup import resolve_sync_norm

ASFF, STAR = "coco/yolov3_d53_asff.yaml", "coco/yolov3_d53_asff_star.yaml"
MOBILE, RETINANET = "coco/yolov3_mobilenetv2_asff.yaml", "coco/retinanet_R_50_ASFF_FPN_1x.yaml"
NARROW = (
    *("MODEL.DARKNET.WIDTH", 0.125, "MODEL.YOLOV3.NECK.WIDTH", 0.125),
    *("MODEL.MOBILENETV2.WIDTH", 0.25, "MODEL.FPN.OUT_CHANNELS", 32),
    *("MODEL.RESNETS.WIDTH_PER_GROUP", 4, "MODEL.RESNETS.RES2_OUT_CHANNELS", 16),
    *("MODEL.RESNETS.STEM_OUT_CHANNELS", 8),
)


@dataclass(frozen=True)
class Result:
    """A line of the report: name, whether it passed (None: not checked), and the numbers."""

    name: str
    passed: bool | None
    numbers: str


@dataclass(frozen=True)
class Target:
    """A device to be checked, and a folder for data and trainings."""

    device: torch.device
    folder: Path

    @property
    def on_gpu(self) -> bool:
        """Whether detectors have their full width; a CPU runs narrow ones with small images."""
        return self.device.type == "cuda"

    def build(
        self, name: str, device: torch.device | None = None, world_size: int = 1
    ) -> tuple[nn.Module, CfgNode]:
        """Build a detector of the package with random weights, the same ones each time.

        Args:
            device: None for the one that is checked.
            world_size: number of processes.
        """
        cfg = load_config(name, () if self.on_gpu else NARROW)
        cfg.MODEL.WEIGHTS, cfg.MODEL.DEVICE = "", str(device or self.device)
        resolve_sync_norm(cfg, world_size)
        torch.manual_seed(0)
        model = Trainer.build_model(cfg)
        for level in getattr(model.head, "levels", ()):
            # A new head predicts nearly the same for all images.
            nn.init.normal_(level.predict.weight, std=0.1)
        return model, cfg

    def batch(self, num_images: int, size: int) -> list[dict]:
        """Draw shapes with their ground truth, in images of ``size`` pixels (on a CPU 96)."""
        size = size if self.on_gpu else 96
        batch = []
        for index in range(num_images):
            drawn = draw_image(0, "train", index, size)
            annotations = drawn.annotations()
            boxes = torch.tensor([x["bbox"] for x in annotations], dtype=torch.float32)
            boxes[:, 2:] += boxes[:, :2]
            classes = torch.tensor([x["category_id"] - 1 for x in annotations])
            gt = Instances((size, size), gt_boxes=Boxes(boxes), gt_classes=classes)
            image = torch.from_numpy(drawn.image).permute(2, 0, 1).contiguous()
            batch.append({"image": image, "instances": gt, "height": size, "width": size})
        return batch


def plain_float32() -> AbstractContextManager:
    """Compute convolutions in float32, not in TF32, which has 10 bits of precision."""
    return torch.backends.cudnn.flags(enabled=True, allow_tf32=False)


def distance(found: Tensor, expected: Tensor) -> float:
    """Return the norm of the difference, relative to that of the expected values."""
    found, expected = found.detach().double().cpu(), expected.detach().double().cpu()
    return float((found - expected).norm() / expected.norm())
