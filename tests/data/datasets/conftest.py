"""Fixtures of the tests of datasets that a config describes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture
def own_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A test that neither finds nor leaves datasets, or sizes of images."""
    from tests.data.datasets.written import forget_datasets

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)  # where the folder "datasets" is looked for
    yield
    forget_datasets()


@pytest.fixture
def image_folder(tmp_path: Path) -> Path:
    """A folder with the image of :func:`tests.data.datasets.written.content_of`."""
    from tests.data.datasets.written import write_files

    write_files(tmp_path, {"source/a.png": (50, 80)})
    return tmp_path / "source"


@pytest.fixture
def parts(tmp_path: Path, image_folder: Path) -> dict:
    """The config of a COCO dataset, with absolute paths."""
    from tests.data.datasets.written import content_of, write_coco

    root = tmp_path / "parts"
    write_coco(content_of("bolt", "nut"), image_folder, root)
    paths = {"annotations": str(root / "train.json"), "images": str(root / "images")}
    return {"name": "parts", "format": "coco", **paths}
