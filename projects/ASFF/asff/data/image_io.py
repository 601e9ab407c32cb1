"""Read image files by OpenCV, whose interpolation the authors used, too."""

from __future__ import annotations

import os

import cv2
import numpy as np
from PIL import Image

# Last bytes of complete files. OpenCV silently fills the rest of a truncated image with grey.
ENDS = {b"\xff\xd8": b"\xff\xd9", b"\x89P": b"IEND\xaeB`\x82"}  # JPEG, PNG

# Raised by Pillow for damaged files, and for images of an implausible size.
PILLOW_ERRORS = (OSError, SyntaxError, Image.DecompressionBombError)


class UnreadableImage(ValueError):
    """An image file that is missing, damaged, or of another size than its annotations state."""

    def __init__(self, reason: str):
        # A DataLoader raises it anew, with the traceback of its worker in front.
        super().__init__(reason.rpartition(f"{type(self).__name__}: ")[2].strip())


def read_image(path: str | os.PathLike, image_format: str = "RGB") -> np.ndarray:
    """Read an image upright, as EXIF says; grey, alpha, 16 bits and CMYK become 8-bit colour.

    Args:
        image_format: order of the channels, "RGB" or "BGR".

    Returns:
        (H, W, 3), uint8.

    Raises:
        UnreadableImage: naming the file and the reason.
    """
    try:
        data = np.fromfile(path, np.uint8)
    except OSError as error:
        raise UnreadableImage(f"{path}: {error.strerror or error}") from error
    if not len(data):
        raise UnreadableImage(f"{path}: the file is empty")
    _check_complete(path, data)
    try:
        # The flag converts everything to colour and applies the EXIF orientation.
        image = cv2.imdecode(data, cv2.IMREAD_COLOR)
    except cv2.error as error:  # more pixels than OpenCV allows
        raise UnreadableImage(f"{path}: {error.err}") from error
    if image is None:
        raise UnreadableImage(f"{path}: not an image that OpenCV can read")
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB, dst=image) if image_format == "RGB" else image


def check_size(image: np.ndarray, dataset_dict: dict) -> None:
    """Raise an UnreadableImage if the size of an image is not that of its dataset dict."""
    height, width = image.shape[:2]
    stated = dataset_dict.get("width", width), dataset_dict.get("height", height)
    if stated != (width, height):
        raise UnreadableImage(
            f"{dataset_dict['file_name']}: is {width}x{height} pixels, but its annotations say "
            f"{stated[0]}x{stated[1]}"
        )


def _check_complete(path: str | os.PathLike, data: np.ndarray) -> None:
    """Raise an UnreadableImage if a JPEG or PNG file is truncated."""
    end = ENDS.get(data[:2].tobytes())
    if end is None or data[-len(end) :].tobytes() == end:
        return
    # Cameras append data to complete files. Pillow reads those, but is slow.
    try:
        with Image.open(path) as image:
            image.load()
    except (*PILLOW_ERRORS, ValueError) as error:
        raise UnreadableImage(f"{path}: {error}") from error
