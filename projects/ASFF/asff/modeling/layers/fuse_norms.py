"""Fold batch norms into the convolutions before them: the same outputs, up to rounding, faster."""

from __future__ import annotations

from collections import Counter
from copy import deepcopy

from detectron2.layers import Conv2d, FrozenBatchNorm2d
from detectron2.modeling import Backbone
from torch import fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

_NORMS = (nn.BatchNorm2d, nn.SyncBatchNorm, FrozenBatchNorm2d)


def fuse_norms(model: nn.Module) -> nn.Module:
    """Return a copy in evaluation mode, with batch norms folded into convolutions.

    Folded are the norms inside Detectron2's ``Conv2d`` and, in backbones that torch.fx can trace
    (torchvision's, nearly all of timm's), those that follow a plain convolution. Other norms stay.

    Args:
        model: any detector. It is left as it is; the copy computes the same up to rounding.
    """
    model = deepcopy(model).eval()
    pairs = {(x, x.norm) for x in model.modules() if isinstance(x, Conv2d)}
    for module in model.modules():
        if isinstance(module, Backbone):
            pairs |= _traced_pairs(module)
    uses = Counter(module for pair in pairs for module in pair)
    fused = {}
    for conv, norm in pairs:
        if uses[conv] == uses[norm] == 1 and _can_fold(conv, norm):
            conv.weight, conv.bias = fuse_conv_bn_weights(
                *(conv.weight, conv.bias, norm.running_mean, norm.running_var, norm.eps),
                *(norm.weight, norm.bias),
            )
            # Norms of timm hold the dropout and the activation that follow: these stay.
            fused[norm] = nn.Sequential(*norm.children()) if list(norm.children()) else None
    for parent in list(model.modules()):
        for name, child in parent.named_children():
            if child in fused:
                plain = None if isinstance(parent, Conv2d) else nn.Identity()
                parent._modules[name] = fused[child] or plain
    return model


def has_plain_forward(module: nn.Module) -> bool:
    """Return whether a module convolves its input with its weight as it is.

    Subclasses of ``Conv2d`` with a forward of their own may change either first.
    """
    return type(module).forward in (nn.Conv2d.forward, Conv2d.forward)


def _can_fold(conv: nn.Module, norm: nn.Module | None) -> bool:
    hooked = conv._forward_hooks or getattr(norm, "_forward_hooks", None)
    plain = has_plain_forward(conv)
    return plain and not hooked and isinstance(norm, _NORMS) and norm.running_mean is not None


class _Tracer(fx.Tracer):
    def is_leaf_module(self, module: nn.Module, name: str) -> bool:
        return not list(module.children()) or isinstance(module, (*_NORMS, nn.Conv2d))


def _traced_pairs(backbone: Backbone) -> set[tuple[nn.Module, nn.Module]]:
    """Return convolutions and the norms that alone read their outputs; none where tracing fails."""
    try:
        nodes = _Tracer().trace(backbone).nodes
    except Exception:  # code that branches on values or shapes; it fails in many ways
        return set()
    calls = (node for node in nodes if node.op == "call_module")
    layers = {call: backbone.get_submodule(call.target) for call in calls}
    num_calls = Counter(layers.values())
    return {
        (layers[call.args[0]], norm)
        for call, norm in layers.items()
        if isinstance(norm, _NORMS)
        and isinstance(layers.get(call.args[0]), nn.Conv2d)
        and len(call.args[0].users) == 1
        and num_calls[norm] == num_calls[layers[call.args[0]]] == 1
    }
