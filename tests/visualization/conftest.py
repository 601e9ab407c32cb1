"""Fixtures of the drawings."""

from __future__ import annotations

import pytest

from asff.visualization.overlay import Overlay


@pytest.fixture
def texts(monkeypatch) -> list[str]:
    """The labels drawn in a test."""
    written: list[str] = []
    draw_label = Overlay.draw_label

    def record(self, text, *args):
        written.append(text)
        draw_label(self, text, *args)

    monkeypatch.setattr(Overlay, "draw_label", record)
    return written
