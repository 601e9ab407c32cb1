"""Hooks that save checkpoints, remember the best one, and end a training."""

from __future__ import annotations

import logging
import re
import signal
from collections.abc import Callable
from pathlib import Path

from detectron2.engine import hooks
from detectron2.utils import comm

from ..checkpoint import Checkpointer
from ..checkpoint.checkpointer import read_iteration
from .preemption import exit_code

logger = logging.getLogger("asff")


class EarlyStop(BaseException):
    """Raised to end a training; not an Exception, which Detectron2 would log as an error."""


class SaveCheckpoints(hooks.PeriodicCheckpointer):
    """Detectron2's hook, for every process, that also saves and ends a training at a signal.

    The exit code tells a scheduler to queue the job again; see :mod:`asff.engine.preemption`.

    Args:
        keep: number of periodic checkpoints to keep; 0 keeps all.
        keep_every: also keep those after a multiple of this number of iterations; 0 keeps none.
    """

    def __init__(
        self, checkpointer: Checkpointer, period: int, *, keep: int = 0, keep_every: int = 0
    ):
        super().__init__(checkpointer, period)
        self.keep, self.keep_every = keep, keep_every

    def after_step(self) -> None:
        super().after_step()
        received, iteration = self.trainer._trainer.received_signal, self.trainer.iter
        ends = received and iteration + 1 < self.max_iter
        if ends and (iteration + 1) % self.period:
            self.save(f"{self.file_prefix}_{iteration:07d}", iteration=iteration)
        if self.keep and comm.is_main_process():
            self._remove_older(iteration)
        if ends:
            comm.synchronize()  # the end of one process ends the others
            code = exit_code(received)
            logger.info(
                f"{signal.Signals(received).name}: the training ends after iteration {iteration} "
                f"with exit code {code}. --resume goes on from there."
            )
            raise SystemExit(code)

    def _remove_older(self, iteration: int) -> None:
        """Remove what is not to be kept, also from before a resume."""
        files = {}
        for file in Path(self.checkpointer.save_dir).glob(f"{self.file_prefix}_*.pth"):
            number = re.fullmatch(rf"{self.file_prefix}_(\d+)", file.stem)
            if number and int(number[1]) <= iteration:  # later ones are of another run
                files[int(number[1])] = file
        for number in sorted(files)[: -self.keep]:
            if not self.keep_every or (number + 1) % self.keep_every:
                files[number].unlink()


class BestCheckpointer(hooks.BestCheckpointer):
    """Detectron2's hook, for every process, that a resume restores, with early stopping.

    Args:
        period, checkpointer, metric: as in Detectron2's.
        patience: end the training after this number of evaluations without a better one; 0: never.
        evaluate: puts the metric into the event storage.
    """

    def __init__(
        self,
        period: int,
        checkpointer: Checkpointer,
        metric: str,
        *,
        patience: int,
        evaluate: Callable[[], None],
    ):
        super().__init__(period, checkpointer, metric)
        self.patience, self.evaluate = patience, evaluate
        self.evaluated = 0  # number of iterations that were done at the last evaluation

    def before_train(self) -> None:
        """Evaluate if this run starts from a checkpoint that was saved before its evaluation."""
        start, best = self.trainer.start_iter, Path(self._checkpointer.save_dir, "model_best.pth")
        if not 0 < start < self.trainer.max_iter:
            return
        # An evaluation at the end of a training need not be at a multiple of the period.
        due = self._period > 0 and start % self._period == 0 or read_iteration(best) == start - 1
        self.trainer.iter = self.trainer.storage.iter = start - 1
        if due and self.evaluated < start:
            self.evaluate()
            self._best_checking()
        self._stop_early()

    def after_step(self) -> None:
        super().after_step()
        self._stop_early()

    def _best_checking(self) -> None:
        storage = self.trainer.storage
        names = sorted(name for name in storage.latest() if "/" in name)
        # The first process alone has the results.
        names, latest = comm.all_gather((names, storage.latest().get(self._val_metric)))[0]
        if latest is None:
            logger.warning(
                f"TEST.BEST_METRIC is '{self._val_metric}', which the evaluation lacks: no "
                f"checkpoint is taken for the best. It has {', '.join(names)}."
            )
            return
        if not comm.is_main_process():
            storage.put_scalar(self._val_metric, latest[0], smoothing_hint=False)
        super()._best_checking()
        self.evaluated = storage.iter + 1

    def _stop_early(self) -> None:
        iteration = self.trainer.iter
        at_end = iteration + 1 >= self.trainer.max_iter  # the last evaluation follows
        if not self.patience or self.best_iter is None or at_end:
            return
        if iteration - self.best_iter >= self.patience * self._period:
            self._checkpointer.save("model_final", iteration=iteration)
            logger.info(
                f"The training ends after iteration {iteration}: {self.patience} evaluations have "
                f"not exceeded {self._val_metric} {self.best_metric:.4g} of iteration "
                f"{self.best_iter} (model_best.pth)."
            )
            raise EarlyStop

    def state_dict(self) -> dict:
        return {key: getattr(self, key) for key in ("best_metric", "best_iter", "evaluated")}

    def load_state_dict(self, state_dict: dict) -> None:
        vars(self).update(state_dict)
