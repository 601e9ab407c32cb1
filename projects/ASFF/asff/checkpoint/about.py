"""What a checkpoint says of itself, so that it can be used without its config."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog


def describe_model(cfg: CfgNode) -> dict:
    """Config, class names and version of a detector.

    Returns:
        ``config``, YAML; ``class_names``, a list, empty where the datasets do not tell; and
        ``asff_version``.
    """
    names = []
    for dataset in (*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST):
        names = names or list(MetadataCatalog.get(dataset).get("thing_classes", []))
    return {"config": cfg.dump(), "class_names": names, "asff_version": package_version()}


def package_version() -> str:
    try:
        return version("asff")
    except PackageNotFoundError:  # run from a checkout
        return "unknown"
