"""Which level feeds which place: the weights of ASFF and the fused features of images (paper 4.2).

Shape letters: N images, L fused levels, C channels, H and W of a level, in cells.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from detectron2.structures import Instances
from torch import Tensor, nn

from ..modeling import ASFFFPN, AdaptiveFusion, PyramidFusion, YOLOv3Pyramid
from .detection_levels import LevelFinder


@dataclass
class LevelMaps:
    """How one level was fused.

    Attributes:
        stride: pixels of the network's input per cell.
        weights: (N, L, H, W) or, of one image, (L, H, W): alpha, beta, gamma (Equation 2), which
            sum to 1 over the levels they weigh.
        shares: of the same shape, and sum to 1 too: what part of the fused feature comes from each
            level, by the norm over channels of its weighted feature. They differ from the weights
            where the features of levels differ in size.
        activation: (N, H, W) or (H, W): the fused feature, summed over its channels.
    """

    stride: int
    weights: Tensor
    shares: Tensor
    activation: Tensor

    def of_image(self, index: int, input_size: tuple[int, int]) -> LevelMaps:
        """The maps of one image of the batch, on the CPU, without cells of nothing but padding.

        Args:
            input_size: height and width of the image at the network's input, in pixels.
        """
        rows, columns = (math.ceil(side / self.stride) for side in input_size)
        maps = self.weights[index], self.shares[index], self.activation[index]
        return LevelMaps(self.stride, *(x[..., :rows, :columns].cpu() for x in maps))


class FusionRecorder:
    """Keeps, while its context lasts, what ASFF did in the latest forward pass of a model.

        with FusionRecorder(model) as recorder:
            model(inputs)
        recorder.maps["p3"].weights

    It listens by forward hooks: the model computes what it computes without them.

    Args:
        model: any detector with ASFF: a YOLOv3, or one whose backbone is an ASFF-FPN.

    Attributes:
        maps: :class:`LevelMaps` by the level's name, in the order of the levels they weigh.

    Raises:
        ValueError: the model has no ASFF.
    """

    def __init__(self, model: nn.Module):
        self.fusion, self.strides = find_fusion(model)
        self.maps: dict[str, LevelMaps] = {}
        self.weights: dict[str, Tensor] = {}
        self.handles = []

    def __enter__(self) -> FusionRecorder:
        for level, fuse in zip(self.strides, self.fusion.fuse):
            self.handles += [
                fuse.softmax.register_forward_hook(partial(self.keep_weights, level)),
                fuse.register_forward_hook(partial(self.keep_maps, level)),
            ]
        return self

    def __exit__(self, *error: object) -> None:
        for handle in self.handles:
            handle.remove()
        self.handles.clear()

    def keep_weights(self, level: str, softmax: nn.Module, inputs: tuple, weights: Tensor) -> None:
        self.weights[level] = weights.detach()

    def keep_maps(self, level: str, fuse: nn.Module, inputs: tuple, fused: Tensor) -> None:
        weights, (resized,) = self.weights.pop(level), inputs
        norms = torch.stack([x.detach().float().norm(dim=1) for x in resized], dim=1)
        shares = F.normalize(weights * norms, p=1.0, dim=1)  # zeros where all features are zero
        activation = fused.detach().float().sum(dim=1)
        self.maps[level] = LevelMaps(self.strides[level], weights, shares, activation)


def find_fusion(model: nn.Module) -> tuple[PyramidFusion, dict[str, int]]:
    """The ASFF of a model, and the strides of its levels by their names, in its order.

    Raises:
        ValueError: there is none.
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


@dataclass
class FusionView:
    """What was seen in one image.

    Attributes:
        instances: the detections, on the CPU, in the pixels of the image.
        levels: name of the level that each of them came from; None where that is not known.
        maps: :class:`LevelMaps` by the level's name, in the order of the levels they weigh.
        input_size: height and width of the image at the network's input, without padding, in
            pixels.
    """

    instances: Instances
    levels: list[str] | None
    maps: dict[str, LevelMaps]
    input_size: tuple[int, int]


@torch.no_grad()
def view_fusion(model: nn.Module, inputs: Sequence[dict]) -> list[FusionView]:
    """Detect in a batch, and tell which levels its detections and features came from.

    Args:
        model: with ASFF, in evaluation mode.
        inputs: dicts with ``image`` and, for detections in other pixels, ``height`` and ``width``.

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
