"""Building blocks that several parts of the network share."""

from .conv import conv_norm_act, make_norm, msra_init, scale_channels
from .drop_block import DropBlock
from .rfb import ReceptiveFieldBlock

__all__ = [
    "DropBlock",
    "ReceptiveFieldBlock",
    "conv_norm_act",
    "make_norm",
    "msra_init",
    "scale_channels",
]
