"""Signals that end a training after its step: from a scheduler that preempts a job, or a user."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress

REQUEUE = 75  # EX_TEMPFAIL of sysexits.h: the same command, again, goes on


def exit_code(received: int) -> int:
    """Return the exit code of a training that a signal ended: of all but ctrl-C, REQUEUE."""
    return 128 + received if received == signal.SIGINT else REQUEUE


def signal_numbers(names: Collection[str]) -> list[int]:
    """Return the numbers of SOLVER.SAVE_SIGNALS.

    Raises:
        ValueError: there is no such signal, or no process can catch it.
    """
    numbers = {x.name: x.value for x in signal.Signals if x.name not in ("SIGKILL", "SIGSTOP")}
    if wrong := [name for name in names if name not in numbers and os.name == "posix"]:
        raise ValueError(
            f"SOLVER.SAVE_SIGNALS has {', '.join(map(repr, wrong))}, which cannot be caught here. "
            f"Use names of {', '.join(numbers)}."
        )
    return [numbers[name] for name in names if name in numbers]


@contextmanager
def catch_signals(names: Collection[str], *, forward: bool = False) -> Iterator[dict[int, float]]:
    """Note signals, and ctrl-C once, in place of their action: a second ctrl-C interrupts.

    Args:
        names: of the signals; one that is ignored, as SIGHUP by nohup, stays so.
        forward: also pass them on to the processes that this one has spawned.

    Yields:
        The time, in seconds, at which each number was received first.
    """
    received: dict[int, float] = {}

    def receive(number: int, frame: object) -> None:
        now = time.monotonic()
        # A terminal sends it to all processes of a job, and the first forwards it to the others.
        if number == signal.SIGINT and now - received.setdefault(number, now) > 1:
            raise KeyboardInterrupt
        received.setdefault(number, now)
        for child in multiprocessing.active_children() if forward else ():
            with suppress(ProcessLookupError):
                os.kill(child.pid, number)

    in_main_thread = threading.current_thread() is threading.main_thread()  # or none can be caught
    numbers = [signal.SIGINT, *signal_numbers(names)] if in_main_thread else ()
    before = {number: signal.getsignal(number) for number in numbers}
    before = {number: x for number, x in before.items() if x not in (signal.SIG_IGN, None)}
    for number in before:
        signal.signal(number, receive)
    try:
        yield received
    finally:
        # The launcher of several processes sends SIGTERM to those that end after the first.
        if not (received and multiprocessing.parent_process()):
            for number, handler in before.items():
                signal.signal(number, handler)
