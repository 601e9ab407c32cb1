#!/usr/bin/env python
"""What putting ASFF-FPN into a trained detector changes before any further training.

    python tools/measure_swap.py --config-file FPN_CONFIG --backbone ASFF_BUILDER \\
        MODEL.WEIGHTS FILE [KEY VALUE ...]

Runs the detector of FPN_CONFIG, and the same with another MODEL.BACKBONE.NAME, over the dataset of
DATASETS.TEST. Prints AP of both, how far the features move, and how many detections stay.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from tempfile import TemporaryDirectory

# First, for it says what is not installed.
from ..checkpoint import Checkpointer
from ..config import choose
from ..data import build_test_loader
from ..engine import Trainer, argument_parser, setup, user_errors

# isort: split
import torch
from detectron2.config import CfgNode
from detectron2.modeling import BACKBONE_REGISTRY
from detectron2.structures import Instances, pairwise_iou
from torch import Tensor, nn
from tqdm import tqdm

SCORE, IOU = 0.3, 0.95


@dataclass
class Change:
    """What changed over a dataset.

    Attributes:
        moved: per level, norm of the difference of the features over the norm of the first ones.
        kept, lost: detections of the first detector with a score above 0.3 that the second one has,
            and has not, with the same class at an IoU of at least 0.95, at whatever score.
        new: detections of the second one that the first has not, by the same rule.
    """

    moved: dict[str, float]
    kept: int
    lost: int
    new: int


def build(cfg: CfgNode) -> nn.Module:
    """The detector of a config in evaluation, with its weights."""
    model = Trainer.build_model(cfg).eval()
    Checkpointer(model).load(cfg.MODEL.WEIGHTS)
    return model


def evaluate(cfg: CfgNode, model: nn.Module) -> dict[str, float]:
    """COCO's box metrics; what a training wrote to OUTPUT_DIR stays."""
    with TemporaryDirectory() as folder:
        cfg = cfg.clone()
        cfg.defrost()
        cfg.OUTPUT_DIR = folder
        results = Trainer.test(cfg, model)
    if "bbox" not in results:
        raise ValueError(f"DATASETS.TEST: {cfg.DATASETS.TEST[0]} has no annotations, hence no AP.")
    return results["bbox"]


def found_again(detections: Instances, others: Instances) -> Tensor:
    """Which detections with a score above 0.3 are among the others, whatever their score there."""
    detections = detections[detections.scores > SCORE]
    ious = pairwise_iou(detections.pred_boxes, others.pred_boxes)
    same_class = detections.pred_classes[:, None] == others.pred_classes
    return ((ious >= IOU) & same_class).any(dim=1)


@torch.no_grad()
def compare(first: nn.Module, second: nn.Module, batches: Iterable[list[dict]]) -> Change:
    """Run two detectors whose backbones have equal levels over the same batches."""
    features: list[dict[str, Tensor]] = []
    hooks = [
        model.backbone.register_forward_hook(lambda module, args, out: features.append(out))
        for model in (first, second)
    ]
    before, difference = {}, {}
    kept = lost = new = 0
    for batch in tqdm(batches, unit="batch", disable=None):
        features.clear()
        results = [model(batch) for model in (first, second)]
        for name, x in features[0].items():
            before[name] = before.get(name, 0) + x.double().square().sum().item()
            moved = (features[1][name] - x).double().square().sum().item()
            difference[name] = difference.get(name, 0) + moved
        for a, b in zip(*results):
            again = found_again(a["instances"], b["instances"])
            kept, lost = kept + int(again.sum()), lost + int((~again).sum())
            new += int((~found_again(b["instances"], a["instances"])).sum())
    for hook in hooks:
        hook.remove()
    moved = {name: (difference[name] / before[name]) ** 0.5 for name in before}
    return Change(moved, kept, lost, new)


def main() -> None:
    parser = argument_parser()
    parser.add_argument(
        "--backbone",
        default="build_retinanet_resnet_asff_fpn_backbone",
        help="MODEL.BACKBONE.NAME to swap in; with FPN's weights it must have the same levels",
    )
    args = parser.parse_args()
    args.eval_only = True
    with user_errors():
        cfg = setup(args)
        if len(cfg.DATASETS.TEST) != 1:
            raise ValueError(f"DATASETS.TEST is {cfg.DATASETS.TEST}: name one dataset.")
        choose(dict(BACKBONE_REGISTRY), args.backbone, "--backbone")
        swapped = cfg.clone()
        swapped.defrost()
        swapped.MODEL.BACKBONE.NAME = args.backbone
        models = [build(cfg), build(swapped)]
        aps = [evaluate(cfg, model) for model in models]
        change = compare(*models, build_test_loader(cfg, cfg.DATASETS.TEST[0]))
    parameters = [sum(p.numel() for p in model.parameters()) / 1e6 for model in models]
    for name, ap, count in zip((cfg.MODEL.BACKBONE.NAME, args.backbone), aps, parameters):
        print(f"{name}: AP {ap['AP']:.2f}, AP50 {ap['AP50']:.2f}, {count:.2f} M parameters")
    print("Features move by", ", ".join(f"{k} {v:.1%}" for k, v in change.moved.items()))
    total = change.kept + change.lost
    share = f"{change.kept / total:.1%}" if total else "n/a"
    print(
        f"Of {total} boxes with a score over {SCORE}, {change.kept} ({share}) are found again with "
        f"the same class at IoU {IOU}; {change.new} are new."
    )


if __name__ == "__main__":
    main()
