"""Datasets that a config describes, in ``DATASETS.CUSTOM``: own data without Python."""

from __future__ import annotations

import difflib
import os
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

import yaml
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances

from .source import CocoSource, DatasetSource, read_lines
from .voc import VocSource
from .yolo import YoloSource, YoloWithoutData

FORMATS = {"coco": CocoSource, "voc": VocSource, "yolo": YoloSource}


def resolve_custom_datasets(
    cfg: CfgNode, config_file: str | os.PathLike, names: Collection[str] | None = None
) -> None:
    """Give the dataset configs in ``cfg.DATASETS.CUSTOM`` absolute paths and their class names.

    Args:
        config_file: may be empty. Relative paths are looked for in its folder, in those of its
            ``_BASE_`` files, and in ``$DETECTRON2_DATASETS``.
        names: of the datasets that are needed, by default those of DATASETS.TRAIN and TEST. The
            files of others may be missing; their configs stay as they are.

    Raises:
        ValueError: naming the dataset config, the key, its value, and the fix.
    """
    _check_configs(cfg.DATASETS.CUSTOM)
    if names is None:
        names = (*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST)
    resolved = []
    for i, config in enumerate(cfg.DATASETS.CUSTOM):
        if config["name"] in names:
            with _naming(i, config):
                config = _resolve(config, _search_folders(config_file))
        resolved.append(config)
    cfg.DATASETS.CUSTOM = resolved


def register_custom_datasets(cfg: CfgNode) -> None:
    """Register the datasets of ``cfg.DATASETS.CUSTOM`` with Detectron2; no file is read.

    Every process has to do it. Datasets of former calls are replaced.

    Raises:
        ValueError: a name is that of a dataset from elsewhere.
    """
    for i, config in enumerate(cfg.DATASETS.CUSTOM):
        name = config["name"]
        if name in DatasetCatalog:
            with _naming(i, config):
                if "source" not in MetadataCatalog.get(name).as_dict():
                    raise ValueError("Detectron2 has a dataset of this name. Choose another name.")
            DatasetCatalog.remove(name)
        # Old metadata may name the files of a former evaluation.
        MetadataCatalog.pop(name, None)
        _register(_source(config))


def _register(source: DatasetSource) -> None:
    name, classes = source.config["name"], source.config.get("classes")
    metadata = {"source": source}
    if isinstance(classes, list):  # else not resolved
        metadata["thing_classes"] = classes
    if isinstance(source, CocoSource):
        register_coco_instances(
            name, metadata, source.config["annotations"], source.config["images"]
        )
        return
    DatasetCatalog.register(name, source.dataset_dicts)
    if isinstance(classes, list):
        metadata["thing_dataset_id_to_contiguous_id"] = {i + 1: i for i in range(len(classes))}
    MetadataCatalog.get(name).set(evaluator_type="coco", **metadata)


def _source(config: dict) -> DatasetSource:
    if config["format"] == "yolo" and "images" in config and "data" not in config:
        return YoloWithoutData(config)
    return FORMATS[config["format"]](config)


@contextmanager
def _naming(index: int, config: object) -> Iterator[None]:
    """Begin the messages of ValueErrors with the place and the name of a dataset config."""
    try:
        yield
    except ValueError as error:
        name = f" ('{config['name']}')" if isinstance(config, dict) and "name" in config else ""
        raise ValueError(f"DATASETS.CUSTOM[{index}]{name}: {error}") from error


def _check_configs(configs: object) -> None:
    """Check ``DATASETS.CUSTOM``, but not yet the files that it names."""
    if not isinstance(configs, list):
        raise ValueError(
            f"DATASETS.CUSTOM is {configs!r}, but must be a list of datasets, each with name, "
            "format and paths."
        )
    names = []
    for i, config in enumerate(configs):
        with _naming(i, config):
            _check_config(config)
            if config["name"] in names:
                raise ValueError(f"DATASETS.CUSTOM[{names.index(config['name'])}] has this name.")
        names.append(config["name"])


