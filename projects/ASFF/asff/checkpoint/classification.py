"""ImageNet classification weights of other libraries as weights of our bottom-ups."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from ..modeling import DarkNet, MobileNetV2
from .mismatch import compare

logger = logging.getLogger("asff")


def convert_torchvision(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Convert torchvision's MobileNetV2 (``mobilenet_v2``, width 1) to our bottom-up.

    Args:
        state: the network's state dict, whose classifier is dropped and logged.

    Returns:
        All tensors of ``backbone.bottom_up``, for ``build_mobilenetv2_backbone``.

    Raises:
        ValueError: tensors are missing, not known or of another shape.
    """
    with torch.device("meta"):
        bottom_up = MobileNetV2()
    return _rename(state, bottom_up, lambda key: key, classifier="classifier.")


def convert_timm(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Convert timm's DarkNet-53 (``darknet53``) to our bottom-up.

    Its features differ: timm's LeakyReLU has slope 0.01, darknet's and ours 0.1. See
    :func:`convert_torchvision`.
    """
    with torch.device("meta"):
        bottom_up = DarkNet()
    return _rename(state, bottom_up, _timm_key, classifier="head.")


def _timm_key(key: str) -> str:
    """Return timm's name of a key of our DarkNet."""
    module, tensor = key.rsplit(".", 1)
    layer = module.removesuffix(".norm")
    part = "conv" if layer == module else "bn"
    if layer == "stem":
        return f"stem.conv1.{part}.{tensor}"
    stage, index, *conv = layer.split(".")
    place = f"blocks.{int(index) - 1}.{conv[0]}" if conv else "conv_down"
    return f"stages.{int(stage.removeprefix('res')) - 1}.{place}.{part}.{tensor}"


def _rename(
    state: Mapping[str, Tensor],
    bottom_up: nn.Module,
    their_key: Callable[[str], str],
    *,
    classifier: str,
) -> dict[str, Tensor]:
    """Give the tensors of a classification network the names of our bottom-up.

    Args:
        bottom_up: on any device; only names and shapes matter.
        their_key: maps a key of the bottom-up to the key in ``state``.
        classifier: prefix of the keys in ``state`` that are left out.
    """
    ours = {their_key(key): key for key in bottom_up.state_dict()}
    expected = {their_key(key): value for key, value in bottom_up.state_dict().items()}
    found = {key: value for key, value in state.items() if not key.startswith(classifier)}
    num_given = len(found)
    for key in expected:
        if key.endswith(".num_batches_tracked"):  # files of old PyTorch versions lack it
            found.setdefault(key, torch.tensor(0))
    difference = compare(found, expected)
    if difference:
        raise ValueError(
            f"These are not the weights that {type(bottom_up).__name__} needs. Of its "
            f"{len(expected)} tensors and the {num_given} given: {difference}."
        )
    dropped = [key for key in state if key.startswith(classifier)]
    logger.info(f"Left out {len(dropped)} tensors of the classifier: {', '.join(dropped)}.")
    return {f"backbone.bottom_up.{name}": found[key] for key, name in ours.items()}
