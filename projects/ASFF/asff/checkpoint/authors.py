"""The authors' checkpoints: recognition of their networks, and their key names and ours.

Levels count from the coarsest. A *block* is a convolution with batch norm: `X.conv`, `X.batch_norm`
there, `Y` and `Y.norm` here. Their numbers are indices in a list of modules.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torchvision.models import mobilenet_v2

from .mismatch import Mismatch, compare

Tensors = dict[str, torch.Tensor]

BATCH_NORM = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
BLOCKS_PER_STAGE = (1, 2, 8, 8, 4)  # DarkNet-53
BRANCHES = (1, 2, 3, 3)  # convolutions of each branch of the receptive field block


@dataclass(frozen=True)
class Variant:
    """One of the authors' networks.

    Attributes:
        config: in configs/authors.
        mobilenet: MobileNetV2 instead of DarkNet-53, without feature adaption.
        fusion: with ASFF on all levels.
        rfb: with receptive field blocks.
    """

    config: str
    mobilenet: bool = False
    fusion: bool = False
    rfb: bool = False


VARIANTS = {
    "baseline": Variant("yolov3_d53_baseline.yaml"),
    "asff": Variant("yolov3_d53_asff.yaml", fusion=True),
    "asff_star": Variant("yolov3_d53_asff_star.yaml", fusion=True, rfb=True),
    "mobilenetv2": Variant("yolov3_mobilenetv2.yaml", mobilenet=True),
    "mobilenetv2_asff": Variant("yolov3_mobilenetv2_asff.yaml", mobilenet=True, fusion=True),
}


def from_authors(tensors: Tensors) -> tuple[str, Tensors]:
    """Return the name of the variant, and its tensors under our names.

    The name "darknet53" is that of their DarkNet-53 alone (``darknet53_feature_mx.pth``).

    Raises:
        ValueError: the keys are not exactly those of one variant; the message lists differences.
    """
    return _rename(
        tensors, {name: key_map(name) for name in VARIANTS} | {"darknet53": _darknet_map()}
    )


def to_authors(tensors: Tensors) -> tuple[str, Tensors]:
    """Invert :func:`from_authors`, for whole detectors."""
    return _rename(
        tensors, {name: {ours: key for key, ours in key_map(name).items()} for name in VARIANTS}
    )


def _rename(tensors: Tensors, maps: dict[str, dict[str, str]]) -> tuple[str, Tensors]:
    """Rename tensors by that of the maps which has exactly their keys."""
    differences = {
        name: Mismatch(list(keys.keys() - tensors.keys()), list(tensors.keys() - keys.keys()))
        for name, keys in maps.items()
    }
    name = min(differences, key=lambda name: len(differences[name]))
    if differences[name]:
        raise ValueError(
            f"The {len(tensors)} tensors are those of no known network. Compared with the most "
            f"similar, '{name}': {differences[name]}."
        )
    return name, {maps[name][key]: tensor for key, tensor in tensors.items()}


def num_classes(tensors: Tensors) -> int:
    """Compute the class count of a detector under our names, at least 1."""
    # Three anchors and the anchor-free prediction have a box, objectness and the classes each.
    return max(tensors["head.levels.0.predict.bias"].numel() // 4 - 5, 1)


def check_shapes(tensors: Tensors, state: Tensors) -> None:
    """Raise a ValueError where tensors have other shapes than in a state dict of ours."""
    difference = Mismatch(shapes=compare(tensors, state).shapes)
    if difference:
        raise ValueError(
            f"The {len(tensors)} tensors are not those of the authors' network: {difference}."
        )


def _darknet_map() -> dict[str, str]:
    """Return :func:`key_map` of DarkNet-53 alone."""
    keys: dict[str, str] = {}
    _add_blocks(keys, _darknet_blocks())
    return keys


def key_map(name: str) -> dict[str, str]:
    """Map every key of the authors' state dict to that of ours."""
    variant = VARIANTS[name]
    keys = {}
    if variant.mobilenet:
        with torch.device("meta"):
            names = list(mobilenet_v2().features.state_dict())
        keys.update({f"module_list.{x}": f"backbone.bottom_up.features.{x}" for x in names})
    else:
        keys.update(_darknet_map())
    _add_blocks(keys, _neck_blocks(variant))
    for level in range(3):
        _add_blocks(keys, _level_blocks(variant, level))
        for theirs, ours in _plain_layers(variant, level):
            keys.update({f"{theirs}.{x}": f"{ours}.{x}" for x in ("weight", "bias")})
    return keys


