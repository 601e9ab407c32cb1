"""One training step: autocast on any device, clipping of the gradient, no non-finite update."""

from __future__ import annotations

import math
import time
from collections.abc import Collection, Iterable, Sequence
from contextlib import nullcontext

import numpy as np
import torch
from detectron2.engine import SimpleTrainer
from detectron2.structures import Boxes, Instances
from detectron2.utils import comm
from detectron2.utils.events import get_event_storage
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel


class TrainStep(SimpleTrainer):
    """Detectron2's SimpleTrainer with its step extended.

    Args:
        model, data_loader, optimizer: as in :class:`SimpleTrainer`.
        accum_iters: parts of a batch that follow each other; their gradients add up to one step.
        max_grad_norm: limit of the global gradient norm; 0 switches clipping off.
        amp_dtype: dtype of autocast; None switches it off. float16 needs, and gets, a loss scaler.
        seed: with iteration and rank it determines what random layers draw, so that a resumed run
            repeats it.

    Attributes:
        signals: those that this process has received.
        received_signal: the largest number that any process had received by the last step; or 0.
    """

    signals: Collection[int] = ()
    received_signal = 0

    def __init__(
        self,
        model: nn.Module,
        data_loader: Iterable[list[dict]],
        optimizer: torch.optim.Optimizer,
        *,
        accum_iters: int = 1,
        max_grad_norm: float = 0.0,
        amp_dtype: torch.dtype | None = None,
        seed: int = 0,
    ):
        super().__init__(model, data_loader, optimizer)
        self.accum_iters = accum_iters
        self.max_grad_norm = max_grad_norm
        self.amp_dtype = amp_dtype
        self.seed = seed
        self.device = next(model.parameters()).device
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=amp_dtype == torch.float16)
        self.steps = self.clipped_steps = 0

    def run_step(self) -> None:
        start = time.perf_counter()
        data = next(self._data_loader_iter)
        data_time = time.perf_counter() - start
        _report_size(data)
        _seed_layers(self.seed, self.iter, comm.get_rank())

        self.optimizer.zero_grad()
        loss_dict = self._backward(data)
        self.after_backward()
        self.scaler.unscale_(self.optimizer)
        limit = self.max_grad_norm or float("inf")
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), limit)  # before clipping
        others = [norm.new_full((), x) for x in (data_time, max(self.signals, default=0))]
        *losses, norm, data_times, signals = zip(
            *_gather(torch.stack([*loss_dict.values(), norm, *others]))
        )
        self.received_signal = int(max(signals))
        losses, norm = dict(zip(loss_dict, losses)), norm[0]
        self._check_finite(losses, norm, data)
        self._write(losses, norm, data_times)
        if math.isfinite(norm):
            self.optimizer.step()
        self.scaler.update()

    def _backward(self, data: list[dict]) -> dict[str, Tensor]:
        """Add the gradients of a batch's parts; return the means of their loss terms."""
        size, rest = divmod(len(data), self.accum_iters)
        assert rest == 0, "the parts of a batch must be equal"
        totals = {}
        for k in range(self.accum_iters):
            part = copy_batch(data[k * size : (k + 1) * size], self.device)
            # The processes add up their gradients once, with the last part.
            wait = k < self.accum_iters - 1 and isinstance(self.model, DistributedDataParallel)
            with self.model.no_sync() if wait else nullcontext():
                with torch.autocast(
                    self.device.type, dtype=self.amp_dtype, enabled=self.amp_dtype is not None
                ):
                    losses = self.model(part)
                losses = {name: loss / self.accum_iters for name, loss in losses.items()}
                self.scaler.scale(sum(losses.values())).backward()
            for name, loss in losses.items():
                totals[name] = totals.get(name, 0) + loss.detach()
        return totals

    def _check_finite(
        self, losses: dict[str, Sequence[float]], norm: float, data: list[dict]
    ) -> None:
        """Stop every process before a non-finite loss or gradient reaches the weights.

        Args:
            losses: terms of every rank.
            norm: of the gradient, which the ranks share.
            data: batch of this rank.

        Raises:
            FloatingPointError: with the loss terms and file names of every process concerned.
        """
        finite = np.isfinite(list(losses.values())).all()
        # float16 gradients overflow now and then; such a step is skipped, and the scale lowered.
        if finite and (math.isfinite(norm) or self.scaler.is_enabled()):
            return
        files = comm.all_gather(", ".join(str(x.get("file_name", "?")) for x in data))
        reports = [
            f"rank {rank}: "
            + "".join(f"{name}={values[rank]:.4g}, " for name, values in losses.items())
            + f"gradient norm={norm:.4g}; images: {files[rank]}"
            for rank in range(len(files))
        ]
        rate = self.optimizer.param_groups[0]["lr"]
        raise FloatingPointError(
            f"The loss or its gradient is not finite at iteration {self.iter}, learning rate "
            f"{rate:.4g}. The step was not taken and nothing was saved.\n"
            + "\n".join(reports)
            + "\nTry a lower SOLVER.BASE_LR, more SOLVER.WARMUP_ITERS, or a limit "
            "SOLVER.MAX_GRAD_NORM; if it happens at once, look at these images' boxes."
        )

    def _write(
        self, losses: dict[str, Sequence[float]], norm: float, data_times: Sequence[float]
    ) -> None:
        """Put loss terms and data time, over all ranks, and the gradient norm into the storage."""
        storage = get_event_storage()
        means = {name: float(np.mean(values)) for name, values in losses.items()}
        # The slowest rank determines how long all wait.
        storage.put_scalars(data_time=max(data_times), total_loss=sum(means.values()), **means)
        if math.isfinite(norm):  # else the step is skipped
            self.steps += 1
            clipped = 0 < self.max_grad_norm < norm
            self.clipped_steps += clipped
            storage.put_scalars(grad_norm=norm, clipped=float(clipped))

    def state_dict(self) -> dict:
        return {**super().state_dict(), "grad_scaler": self.scaler.state_dict()}

    def load_state_dict(self, state_dict: dict) -> None:
        super().load_state_dict(state_dict)
        # Empty if the run had no scaler before.
        if state_dict.get("grad_scaler"):
            self.scaler.load_state_dict(state_dict["grad_scaler"])


