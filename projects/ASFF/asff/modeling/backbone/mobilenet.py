"""MobileNetV2 (arXiv 1801.04381) as a Detectron2 bottom-up; the layers are torchvision's."""

from __future__ import annotations

from collections.abc import Sequence

from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, Backbone
from torch import Tensor, nn
from torchvision.models import mobilenet_v2

from ...config import choose
from ..layers import make_norm, msra_init

# Stride of each feature, and the index in torchvision's `features` of the last layer there.
_STRIDES = {"res3": 8, "res4": 16, "res5": 32}
_LAST_LAYERS = {"res3": 6, "res4": 13, "res5": 18}


class MobileNetV2(Backbone):
    """MobileNetV2 up to its last 1x1 convolution, under torchvision's key names.

    Args:
        width: multiplier of the channels, which are 32, 96 and 1280 at strides 8, 16 and 32.
        out_features: names of the features to return, as of Detectron2's ResNet.
        norm: see :func:`make_norm`.
    """

    def __init__(
        self,
        *,
        width: float = 1.0,
        out_features: Sequence[str] = ("res3", "res4", "res5"),
        norm: str = "BN",
    ):
        super().__init__()
        for name in out_features:
            choose(_LAST_LAYERS, name, "MODEL.MOBILENETV2.OUT_FEATURES")
        network = mobilenet_v2(
            weights=None,
            width_mult=width,
            norm_layer=lambda channels: make_norm(norm, channels) or nn.Identity(),
        )
        self.features = network.features
        self._out_features = list(out_features)
        self._out_feature_strides = _STRIDES
        self._out_feature_channels = {
            name: self.features[index].out_channels for name, index in _LAST_LAYERS.items()
        }
        msra_init(self, "relu6")

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Map images (N, 3, H, W) to ``{name: (N, C, H / stride, W / stride)}``."""
        names = {_LAST_LAYERS[name]: name for name in self._out_features}
        outputs = {}
        for index, layer in enumerate(self.features):
            x = layer(x)
            if index in names:
                outputs[names[index]] = x
        return outputs


@BACKBONE_REGISTRY.register()
def build_mobilenetv2_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> MobileNetV2:
    """Build a :class:`MobileNetV2` from ``cfg.MODEL.MOBILENETV2``."""
    return MobileNetV2(
        width=cfg.MODEL.MOBILENETV2.WIDTH,
        out_features=cfg.MODEL.MOBILENETV2.OUT_FEATURES,
        norm=cfg.MODEL.MOBILENETV2.NORM,
    )
