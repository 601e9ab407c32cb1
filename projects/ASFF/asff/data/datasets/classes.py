"""Checks of the datasets that a config names: that they exist, and have the model's classes."""

from __future__ import annotations

import difflib
import logging
from collections.abc import Sequence
from pathlib import Path

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog

DEFAULT_CLASSES = 80  # Detectron2's default of every class count, and ours: COCO's


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


def known_classes(names: Sequence[str]) -> dict[str, list[str]]:
    """Return class names by dataset; some datasets have them only once they are loaded."""
    classes = {name: MetadataCatalog.get(name).get("thing_classes") for name in names}
    return {name: list(value) for name, value in classes.items() if value is not None}


def check_same_classes(names: Sequence[str]) -> None:
    """Check that datasets, as far as their classes are known by now, have the same ones.

    Raises:
        ValueError: the names of the classes, or their order, differ.
    """
    known = list(known_classes(names).items())
    for name, classes in known[1:]:
        first, expected = known[0]
        if classes != expected:
            raise ValueError(
                f"The dataset '{first}' has the classes {', '.join(expected)}, but '{name}' has "
                f"{', '.join(classes)}. Datasets that are used together need the same names in the "
                f"same order: in DATASETS.CUSTOM, give '{name}' the key classes: "
                f"[{', '.join(expected)}] (a COCO file has the order of its category ids)."
            )


def class_count(cfg: CfgNode) -> tuple[str, int] | None:
    """Return key and value of the meta-architecture's class count; None where it has no key."""
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
    for name, classes in known_classes(names).items():
        _check_count(cfg, classes, f"the dataset '{name}' has")


def follow_classes(cfg: CfgNode, names: Sequence[str]) -> None:
    """Set the model's class count, where it is the default, to that of the datasets."""
    model, known = class_count(cfg), known_classes(names)
    if model is None or not known:
        return
    key, count = model
    name, classes = next(iter(known.items()))
    if count == DEFAULT_CLASSES != len(classes):
        cfg.merge_from_list([key, len(classes)])
        logging.getLogger("asff").info(
            f"{key}: {len(classes)}, as {name} has ({shorten(classes)})."
        )


def set_num_classes(cfg: CfgNode, classes: Sequence[str], owner: str) -> None:
    """Set the model's class count, where it is the default; check it where it is not.

    Args:
        owner: what has the classes, in words, as "model.pth was trained on".

    Raises:
        ValueError: the config states another count.
    """
    model = class_count(cfg)
    if model is not None and model[1] == DEFAULT_CLASSES:
        cfg.merge_from_list([model[0], len(classes)])
    _check_count(cfg, classes, owner)


def _check_count(cfg: CfgNode, classes: Sequence[str], owner: str) -> None:
    if (model := class_count(cfg)) is None:
        return
    key, count = model
    if len(classes) != count:
        raise ValueError(
            f"{key} is {count}, but {owner} {len(classes)} classes ({shorten(classes)}). "
            f"Set {key} to {len(classes)}."
        )


def shorten(names: Sequence[str], limit: int = 10) -> str:
    """Join names for a message, at most ``limit``."""
    return ", ".join(names[:limit]) + (", ..." if len(names) > limit else "")
