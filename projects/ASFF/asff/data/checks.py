"""Is the data that a config names there, and does it fit the model? Asked before anything else."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from pathlib import Path

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog


def check_datasets(names: Sequence[str], key: str) -> None:
    """Check that datasets are registered and their files exist.

    Args:
        names: of the datasets.
        key: the config key they come from.

    Raises:
        ValueError: a name is not registered, or its annotations or image folder are missing.
    """
    for name in names:
        if name not in DatasetCatalog:
            similar = difflib.get_close_matches(name, DatasetCatalog.list(), n=5, cutoff=0.4)
            raise ValueError(
                f"{key} names the dataset '{name}', which is not registered. "
                f"Similar names: {', '.join(similar) or 'none'}."
            )
        metadata = MetadataCatalog.get(name)
        for field in ("json_file", "image_root"):
            path = metadata.get(field)
            if path is not None and "://" not in path and not Path(path).exists():
                raise ValueError(
                    f"{key} names the dataset '{name}', but '{path}' does not exist. "
                    "Set the environment variable DETECTRON2_DATASETS to the folder that holds it."
                )


def class_count(cfg: CfgNode) -> tuple[str, int] | None:
    """Key and value of the meta-architecture's class count; None where they are not known."""
    name = cfg.MODEL.META_ARCHITECTURE
    node = "ROI_HEADS" if "RCNN" in name else name.upper()
    if "NUM_CLASSES" not in cfg.MODEL.get(node, ()):
        return None
    return f"MODEL.{node}.NUM_CLASSES", cfg.MODEL[node].NUM_CLASSES


def check_num_classes(cfg: CfgNode, names: Sequence[str]) -> None:
    """Check the model's class count against the datasets whose classes are known by now.

    Raises:
        ValueError: they differ.
    """
    known = class_count(cfg)
    if known is None:
        return
    key, count = known
    for name in names:
        classes = MetadataCatalog.get(name).get("thing_classes")
        if classes is not None and len(classes) != count:
            shown = ", ".join(classes[:10]) + (", ..." if len(classes) > 10 else "")
            raise ValueError(
                f"{key} is {count}, but the dataset '{name}' has {len(classes)} classes ({shown}). "
                f"Set {key} to {len(classes)}."
            )
