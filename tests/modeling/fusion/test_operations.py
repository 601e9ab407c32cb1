"""Operations of fusion: spatial weights, and what every operation starts from."""

from __future__ import annotations

import pytest
import torch

from asff.modeling import AdaptiveFusion, FusionOperation, SumFusion
from asff.modeling.fusion.operations import ReducedConcatFusion
from tests.modeling.fusion.resized import make_features, spatial_weights


def make_adaptive() -> AdaptiveFusion:
    torch.manual_seed(0)
    fuse = AdaptiveFusion(4, 3, weight_channels=3, norm="BN", activation="leaky_relu")
    return fuse.eval()


@pytest.mark.parametrize("scale", [1, 1000])
def test_weights_sum_to_1(scale):
    """Each is in [0, 1], also where the features are huge."""
    resized = [scale * x for x in make_features((4, 4, 4), [(5, 6)] * 3, num_images=2)]
    weights = spatial_weights(make_adaptive(), resized)
    assert weights.shape == (2, 3, 5, 6)
    assert (weights >= 0).all() and (weights <= 1).all()
    torch.testing.assert_close(weights.sum(dim=1), torch.ones(2, 5, 6))
    assert weights.std(dim=(2, 3)).min() > 0  # they depend on the location


def test_softmax_is_float32_under_autocast():
    fuse, resized = make_adaptive(), make_features((4, 4, 4), [(9, 9)] * 3)
    exact = spatial_weights(fuse, resized)
    with torch.autocast("cpu", torch.bfloat16):
        weights = spatial_weights(fuse, resized)
        fused = fuse(resized)
    assert weights.dtype == torch.float32
    # In bfloat16 the sum would be off by up to 1/256.
    torch.testing.assert_close(weights.sum(dim=1), torch.ones(1, 9, 9), rtol=0, atol=1e-6)
    torch.testing.assert_close(weights, exact, rtol=0, atol=0.05)
    assert fused.dtype == resized[0].dtype


@pytest.mark.parametrize("fuse", [make_adaptive(), ReducedConcatFusion(4, 3)], ids=type)
def test_starts_as_a_weighted_sum(fuse: FusionOperation):
    fuse.init_spatial_weights(1, 0.8)
    x, y, z = make_features((4, 4, 4), [(5, 6)] * 3)
    bias = 0 if isinstance(fuse, AdaptiveFusion) else fuse.reduce.bias[:, None, None]
    torch.testing.assert_close(fuse([x, y, z]), 0.1 * x + 0.8 * y + 0.1 * z + bias)


def test_sum_has_no_weights_to_start_with():
    fuse, features = SumFusion(4, 3), make_features((4, 4, 4), [(5, 6)] * 3)
    fuse.init_spatial_weights(1, 0.8)
    torch.testing.assert_close(fuse(features), torch.stack(features).sum(dim=0))