def _check_config(config: object) -> None:
    if not isinstance(config, dict):
        raise ValueError(f"{config!r} is not a dataset, which has name, format and paths.")
    for key in ("name", "format"):
        if key not in config:
            raise ValueError(f"the key '{key}' is missing.")
        _check_string(config, key)
    if config["format"] not in FORMATS:
        raise ValueError(
            f"format is '{config['format']}', which is not known. Choose one of: "
            f"{', '.join(FORMATS)}."
        )
    _check_keys(_source(config))
    for key in config:
        if key != "classes":
            _check_string(config, key)
    if not isinstance(config.get("classes", ""), str):  # else a file that lists them
        _check_classes(config["classes"])


def _check_keys(source: DatasetSource) -> None:
    keys = ["name", "format", *source.required, *source.optional, "classes"]
    for key in source.config:
        if key not in keys:
            similar = difflib.get_close_matches(str(key), keys, n=1)
            hint = f" Did you mean {similar[0]}?" if similar else ""
            known = ", ".join(dict.fromkeys(keys))
            raise ValueError(f"there is no key '{key}' here.{hint} Keys: {known}.")
    for key in source.required:
        if key not in source.config:
            raise ValueError(
                f"the key '{key}' is missing: a dataset of format {source.config['format']} has "
                f"{source.usage}."
            )


def _check_string(config: dict, key: str) -> None:
    value = config[key]
    if not isinstance(value, str) or not value:
        raise ValueError(f"{key} is {value!r}, but must be a string. Put it in quotes.")


def _check_classes(classes: object) -> None:
    if not isinstance(classes, list) or not classes:
        raise ValueError(f"{classes!r} is not a list of class names.")
    for i, name in enumerate(classes):
        if not isinstance(name, str) or not name:
            raise ValueError(f"the class name {name!r} is not a string. Put it in quotes.")
        if name in classes[:i]:
            raise ValueError(f"the class name '{name}' is there twice.")


def _resolve(config: dict, folders: list[str]) -> dict:
    """Copy a dataset config, with absolute paths and the list of class names.

    Args:
        folders: where relative paths are looked for.
    """
    config = dict(config)
    for key in _source(config).paths:
        if key in config:
            config[key] = _resolve_path(config[key], key, folders)
    if isinstance(config.get("classes"), str):
        path = _resolve_path(config["classes"], "classes", folders)
        config["classes"] = [line for _, line in read_lines(Path(path))]
    if "classes" not in config or config["format"] == "coco":
        config["classes"] = _source(config).read_classes()
    _check_classes(config["classes"])
    return config


def _resolve_path(value: str, key: str, folders: list[str]) -> str:
    """Return the first place where a path exists, absolute."""
    places = [os.path.abspath(os.path.join(x, os.path.expanduser(value))) for x in folders]
    for place in places:
        if os.path.exists(place):
            return place
    raise ValueError(
        f"{key} is '{value}', which does not exist. Looked for: {', '.join(dict.fromkeys(places))}."
    )


def _search_folders(config_file: str | os.PathLike) -> list[str]:
    """List the folders where relative paths are looked for, in this order."""
    datasets = os.path.expanduser(os.getenv("DETECTRON2_DATASETS", "datasets"))
    return [*(_config_folders(config_file) if config_file else [""]), datasets]


def _config_folders(config_file: str | os.PathLike) -> list[str]:
    """List the folders of a config file and of the files in its chain of ``_BASE_``."""
    folder = os.path.dirname(config_file)
    bases = yaml.safe_load(Path(config_file).read_text()).get("_BASE_", [])
    folders = [folder]
    for base in [bases] if isinstance(bases, str) else bases:
        if "://" not in base:
            folders += _config_folders(os.path.join(folder, os.path.expanduser(base)))
    return folders