def copy_batch(data: list[dict], device: torch.device) -> list[dict]:
    """Copy images and ground truth to a GPU without waiting for it, one copy for each field.

    From pageable memory, every single tensor would make the host wait.
    """
    if device.type != "cuda":
        return data
    images = _copy_packed([x["image"] for x in data], device)
    instances = _copy_instances([x["instances"] for x in data], device)
    return [{**x, "image": image, "instances": gt} for x, image, gt in zip(data, images, instances)]


def _copy_instances(instances: Sequence[Instances], device: torch.device) -> list[Instances]:
    """Copy boxes and tensors; other fields, as of masks, are left to the model."""
    copies = [Instances(x.image_size) for x in instances]
    for name, first in instances[0].get_fields().items():
        fields = [x.get(name) for x in instances]
        if isinstance(first, Boxes):
            fields = map(Boxes, _copy_packed([x.tensor for x in fields], device))
        elif isinstance(first, Tensor):
            fields = _copy_packed(fields, device)
        for copy, field in zip(copies, fields):
            copy.set(name, field)
    return copies


def _copy_packed(tensors: Sequence[Tensor], device: torch.device) -> list[Tensor]:
    """Copy tensors of one dtype by way of one piece of pinned memory."""
    lengths = [x.numel() for x in tensors]
    packed = torch.empty(sum(lengths), dtype=tensors[0].dtype, pin_memory=device.type == "cuda")
    torch.cat([x.flatten() for x in tensors], out=packed)
    parts = packed.to(device, non_blocking=True).split(lengths)
    return [part.view(x.shape) for part, x in zip(parts, tensors)]


def _gather(values: Tensor) -> list[list[float]]:
    """Read values (V,) of every rank: the one time that a step waits for its device."""
    world_size = comm.get_world_size()
    if world_size == 1:
        return [values.tolist()]
    gathered = values.new_empty(world_size * len(values))
    torch.distributed.all_gather_into_tensor(gathered, values)
    return gathered.view(world_size, -1).tolist()


def _report_size(data: list[dict]) -> None:
    """Put ``image_size``, the longest side in this process's batch, in pixels, into the storage."""
    size = max((side for x in data for side in x["image"].shape[-2:]), default=0)
    get_event_storage().put_scalar("image_size", size, smoothing_hint=False)


def _seed_layers(seed: int, iteration: int, rank: int) -> None:
    """Seed torch's generators, on every device, by the three arguments."""
    (state,) = np.random.SeedSequence([seed, iteration, rank]).generate_state(1, np.uint64)
    torch.manual_seed(int(state))
