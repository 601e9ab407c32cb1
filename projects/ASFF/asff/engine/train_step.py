"""One training step: autocast on any device, clipping of the gradient, no non-finite update."""

from __future__ import annotations

import time
from collections.abc import Iterable

import numpy as np
import torch
from detectron2.engine import SimpleTrainer
from detectron2.utils import comm
from detectron2.utils.events import get_event_storage
from torch import Tensor, nn


class TrainStep(SimpleTrainer):
    """Detectron2's SimpleTrainer with its step extended.

    Args:
        model, data_loader, optimizer: as in :class:`SimpleTrainer`.
        max_grad_norm: limit of the global gradient norm; 0 switches clipping off.
        amp_dtype: dtype of autocast; None switches it off. float16 needs, and gets, a loss scaler.
        seed: with iteration and rank it determines what random layers draw, so that a resumed run
            repeats it.
    """

    def __init__(
        self,
        model: nn.Module,
        data_loader: Iterable[list[dict]],
        optimizer: torch.optim.Optimizer,
        *,
        max_grad_norm: float = 0.0,
        amp_dtype: torch.dtype | None = None,
        seed: int = 0,
    ):
        super().__init__(model, data_loader, optimizer)
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

        with torch.autocast(
            self.device.type, dtype=self.amp_dtype, enabled=self.amp_dtype is not None
        ):
            loss_dict = self.model(data)
        self.optimizer.zero_grad()
        self.scaler.scale(sum(loss_dict.values())).backward()
        self.after_backward()
        self.scaler.unscale_(self.optimizer)
        limit = self.max_grad_norm or float("inf")
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), limit)  # before clipping
        self._check_finite(loss_dict, norm, data)
        self._write_metrics(loss_dict, data_time)
        self.scaler.step(self.optimizer)
        self.scaler.update()

    def _check_finite(self, loss_dict: dict[str, Tensor], norm: Tensor, data: list[dict]) -> None:
        """Stop every process before a non-finite loss or gradient reaches the weights.

        Raises:
            FloatingPointError: with the loss terms and file names of every process concerned.
        """
        values = torch.stack([*loss_dict.values(), norm]).detach()
        # float16 gradients overflow now and then; the scaler skips such steps.
        checked = values[:-1] if self.scaler.is_enabled() else values
        num_bad = (~checked.isfinite()).sum()
        if comm.get_world_size() > 1:
            torch.distributed.all_reduce(num_bad)
        if num_bad.item():
            terms = ", ".join(
                f"{name}={value:.4g}"
                for name, value in zip([*loss_dict, "gradient norm"], values.tolist())
            )
            files = ", ".join(str(x.get("file_name", "?")) for x in data)
            reports = comm.all_gather(f"rank {comm.get_rank()}: {terms}; images: {files}")
            rate = self.optimizer.param_groups[0]["lr"]
            raise FloatingPointError(
                f"The loss or its gradient is not finite at iteration {self.iter}, learning rate "
                f"{rate:.4g}. The step was not taken and nothing was saved.\n"
                + "\n".join(reports)
                + "\nTry a lower SOLVER.BASE_LR, more SOLVER.WARMUP_ITERS, or a limit "
                "SOLVER.MAX_GRAD_NORM; if it happens at once, look at these images' boxes."
            )
        self.steps += 1
        norm = values[-1].item()
        clipped = 0 < self.max_grad_norm < norm
        self.clipped_steps += clipped
        get_event_storage().put_scalars(grad_norm=norm, clipped=float(clipped))

    def state_dict(self) -> dict:
        return {**super().state_dict(), "grad_scaler": self.scaler.state_dict()}

    def load_state_dict(self, state_dict: dict) -> None:
        super().load_state_dict(state_dict)
        # Empty if the run had no scaler before.
        if state_dict.get("grad_scaler"):
            self.scaler.load_state_dict(state_dict["grad_scaler"])


def _report_size(data: list[dict]) -> None:
    """Put ``image_size``, the longest side in this process's batch, in pixels, into the storage."""
    size = max((side for x in data for side in x["image"].shape[-2:]), default=0)
    get_event_storage().put_scalar("image_size", size, smoothing_hint=False)


def _seed_layers(seed: int, iteration: int, rank: int) -> None:
    """Seed torch's generators, on every device, by the three arguments."""
    (state,) = np.random.SeedSequence([seed, iteration, rank]).generate_state(1, np.uint64)
    torch.manual_seed(int(state))
