"""Ways to fuse the levels of a pyramid, and FPN with them."""

from .asff_fpn import ASFFFPN
from .pyramid_fusion import FUSIONS, AdaptiveFusion, PyramidFusion, Resize

__all__ = ["ASFFFPN", "FUSIONS", "AdaptiveFusion", "PyramidFusion", "Resize"]
