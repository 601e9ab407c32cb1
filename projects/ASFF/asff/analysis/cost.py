"""Costs of a detector that no machine changes: parameters and multiply-adds."""

from __future__ import annotations

from detectron2.utils.analysis import FlopCountAnalysis, parameter_count
from fvcore.nn.jit_handles import conv_flop_count, get_shape
from torch import nn


def count_operations(model: nn.Module, inputs: list[dict]) -> dict:
    """Count parameters and multiply-adds of a detector in evaluation, as fvcore does.

    Returns:
        ``parameters``, ``multiply_adds``, and ``not_counted``, names of operations that fvcore does
        not know. Element-wise operations are not counted either.
    """
    analysis = FlopCountAnalysis(model, inputs).set_op_handle(
        "torchvision::deform_conv2d", _count_deform_conv
    )
    analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False)
    analysis.tracer_warnings("none")
    return {
        "parameters": parameter_count(model)[""],
        "multiply_adds": int(analysis.total()),
        "not_counted": sorted(analysis.unsupported_ops()),
    }


def _count_deform_conv(inputs: list, outputs: list) -> int:
    """Count a deformable convolution as a plain one; its sampling is not counted."""
    x, weight, out = (get_shape(value) for value in (*inputs[:2], outputs[0]))
    return conv_flop_count(x, weight, out)
