"""What the tests of this folder run in: one thread, and figures printed at the end."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch

FIGURES = pytest.StashKey[list[str]]()


@pytest.fixture
def report(request: pytest.FixtureRequest) -> Callable[[str], None]:
    """Call it with a line to be printed at the end, whether or not output is captured."""
    return request.config.stash.setdefault(FIGURES, []).append


@pytest.fixture(autouse=True)
def one_thread_unless_slow(request: pytest.FixtureRequest) -> Iterator[None]:
    """Threads that wait for each other make small tensors ten times slower on a busy machine."""
    threads = torch.get_num_threads()
    if request.node.get_closest_marker("slow") is None:
        torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    if FIGURES in config.stash:
        terminalreporter.section("figures")
        for line in config.stash[FIGURES]:
            terminalreporter.line(line)
