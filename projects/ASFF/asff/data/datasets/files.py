"""What the folder formats of datasets share: finding files, and reading lists line by line."""

from __future__ import annotations

import os
from collections.abc import Collection
from pathlib import Path

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")


def find_files(folder: Path, suffixes: Collection[str]) -> list[Path]:
    """Files in a folder and the folders in it, also through links, by suffix; sorted by path."""
    return sorted(
        Path(parent, name)
        for parent, _, names in os.walk(folder, followlinks=True)
        for name in names
        if os.path.splitext(name)[1].lower() in suffixes and not name.startswith(".")
    )


def read_lines(path: Path) -> list[tuple[int, str]]:
    """Number, from 1, and stripped text of each line that is not blank.

    Raises:
        ValueError: the file is missing, or no text.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()  # editors may put a mark first
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} cannot be read as text: {error}.") from error
    return [(i, line.strip()) for i, line in enumerate(lines, start=1) if line.strip()]
