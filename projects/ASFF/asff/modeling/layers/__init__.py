"""Building blocks that several parts of the network share."""

from .conv import conv_norm_act, make_norm, msra_init, scale_channels
from .deform_conv import DeformConv2d
from .drop_block import DropBlock, block_sizes
from .fuse_norms import fuse_norms
from .pack_convs import pack_convolutions
from .rfb import ReceptiveFieldBlock
from .sync_norm import SyncBatchNorm, synchronize_norms
from .upsample import upsample_nearest

__all__ = [
    "DeformConv2d",
    "DropBlock",
    "ReceptiveFieldBlock",
    "SyncBatchNorm",
    "block_sizes",
    "conv_norm_act",
    "fuse_norms",
    "make_norm",
    "msra_init",
    "pack_convolutions",
    "scale_channels",
    "synchronize_norms",
    "upsample_nearest",
]