def _add_blocks(keys: dict[str, str], blocks: Iterator[tuple[str, str]]) -> None:
    for theirs, ours in blocks:
        keys[f"{theirs}.conv.weight"] = f"{ours}.weight"
        keys.update({f"{theirs}.batch_norm.{x}": f"{ours}.norm.{x}" for x in BATCH_NORM})


def _darknet_blocks() -> Iterator[tuple[str, str]]:
    """Yield their and our names of the blocks of DarkNet-53."""
    bottom_up = "backbone.bottom_up"
    yield "module_list.0", f"{bottom_up}.stem"
    for stage, num_blocks in enumerate(BLOCKS_PER_STAGE, start=1):
        yield f"module_list.{2 * stage - 1}", f"{bottom_up}.res{stage}.0"
        for block in range(num_blocks):
            for conv in range(2):
                theirs = f"module_list.{2 * stage}.module_list.{block}.{conv}"
                yield theirs, f"{bottom_up}.res{stage}.{block + 1}.conv{conv + 1}"


def _neck_blocks(variant: Variant) -> Iterator[tuple[str, str]]:
    """Yield the names of the neck, and of the 3x3 convolution that widens the finest level."""
    # MobileNetV2 has 8 modules more. The baseline on DarkNet-53 lists a convolution and a head
    # after each level, which shifts those that follow by 2.
    start = 8 * variant.mobilenet
    shift = 2 * (not variant.fusion and not variant.mobilenet)
    neck = "backbone.neck"
    for level, first in enumerate((11, 20, 27)):
        index = first + start + shift * level
        convs = f"{neck}.conv_sets.{level}"
        if level == 0:
            numbers = {"conv3": 1, "spp_conv": 3, "conv4": 4, "conv5": 6}
            pair = ("conv1", "conv2")
        else:
            yield f"module_list.{index - 2}", f"{neck}.laterals.{level - 1}"
            numbers = {"conv1": 0, "conv2": 1, "conv5": 4}
            pair = ("conv3", "conv4")
        for name, number in numbers.items():
            yield f"module_list.{index + number}", f"{convs}.{name}"
        index += 3 * (level > 0)
        for conv, name in enumerate(pair):
            yield f"module_list.{index}.module_list.0.{conv}", f"{convs}.{name}"
    if variant.fusion and not variant.mobilenet:
        yield "module_list.32", f"{neck}.widen"


def _level_blocks(variant: Variant, level: int) -> Iterator[tuple[str, str]]:
    """Yield the names of the fusion at a level, and of the 3x3 convolution of its head."""
    head_conv = f"head.levels.{level}.conv"
    if not variant.fusion:
        theirs = f"level_{level}_conv" if variant.mobilenet else f"module_list.{18 + 9 * level}"
        yield theirs, head_conv
        return
    theirs = f"level_{level}_conv" if variant.mobilenet else f"level_{level}_fusion"
    for source in range(3):
        yield f"{theirs}.weight_level_{source}", f"backbone.fusion.fuse.{level}.compress.{source}"
        # In DarkNet-53 the two finer levels have as many channels.
        same = source == level or (not variant.mobilenet and (level, source) == (2, 1))
        if not same:
            way = "compress" if source < level else "stride"
            ours = f"backbone.fusion.resize.{level}.{source}.conv"
            yield f"{theirs}.{way}_level_{source}", ours
    yield f"{theirs}.expand", head_conv


def _plain_layers(variant: Variant, level: int) -> Iterator[tuple[str, str]]:
    """Yield the names of a level's layers with bias and without batch norm."""
    head = f"head.levels.{level}"
    theirs = f"level_{level}_header"
    if not variant.fusion and not variant.mobilenet:
        theirs = f"module_list.{19 + 9 * level}"
    yield f"{theirs}.guide_wh", f"{head}.shape"
    yield f"{theirs}.conv", f"{head}.predict"
    if not variant.mobilenet:
        yield f"{theirs}.Feature_adaption.conv_offset", f"{head}.adaption.offset"
        yield f"{theirs}.Feature_adaption.dconv", f"{head}.adaption.deform"
    if variant.rfb:
        for branch, num_convs in enumerate(BRANCHES):
            for conv in range(num_convs):
                layer = f"{theirs}.Feature_adaption.rfb.branch_{branch}.{conv}"
                yield layer, f"{head}.adaption.rfb.branches.{branch}.{conv}"
    if variant.fusion:
        fusion = "conv" if variant.mobilenet else "fusion"
        yield f"level_{level}_{fusion}.weight_levels", f"backbone.fusion.fuse.{level}.logits"
