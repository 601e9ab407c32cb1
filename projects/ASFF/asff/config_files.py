"""Reading of config files: the user's and those that come with the package."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml
from detectron2.config import CfgNode, get_cfg

from .config import add_asff_config

CONFIGS = Path(__file__).parent / "configs"


def get_config_file(name: str) -> str:
    """Return the path of a config that comes with the package.

    Args:
        name: its path below ``configs``, as ``coco/yolov3_d53_asff.yaml``.

    Raises:
        ValueError: there is none of this name; the message lists similar ones.
    """
    path = CONFIGS / name
    if not path.is_file():
        names = [str(file.relative_to(CONFIGS)) for file in sorted(CONFIGS.glob("**/*.yaml"))]
        similar = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
        hint = f" Similar ones: {', '.join(similar)}." if similar else ""
        raise ValueError(f"No config '{name}' comes with the package.{hint}")
    return str(path)


def find_config_file(name: str) -> str:
    """Return the path of ``--config-file``: a file of the user, or else one of the package.

    Raises:
        ValueError: there is neither.
    """
    if not name or Path(name).is_file():
        return name
    try:
        return get_config_file(name)
    except ValueError as error:
        raise ValueError(f"--config-file {name}: there is no such file. {error}") from None


def default_config() -> CfgNode:
    """Return Detectron2's defaults with the keys of this project."""
    cfg = get_cfg()
    add_asff_config(cfg)
    return cfg


def load_config(config_file: str, opts: Sequence = ()) -> CfgNode:
    """Read a YAML file and KEY VALUE pairs over the defaults.

    Where neither sets OUTPUT_DIR, it follows from the path of the file: ``output/coco/NAME`` for
    ``configs/coco/NAME.yaml``, ``output/NAME`` for a file that is not below a folder ``configs``.

    Args:
        config_file: as in :func:`find_config_file`; empty for the defaults alone.
        opts: KEY, VALUE, KEY, VALUE, ...

    Raises:
        ValueError: the file cannot be read, a key is not known, or a value has a wrong type.
    """
    cfg = default_config()
    if config_file:
        path = find_config_file(config_file)
        try:
            cfg.merge_from_file(path, allow_unsafe=False)
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise ValueError(f"--config-file {config_file} is not valid YAML: {error}") from error
        except (TypeError, AttributeError) as error:
            raise ValueError(f"--config-file {config_file} holds no KEY: VALUE pairs.") from error
        except (KeyError, ValueError, AssertionError, OSError) as error:
            raise ValueError(f"--config-file {config_file}: {_explain(error, cfg)}") from error
    merge_options(cfg, opts)
    if config_file and cfg.OUTPUT_DIR == default_config().OUTPUT_DIR:
        cfg.OUTPUT_DIR = _default_output_dir(path)
    return cfg


def _default_output_dir(config_file: str) -> str:
    path = Path(config_file).absolute().with_suffix("")
    folders = path.parts[:-1]
    if "configs" not in folders:
        return f"output/{path.name}"
    depth = folders[::-1].index("configs") + 1
    return "/".join(["output", *path.parts[-depth:]])


def parse_config(content: str, place: str) -> CfgNode:
    """Read a whole config, as a checkpoint holds it.

    Args:
        content: YAML.
        place: where it was found, for the message.

    Raises:
        ValueError: a key is not known, or a value has a wrong type.
    """
    cfg = default_config()
    try:
        cfg.merge_from_other_cfg(CfgNode.load_cfg(content))
    except (KeyError, ValueError, AssertionError) as error:
        raise ValueError(f"{place}: {_explain(error, cfg)}") from error
    return cfg


def merge_options(cfg: CfgNode, opts: Sequence) -> None:
    """Set the KEY VALUE pairs of a command line.

    Raises:
        ValueError: a key is not known, or a value has a wrong type.
    """
    try:
        cfg.merge_from_list(list(opts))
    except (KeyError, ValueError, AssertionError) as error:
        raise ValueError(f"Command line: {_explain(error, cfg)}") from error


def _explain(error: Exception, cfg: CfgNode) -> str:
    """Return yacs' message, shorter for a wrong type, with a similar key for an unknown one."""
    message = str(error.args[0] if isinstance(error, KeyError) else error)
    if unknown := re.search(r"Non-existent (?:config )?key: (\S+)", message):
        similar = difflib.get_close_matches(unknown[1], list(dict(flatten(cfg))), n=1, cutoff=0.5)
        hint = f" Did you mean {similar[0]}?" if similar else ""
        return f"there is no config key '{unknown[1]}'.{hint}"
    mismatch = re.search(r"values \((.*) vs\. (.*)\) for config key: (\S+)", message, re.DOTALL)
    if mismatch:
        old, new, key = mismatch.groups()
        like = "hold keys of its own" if "\n" in old else f"be of the type of {old}"
        return f"{key} is {new}, but must {like}."
    return message


def flatten(cfg: CfgNode, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield full names and values of all keys; tuples become lists, which YAML may not tell apart.

    Keys of nodes come before those below them, with the value None.
    """
    for key, value in cfg.items():
        if isinstance(value, CfgNode):
            yield prefix + key, None
            yield from flatten(value, f"{prefix}{key}.")
        else:
            yield prefix + key, _as_lists(value)


def changed_keys(cfg: CfgNode) -> dict[str, Any]:
    """Return the values that are not the defaults, by full key."""
    before = dict(flatten(default_config()))
    return {key: value for key, value in flatten(cfg) if before.get(key) != value}


def _as_lists(value: Any) -> Any:
    return [_as_lists(x) for x in value] if isinstance(value, (list, tuple)) else value
