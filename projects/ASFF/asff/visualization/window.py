"""Show images in a window."""

from __future__ import annotations

import os
import sys

import cv2
import numpy as np

WINDOW = "detections (any key: next, q: end)"


def open_window() -> None:
    """Open the window of ``--show``.

    Raises:
        ValueError: there is no display, or OpenCV was built without windows.
    """
    advice = "or leave --show out: the images are written in any case"
    # Without a display, OpenCV ends the process.
    linux = sys.platform.startswith("linux")
    if linux and not (os.getenv("DISPLAY") or os.getenv("WAYLAND_DISPLAY")):
        raise ValueError(f"--show: there is no display here. Use a desktop, {advice}.")
    try:
        cv2.namedWindow(WINDOW, cv2.WINDOW_NORMAL)
    except cv2.error as error:
        raise ValueError(
            f"--show: this OpenCV has no windows. Install opencv-python in place of "
            f"opencv-python-headless, {advice}."
        ) from error


def show_image(image: np.ndarray, *, wait: bool) -> None:
    """Show an image (H, W, 3), RGB.

    Args:
        wait: wait for a key.

    Raises:
        KeyboardInterrupt: the key is q or Escape.
    """
    cv2.imshow(WINDOW, cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
    if cv2.waitKey(0 if wait else 1) & 0xFF in (ord("q"), 27):
        raise KeyboardInterrupt
