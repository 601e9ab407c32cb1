"""The feature backbones of timm (https://github.com/huggingface/pytorch-image-models), by name."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from difflib import get_close_matches

import torch
from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, Backbone
from torch import Tensor, nn

logger = logging.getLogger(__name__)


class TimmBackbone(Backbone):
    """A network of timm, up to the last feature that is asked for.

    Features carry the names of Detectron2's ResNet: ``res2`` to ``res5`` at strides 4 to 32. Where
    a network has several of one stride, the last counts. Normalisation stays timm's. Parameters
    that no feature depends on (timm keeps some in EfficientNet and HRNet) are not trained, because
    DistributedDataParallel would wait for their gradients.

    Args:
        name: one of ``timm.list_models()``, or any other name that ``timm.create_model`` takes.
        out_features: names of the features to return.
        pretrained: begin with timm's weights, which it downloads and keeps.

    Raises:
        ValueError: timm is not installed, does not know the network, cannot get its weights, or the
            network lacks one of the features or cuts off the borders of images.
    """

    def __init__(
        self,
        *,
        name: str,
        out_features: Sequence[str] = ("res3", "res4", "res5"),
        pretrained: bool = False,
    ):
        super().__init__()
        with torch.device("meta"):  # for its shapes alone
            info = _create_network(name).feature_info.info
        strides = [feature["reduction"] for feature in info]
        indices = {
            f"res{stride.bit_length() - 1}": index
            for index, stride in enumerate(strides)
            if stride & (stride - 1) == 0
        }
        if not out_features or set(out_features) - set(indices):
            raise ValueError(
                f"MODEL.TIMM.OUT_FEATURES is {list(out_features)}; the features of '{name}', at "
                f"strides {sorted(set(strides))}, are {', '.join(indices) or 'none of these'}."
            )
        self._out_features = sorted(set(out_features), key=indices.get)
        self._out_feature_strides = {x: strides[indices[x]] for x in self._out_features}
        self._out_feature_channels = {x: info[indices[x]]["num_chs"] for x in self._out_features}

        out_indices = [indices[x] for x in self._out_features]
        with torch.device("meta"), torch.enable_grad():
            self.network = _create_network(name, out_indices=out_indices)
            unused = self._unused_parameters(name)
        self.network = _create_network(name, out_indices=out_indices, pretrained=pretrained)
        for key, parameter in self.network.named_parameters():
            parameter.requires_grad_(key not in unused)

    @property
    def size_divisibility(self) -> int:
        """Return the largest stride: networks of patches cut off the borders of other sizes."""
        return max(self._out_feature_strides.values())

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Map images (N, 3, H, W) to ``{name: (N, C, H / stride, W / stride)}``."""
        features = self.network(x)
        if getattr(self.network, "output_fmt", "NCHW") == "NHWC":
            features = [feature.permute(0, 3, 1, 2) for feature in features]
        return dict(zip(self._out_features, features))

    def _unused_parameters(self, name: str) -> list[str]:
        """Return keys of the parameters that no feature depends on, and check the features' sizes.

        Computes features and gradients at the network's image size, on the meta device.
        """
        height, width = self.network.pretrained_cfg["input_size"][1:]
        features = self(torch.zeros(2, 3, height, width))
        for feature, stride in self._out_feature_strides.items():
            shape = tuple(features[feature].shape[2:])
            if any(abs(stride * n - size) >= stride for n, size in zip(shape, (height, width))):
                raise ValueError(
                    f"MODEL.TIMM.NAME is '{name}', which is no backbone for detectors: it makes "
                    f"{feature} {shape} of an image {(height, width)}, not one location for every "
                    f"{stride} pixels."
                )
        sum(feature.sum() for feature in features.values()).backward()
        return [key for key, x in self.network.named_parameters() if x.grad is None]


def _create_network(name: str, **options: object) -> nn.Module:
    """Create timm's network that returns its features; every failure is a ValueError."""
    try:
        import timm
    except ImportError as error:
        raise ValueError(
            f"The bottom-up '{name}' (MODEL.TIMM.NAME) needs timm, which cannot be imported "
            f"({error}). Install it by `pip install .[timm]`."
        ) from error
    if ":" not in name and not timm.is_model(name):
        near = get_close_matches(name, timm.list_models())
        raise ValueError(
            f"MODEL.TIMM.NAME is '{name}', which timm {timm.__version__} does not know. "
            + (f"It has {', '.join(near)}; all" if near else "All")
            + " are listed by timm.list_models()."
        )
    try:
        return timm.create_model(name, features_only=True, **options)
    except Exception as error:  # its downloads, too, fail in many ways
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise ValueError(f"timm cannot make '{name}' (MODEL.TIMM.NAME): {reason}") from error


@BACKBONE_REGISTRY.register()
def build_timm_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> TimmBackbone:
    """Build a :class:`TimmBackbone` from ``cfg.MODEL.TIMM``.

    Where MODEL.WEIGHTS is set, timm's weights are not downloaded: they would be overwritten.
    """
    name, pretrained = cfg.MODEL.TIMM.NAME, cfg.MODEL.TIMM.PRETRAINED and not cfg.MODEL.WEIGHTS
    out_features = cfg.MODEL.TIMM.OUT_FEATURES
    backbone = TimmBackbone(name=name, out_features=out_features, pretrained=pretrained)
    metadata = backbone.network.pretrained_cfg
    if metadata.get("fixed_input_size"):
        size = "{1} x {2}".format(*metadata["input_size"])
        logger.warning(f"'{name}' is made for images of {size} pixels; it may fail at others.")
    mean, std = ([round(255 * x, 3) for x in metadata[key]] for key in ("mean", "std"))
    used = [*cfg.MODEL.PIXEL_MEAN, *cfg.MODEL.PIXEL_STD]
    same = cfg.INPUT.FORMAT == "RGB" and [*map(round, used)] == [*map(round, mean + std)]
    if pretrained and not same:
        logger.warning(
            f"timm's weights of '{name}' were trained with INPUT.FORMAT RGB, MODEL.PIXEL_MEAN "
            f"{mean} and MODEL.PIXEL_STD {std}. The config differs."
        )
    return backbone
