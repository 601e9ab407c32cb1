"""Two processes on the device: their gradient is that of the whole batch in one."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from detectron2.utils import comm
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from .target import ASFF, Result, Target, distance, plain_float32


def check_two_processes(target: Target) -> Iterator[Result]:
    """Compare loss and gradient of a batch in two processes, which share a GPU, and in one."""
    mp.spawn(run_process, args=(target,), nprocs=2)
    files = [target.folder / f"rank{rank}.pt" for rank in range(2)]
    losses, gradients = zip(*(torch.load(file, weights_only=True) for file in files))
    model, _ = target.build(ASFF)
    loss, gradient = compute(model, target.batch(4, 192))
    far = distance(sum(losses) / 2, loss), distance(gradients[0], gradient)
    passed = far[0] < 1e-3 and far[1] < 5e-2 and torch.equal(*gradients)
    yield Result("two processes", passed, f"loss {far[0]:.1e}, gradient {far[1]:.1e} from one's")


def run_process(rank: int, target: Target) -> None:
    """Compute half of the batch in one of two processes, which exchange gradients by gloo."""
    if target.on_gpu:
        torch.cuda.set_device(0)
    store = {"init_method": (target.folder / "store").as_uri(), "rank": rank, "world_size": 2}
    dist.init_process_group("gloo", timeout=timedelta(seconds=60), **store)
    comm.create_local_process_group(2)
    model, _ = target.build(ASFF, world_size=2)
    parallel = DistributedDataParallel(model, device_ids=[0] if target.on_gpu else None)
    batch = target.batch(4, 192)[2 * rank : 2 * rank + 2]
    torch.save(compute(parallel, batch), target.folder / f"rank{rank}.pt")
    dist.destroy_process_group()


def compute(model: nn.Module, batch: list[dict]) -> tuple[Tensor, Tensor]:
    """Return the total loss and the gradient, on the CPU."""
    with plain_float32():
        loss = sum(model.train()(batch).values())
        loss.backward()
    return loss.detach().cpu(), torch.cat([p.grad.flatten().cpu() for p in model.parameters()])
