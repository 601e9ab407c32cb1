"""What the conversion to ONNX leaves as it was."""

from __future__ import annotations

import logging

import pytest

from asff.export.onnx_model import _quiet


def test_an_error_restores_the_log_level():
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    with pytest.raises(RuntimeError), _quiet():
        assert logger.level == logging.ERROR
        raise RuntimeError
    assert logger.level == level != logging.ERROR
