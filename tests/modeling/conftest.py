"""Run the tests of this folder on one thread."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch


@pytest.fixture(autouse=True)
def one_thread_unless_slow(request: pytest.FixtureRequest) -> Iterator[None]:
    """Threads that wait for each other make small tensors ten times slower on a busy machine."""
    threads = torch.get_num_threads()
    if request.node.get_closest_marker("slow") is None:
        torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
