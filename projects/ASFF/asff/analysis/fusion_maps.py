"""Record the spatial importance weights of ASFF and the fused features of images (paper 4.2).

Shape letters: N images, L fused levels, C channels, H and W of a level.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from detectron2.config import CfgNode
from detectron2.structures import Instances
from torch import Tensor, nn

from ..modeling import ASFFFPN, AdaptiveFusion, PyramidFusion, YOLOv3Pyramid
from .detection_levels import LevelFinder


@dataclass
class LevelMaps:
    """The fusion of one level.

    Attributes:
        stride: pixels of the network's input per location.
        weights: (N, L, H, W), of one image (L, H, W): spatial importance weights alpha, beta, gamma
            of Equation 2, whose sum over the source levels is 1.
        shares: of the same shape, also with a sum of 1: the norm over channels of each level's
            weighted feature, relative to the sum of these norms. They differ from the weights if
            the norms of the levels' features differ.
        activation: (N, H, W) or (H, W): the fused feature, summed over its channels.
    """

    stride: int
    weights: Tensor
    shares: Tensor
    activation: Tensor

    def of_image(self, index: int, input_size: tuple[int, int]) -> LevelMaps:
        """Return the maps of one image of the batch, on the CPU, without the padding.

        Args:
            input_size: height and width of the image at the network's input, in pixels.
        """
        rows, columns = (math.ceil(side / self.stride) for side in input_size)
        maps = self.weights[index], self.shares[index], self.activation[index]
        return LevelMaps(self.stride, *(x[..., :rows, :columns].cpu() for x in maps))


class FusionRecorder:
    """Record the fusion in the latest forward pass of a model within this context.

        with FusionRecorder(model) as recorder:
            model(inputs)
        recorder.maps["p3"].weights

    Forward hooks record it; they change neither outputs nor gradients.

    Args:
        model: a detector with ASFF: a YOLOv3, or one whose backbone is an ASFF-FPN.

    Attributes:
        maps: :class:`LevelMaps` by the level's name, in the order of the source levels.

    Raises:
        ValueError: the model has no ASFF.
    """

    def __init__(self, model: nn.Module):
        self.fusion, self.strides = find_fusion(model)
        self.maps: dict[str, LevelMaps] = {}
        self._weights: dict[str, Tensor] = {}
        self._handles = []

    def __enter__(self) -> FusionRecorder:
        for level, fuse in zip(self.strides, self.fusion.fuse):
            self._handles += [
                fuse.softmax.register_forward_hook(partial(self._keep_weights, level)),
                fuse.register_forward_hook(partial(self._keep_maps, level)),
            ]
        return self

    def __exit__(self, *error: object) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def _keep_weights(self, level: str, softmax: nn.Module, inputs: tuple, weights: Tensor) -> None:
        self._weights[level] = weights.detach()

    def _keep_maps(self, level: str, fuse: nn.Module, inputs: tuple, fused: Tensor) -> None:
        weights, (resized,) = self._weights.pop(level), inputs
        norms = torch.stack([x.detach().float().norm(dim=1) for x in resized], dim=1)
        shares = F.normalize(weights * norms, p=1.0, dim=1)  # zeros if all features are
        activation = fused.detach().float().sum(dim=1)
        self.maps[level] = LevelMaps(self.strides[level], weights, shares, activation)


def find_fusion(model: nn.Module) -> tuple[PyramidFusion, dict[str, int]]:
    """Return the ASFF of a model, and the strides of its levels by name, in its order.

    Raises:
        ValueError: the model has no ASFF.
    """
    for module in model.modules():
        if isinstance(module, YOLOv3Pyramid):
            fusion, levels = module.fusion, list(module.output_shape())
        elif isinstance(module, ASFFFPN):
            fusion, levels = module.asff, module.fused_levels
        else:
            continue
        if fusion is not None and isinstance(fusion.fuse[0], AdaptiveFusion):
            return fusion, {level: module.output_shape()[level].stride for level in levels}
    raise ValueError(
        "The model does not fuse its levels by ASFF, so it has no weights to show: use a "
        "checkpoint that was trained with MODEL.YOLOV3.FUSION.NAME or MODEL.ASFF_FPN.FUSION 'asff'."
    )


def check_fusion_maps(cfg: CfgNode, model: nn.Module) -> None:
    """Raise a ValueError unless the model has ASFF whose maps can be laid over its images."""
    find_fusion(model)
    if cfg.MODEL.YOLOV3.LETTERBOX_TEST:
        raise ValueError(
            "MODEL.YOLOV3.LETTERBOX_TEST is True, but maps can be laid over an image only without "
            "a letterbox: add MODEL.YOLOV3.LETTERBOX_TEST False INPUT.SQUARE True."
        )


@dataclass
class FusionView:
    """Detections and fusion maps of one image.

    Attributes:
        instances: the detections, on the CPU, in the pixels of the image.
        levels: name of each detection's level; None if they are unknown.
        maps: :class:`LevelMaps` by the level's name, in the order of the source levels.
        input_size: height and width of the image at the network's input, without padding, in
            pixels.
    """

    instances: Instances
    levels: list[str] | None
    maps: dict[str, LevelMaps]
    input_size: tuple[int, int]


@torch.no_grad()
def view_fusion(model: nn.Module, inputs: Sequence[dict]) -> list[FusionView]:
    """Detect in a batch, and record the levels of its detections and its fusion maps.

    Args:
        model: with ASFF, in evaluation mode.
        inputs: dicts with ``image`` and, for detections of another size, ``height`` and ``width``.

    Raises:
        ValueError: the model has no ASFF.
    """
    with FusionRecorder(model) as recorder, LevelFinder(model) as finder:
        outputs = [output["instances"] for output in model(inputs)]
    views = []
    for index, (image, instances) in enumerate(zip(inputs, outputs)):
        input_size = tuple(image["image"].shape[-2:])
        maps = {level: x.of_image(index, input_size) for level, x in recorder.maps.items()}
        levels = finder.levels(index, instances, input_size)
        views.append(FusionView(instances.to("cpu"), levels, maps, input_size))
    return views
