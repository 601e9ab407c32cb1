"""Ways to fuse the levels of a pyramid, and FPN with them."""

from .asff_fpn import ASFFFPN
from .operations import AdaptiveFusion, ConcatFusion, FusionOperation, SumFusion
from .pyramid_fusion import FUSIONS, PyramidFusion, Resize, build_fusion

__all__ = [
    "ASFFFPN",
    "FUSIONS",
    "AdaptiveFusion",
    "ConcatFusion",
    "FusionOperation",
    "PyramidFusion",
    "Resize",
    "SumFusion",
    "build_fusion",
]
