"""Datasets that a config describes, in ``DATASETS.CUSTOM``: own data without Python."""

from __future__ import annotations

import os
from collections.abc import Collection
from functools import partial
from pathlib import Path

import yaml
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances

from .entries import check_classes, check_entries, format_of, naming
from .files import read_lines
from .records import load_records


def resolve_custom_datasets(
    cfg: CfgNode, config_file: str | os.PathLike, names: Collection[str] | None = None
) -> None:
    """Give the entries of ``cfg.DATASETS.CUSTOM`` absolute paths and their class names.

    Args:
        config_file: may be empty. Relative paths are looked for in its folder, in those of its
            ``_BASE_`` files, and in ``$DETECTRON2_DATASETS``.
        names: of the datasets that are needed, by default those of DATASETS.TRAIN and TEST. The
            files of others may be missing; their entries stay as they are.

    Raises:
        ValueError: naming the entry, the value, and the fix.
    """
    check_entries(cfg.DATASETS.CUSTOM)
    if names is None:
        names = (*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST)
    resolved = []
    for i, entry in enumerate(cfg.DATASETS.CUSTOM):
        if entry["name"] in names:
            with naming(i, entry):
                entry = resolve_entry(entry, search_folders(config_file))
        resolved.append(entry)
    cfg.DATASETS.CUSTOM = resolved


def register_custom_datasets(cfg: CfgNode) -> None:
    """Register the datasets of ``cfg.DATASETS.CUSTOM`` with Detectron2; no file is read.

    Every process has to do it. Datasets of former calls are replaced.

    Raises:
        ValueError: a name is that of a dataset from elsewhere.
    """
    for i, entry in enumerate(cfg.DATASETS.CUSTOM):
        name = entry["name"]
        if name in DatasetCatalog:
            with naming(i, entry):
                if "source" not in MetadataCatalog.get(name).as_dict():
                    raise ValueError("Detectron2 has a dataset of this name. Choose another name.")
            DatasetCatalog.remove(name)
        # Old metadata may name the files of a former evaluation.
        MetadataCatalog.pop(name, None)
        register(entry)


def register(entry: dict) -> None:
    name, classes = entry["name"], entry.get("classes")
    metadata = {"source": entry}
    if isinstance(classes, list):  # else not resolved
        metadata["thing_classes"] = classes
    if entry["format"] == "coco":
        register_coco_instances(name, metadata, entry["annotations"], entry["images"])
        return
    load_content = partial(format_of(entry).read_content, entry)
    DatasetCatalog.register(name, partial(load_records, name, load_content))
    if isinstance(classes, list):
        metadata["thing_dataset_id_to_contiguous_id"] = {i + 1: i for i in range(len(classes))}
    MetadataCatalog.get(name).set(evaluator_type="coco", load_content=load_content, **metadata)


def resolve_entry(entry: dict, folders: list[str]) -> dict:
    """A copy with absolute paths and the list of class names.

    Args:
        folders: where relative paths are looked for.
    """
    entry, kind = dict(entry), format_of(entry)
    for key in kind.paths:
        if key in entry:
            entry[key] = resolve_path(entry[key], key, folders)
    if isinstance(entry.get("classes"), str):
        path = resolve_path(entry["classes"], "classes", folders)
        entry["classes"] = [line for _, line in read_lines(Path(path))]
    if "classes" not in entry or entry["format"] == "coco":
        entry["classes"] = kind.read_classes(entry)
    check_classes(entry["classes"])
    return entry


def resolve_path(value: str, key: str, folders: list[str]) -> str:
    """The first place where a path exists, absolute."""
    places = [os.path.abspath(os.path.join(x, os.path.expanduser(value))) for x in folders]
    for place in places:
        if os.path.exists(place):
            return place
    raise ValueError(
        f"{key} is '{value}', which does not exist. Looked for: {', '.join(dict.fromkeys(places))}."
    )


def search_folders(config_file: str | os.PathLike) -> list[str]:
    """Where relative paths are looked for, in this order."""
    datasets = os.path.expanduser(os.getenv("DETECTRON2_DATASETS", "datasets"))
    return [*(config_folders(config_file) if config_file else [""]), datasets]


def config_folders(config_file: str | os.PathLike) -> list[str]:
    """The folders of a config file and of the files in its chain of ``_BASE_``."""
    folder = os.path.dirname(config_file)
    bases = yaml.safe_load(Path(config_file).read_text()).get("_BASE_", [])
    folders = [folder]
    for base in [bases] if isinstance(bases, str) else bases:
        if "://" not in base:
            folders += config_folders(os.path.join(folder, os.path.expanduser(base)))
    return folders
