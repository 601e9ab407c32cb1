"""Batch norm of two processes against plain batch norm of their whole batch."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from detectron2.engine import launch
from detectron2.layers import NaiveSyncBatchNorm
from detectron2.utils import comm
from torch import Tensor, nn

from asff.modeling import synchronize_norms

timm = pytest.importorskip("timm", reason="timm is not installed (pip install .[timm])")


def run(norms: nn.Module, x: Tensor) -> dict[str, Tensor]:
    """Normalise; return outputs and gradients, of a loss that weights all values differently."""
    x.requires_grad_()
    y = norms(x)
    (y.float() * torch.linspace(-1, 1, y[0].numel()).view(y[0].shape)).sum().backward()
    gradients = {f"grad {name}": p.grad for name, p in norms.named_parameters()}
    return {"y": y.detach(), "x": x.grad, **gradients, **dict(norms.named_buffers())}


def make_norms(second: type[nn.Module]) -> nn.Module:
    """A norm of timm, with its activation, and one of Detectron2."""
    torch.manual_seed(0)
    norms = nn.Sequential(timm.layers.BatchNormAct2d(8), second(8))
    for p in norms.parameters():
        nn.init.uniform_(p, 0.5, 1.5)
    return norms


def run_in_process(folder: Path) -> None:
    results = []
    for x in torch.load(folder / "images.pt"):
        norms = make_norms(NaiveSyncBatchNorm)
        synchronize_norms(norms)
        synchronize_norms(norms[:1], nn.BatchNorm2d)
        results.append(run(norms, x.chunk(2)[comm.get_rank()]))
    torch.save(results, folder / f"{comm.get_rank()}.pt")


@pytest.fixture(scope="module")
def images() -> list[Tensor]:
    """Four images; and once more with a mean whose square hides the variance in bfloat16."""
    x = (
        torch.randn(4, 8, 5, 6, generator=torch.Generator().manual_seed(0))
        * torch.arange(1, 9)[:, None, None]
    )
    return [x, (3.3 + 0.1 * x).bfloat16()]


@pytest.fixture(scope="module")
def ranks(images, tmp_path_factory) -> list[list[dict]]:
    folder = tmp_path_factory.mktemp("ranks")
    torch.save(images, folder / "images.pt")
    launch(run_in_process, 2, dist_url="auto", args=(folder,))
    return [torch.load(folder / f"{rank}.pt") for rank in range(2)]


@pytest.mark.parametrize(("index", "tolerance"), [(0, 1e-4), (1, 0.02)], ids=["float", "bfloat16"])
def test_two_processes_equal_one(images, ranks, index, tolerance):
    (first, second), x = (rank[index] for rank in ranks), images[index]
    expected = run(make_norms(nn.BatchNorm2d), x.float())
    assert first["y"].dtype == x.dtype
    for name, value in expected.items():
        if index == 1 and (name == "x" or name.startswith("grad")):
            continue  # they pass through tensors in bfloat16 in both directions
        if name in ("y", "x"):
            found = torch.cat([first[name], second[name]])
        elif name.startswith("grad"):  # DistributedDataParallel adds them up
            found = first[name] + second[name]
        else:  # running statistics, which every process has
            assert torch.equal(first[name], second[name])
            found = first[name]
        scale = value.abs().max().item()
        torch.testing.assert_close(
            found.to(value.dtype), value, rtol=tolerance, atol=tolerance * scale
        )
