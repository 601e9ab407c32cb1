"""Fixtures of the visualization tests."""

from __future__ import annotations

import pytest

from asff.visualization.overlay import Overlay


@pytest.fixture
def texts(monkeypatch) -> list[str]:
    """Return the list of labels that a test draws."""
    written: list[str] = []
    draw_label = Overlay.draw_label

    def record(self, text, *args):
        written.append(text)
        draw_label(self, text, *args)

    monkeypatch.setattr(Overlay, "draw_label", record)
    return written
