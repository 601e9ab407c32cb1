"""Hooks that save checkpoints."""

from __future__ import annotations

import logging
import signal

from detectron2.engine.hooks import PeriodicCheckpointer
from detectron2.utils import comm

from .preemption import exit_code


class SaveCheckpoints(PeriodicCheckpointer):
    """Detectron2's hook, for every process, that also saves and ends a training at a signal.

    The exit code tells a scheduler to queue the job again; see :mod:`asff.engine.preemption`.
    """

    def after_step(self) -> None:
        super().after_step()
        received, iteration = self.trainer._trainer.received_signal, self.trainer.iter
        if received and iteration + 1 < self.max_iter:
            if (iteration + 1) % self.period:
                self.save(f"{self.file_prefix}_{iteration:07d}", iteration=iteration)
            comm.synchronize()  # the end of one process ends the others
            code = exit_code(received)
            logging.getLogger("asff").info(
                f"{signal.Signals(received).name}: the training ends after iteration {iteration} "
                f"with exit code {code}. --resume goes on from there."
            )
            raise SystemExit(code)
