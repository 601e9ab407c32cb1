"""What a checkpoint says of itself, so that it can be used without its config."""

from __future__ import annotations

import os
import zipfile
from importlib.metadata import PackageNotFoundError, version

import torch
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog


def model_metadata(cfg: CfgNode) -> dict:
    """Config, class names and version of a detector.

    Returns:
        ``config``, YAML; ``class_names``, a list, empty where the datasets do not tell; and
        ``asff_version``.
    """
    names = []
    for dataset in (*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST):
        names = names or list(MetadataCatalog.get(dataset).get("thing_classes", []))
    return {"config": cfg.dump(), "class_names": names, "asff_version": package_version()}


def read_metadata(path: str | os.PathLike) -> tuple[str, list[str]]:
    """The config and class names that :func:`model_metadata` put into a checkpoint.

    Its tensors are not read.

    Returns:
        The config as YAML and the names; empty where the file does not tell, as older ones and
        those of other programs.

    Raises:
        ValueError: there is no such file, or it is damaged.
    """
    if not os.path.isfile(path):
        raise ValueError(f"The checkpoint '{path}' cannot be read: there is no such file.")
    content = {}
    if zipfile.is_zipfile(path):  # as torch writes
        try:
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        except Exception as error:  # a damaged file raises nearly anything
            reason = f"{type(error).__name__}: {error}".splitlines()[0]
            raise ValueError(f"The checkpoint '{path}' cannot be read: {reason}") from error
    if not isinstance(content, dict):
        return "", []
    config, names = content.get("config"), content.get("class_names")
    return config if isinstance(config, str) else "", names if isinstance(names, list) else []


def package_version() -> str:
    try:
        return version("asff")
    except PackageNotFoundError:  # run from a checkout
        return "unknown"
