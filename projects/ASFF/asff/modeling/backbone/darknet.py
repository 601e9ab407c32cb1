"""DarkNet-53, the bottom-up of YOLOv3 (arXiv 1804.02767, Table 1)."""

from __future__ import annotations

from collections.abc import Sequence

from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, Backbone
from torch import Tensor, nn

from ...config import choose
from ..layers import conv_norm_act, msra_init, scale_channels


class _Block(nn.Module):
    """Residual block: 1x1 convolution to half the channels, 3x3 convolution back."""

    def __init__(self, channels: int, *, norm: str):
        super().__init__()
        style = {"norm": norm, "activation": "leaky_relu"}
        self.conv1 = conv_norm_act(channels, channels // 2, 1, **style)
        self.conv2 = conv_norm_act(channels // 2, channels, 3, **style)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv2(self.conv1(x))


class DarkNet(Backbone):
    """DarkNet with five stages, each a stride-2 convolution followed by residual blocks.

    Features carry the names of Detectron2's ResNet: ``res3``, ``res4``, ``res5`` at strides 8, 16,
    32, so that bottom-ups are swapped by one key.

    Args:
        depths: residual blocks per stage; (1, 2, 8, 8, 4) is DarkNet-53.
        width: multiplier of all channels.
        out_features: names of the stages to return, of ``res1`` to ``res5``.
        norm: see :func:`conv_norm_act`.
    """

    def __init__(
        self,
        *,
        depths: Sequence[int] = (1, 2, 8, 8, 4),
        width: float = 1.0,
        out_features: Sequence[str] = ("res3", "res4", "res5"),
        norm: str = "BN",
    ):
        super().__init__()
        style = {"norm": norm, "activation": "leaky_relu"}
        channels = scale_channels(32, width)
        self.stem = conv_norm_act(3, channels, 3, **style)
        self._out_feature_strides, self._out_feature_channels = {}, {}
        for stage, depth in enumerate(depths, start=1):
            out_channels = scale_channels(32 * 2**stage, width)
            name = f"res{stage}"
            self.add_module(
                name,
                nn.Sequential(
                    conv_norm_act(channels, out_channels, 3, stride=2, **style),
                    *(_Block(out_channels, norm=norm) for _ in range(depth)),
                ),
            )
            self._out_feature_strides[name] = 2**stage
            self._out_feature_channels[name] = out_channels
            channels = out_channels
        for name in out_features:
            choose(self._out_feature_strides, name, "MODEL.DARKNET.OUT_FEATURES")
        self._out_features = list(out_features)
        msra_init(self, "leaky_relu")

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Map images (N, 3, H, W) to ``{name: (N, C, H / stride, W / stride)}``."""
        outputs = {}
        x = self.stem(x)
        for name in self._out_feature_strides:
            x = getattr(self, name)(x)
            if name in self._out_features:
                outputs[name] = x
        return outputs


@BACKBONE_REGISTRY.register()
def build_darknet_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> DarkNet:
    """Build a :class:`DarkNet` from ``cfg.MODEL.DARKNET``."""
    return DarkNet(
        depths=cfg.MODEL.DARKNET.DEPTHS,
        width=cfg.MODEL.DARKNET.WIDTH,
        out_features=cfg.MODEL.DARKNET.OUT_FEATURES,
        norm=cfg.MODEL.DARKNET.NORM,
    )
