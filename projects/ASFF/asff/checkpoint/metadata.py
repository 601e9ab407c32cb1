"""Metadata of a checkpoint, so that it can be used without its config."""

from __future__ import annotations

import os
import zipfile
from importlib.metadata import PackageNotFoundError, version

from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog

from .files import load_file


def model_metadata(cfg: CfgNode) -> dict:
    """Return ``config`` (YAML), ``class_names`` (empty if not known) and ``asff_version``."""
    names = []
    for dataset in (*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST):
        names = names or list(MetadataCatalog.get(dataset).get("thing_classes", []))
    return {"config": cfg.dump(), "class_names": names, "asff_version": package_version()}


def read_metadata(path: str | os.PathLike) -> tuple[str, list[str]]:
    """Read the config (YAML) and class names of :func:`model_metadata`, without the tensors.

    Both are empty if the file lacks them, as those of other programs.

    Raises:
        ValueError: there is no such file, or it is damaged.
    """
    if os.path.isfile(path) and not zipfile.is_zipfile(path):
        return "", []  # not written by today's torch
    content = load_file(path, mmap=True)
    if not isinstance(content, dict):
        return "", []
    config, names = content.get("config"), content.get("class_names")
    return config if isinstance(config, str) else "", names if isinstance(names, list) else []


def package_version() -> str:
    """Return the version of the installed package, or "unknown"."""
    try:
        return version("asff")
    except PackageNotFoundError:  # not installed
        return "unknown"
