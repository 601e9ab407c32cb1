"""Operations of a network, counted by hand."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torchvision.ops import DeformConv2d

from asff.analysis.cost import count_operations


class Countable(nn.Module):
    """Layers whose operations are easily counted, with the interface of a detector."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, stride=2, padding=1)
        self.offset = nn.Conv2d(4, 18, 1, bias=False)
        self.deform = DeformConv2d(4, 2, 3, padding=1, bias=False)
        self.linear = nn.Linear(2, 5)

    def forward(self, inputs: list[dict]) -> Tensor:
        x = self.conv(inputs[0]["image"][None])
        x = self.deform(x, self.offset(x)).relu()
        return self.linear(x.mean(dim=(2, 3)))


def test_parameters_and_multiply_adds():
    cost = count_operations(Countable(), [{"image": torch.rand(3, 8, 10)}])
    # Weights and biases; the feature map has 4 x 5 locations.
    conv, offset, deform, linear = 4 * 3 * 9, 18 * 4, 2 * 4 * 9, 5 * 2
    assert cost["parameters"] == conv + 4 + offset + deform + linear + 5
    assert cost["multiply_adds"] == 20 * (conv + offset + deform) + linear
    assert cost["not_counted"] == ["aten::mean"]  # relu works element by element
