"""The runs of an ablation: each config with each seed, always with the same settings."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

from ..config_files import changed_keys
from ..engine import Trainer
from ..engine.setup import load_config

ROOT = Path(__file__).resolve().parents[1]
OWN_KEYS = ("OUTPUT_DIR", "SEED")  # what the tool sets


@dataclass
class Grid:
    """What was asked of a folder of results, and so the command that makes it.

    Attributes:
        config_files: relative to the repository where they are in it; the first is compared with.
        opts: KEY VALUE pairs of all runs.
        jobs: runs at a time.
        threads: of each run.
    """

    config_files: list[str]
    seeds: list[int]
    opts: list[str]
    jobs: int
    threads: int


@dataclass(frozen=True)
class Run:
    """A config with a seed.

    Attributes:
        config_file, opts: see :class:`Grid`.
        settings: all that they change of the defaults, by full key; see :func:`read_settings`.
        max_iter: iterations of the training.
        folder: of the results.
    """

    config_file: str
    opts: list[str]
    seed: int
    settings: dict[str, object]
    max_iter: int
    folder: Path

    @property
    def name(self) -> str:
        return f"{Path(self.config_file).stem}_seed{self.seed}"

    @property
    def record(self) -> Path:
        """The JSON that is kept; alone it says that the run is finished."""
        return self.folder / "runs" / f"{self.name}.json"

    @property
    def output_dir(self) -> Path:
        return Path("output", "ablations", self.folder.resolve().name, self.name)

    def identity(self) -> dict:
        """What tells this run from any other."""
        keys = ("config_file", "opts", "seed", "settings")
        return {key: getattr(self, key) for key in keys}


def relative_to_root(path: str) -> str:
    """A path as from the repository's root, or unchanged where it leads out of it."""
    absolute = Path(os.path.abspath(path))
    return str(absolute.relative_to(ROOT)) if absolute.is_relative_to(ROOT) else path


def find_config(config_file: str) -> str:
    """The path of a config of a grid, wherever this tool was started."""
    inside = ROOT / config_file
    return str(inside) if inside.is_file() else config_file


def update_grid(args: argparse.Namespace) -> Grid:
    """The grid that ``FOLDER/grid.json`` has from before, and what the command line adds to it.

    Raises:
        ValueError: naming the option or file, its value, and the fix.
    """
    files = [relative_to_root(file) for file in args.config_files]
    before = Grid(files, args.seeds, args.opts, args.jobs, args.threads)
    if (args.folder / "grid.json").is_file():
        before = read_grid(args.folder)
    if before.opts != args.opts:
        raise ValueError(
            f"--opts is '{' '.join(args.opts)}', but the runs of {args.folder / 'grid.json'} have "
            f"'{' '.join(before.opts)}'. Give them the same, or name another folder."
        )
    files = list(dict.fromkeys([*before.config_files, *files]))
    stems = {}
    for file in files:
        if stems.setdefault(Path(file).stem, file) != file:
            raise ValueError(
                f"{stems[Path(file).stem]} and {file} have the same name, after which runs are "
                "called: rename one."
            )
    seeds = list(dict.fromkeys([*before.seeds, *args.seeds]))
    return Grid(files, seeds, args.opts, args.jobs, args.threads)


def read_grid(folder: Path) -> Grid:
    """The grid of a folder of results.

    Raises:
        ValueError: it has none, or a damaged one.
    """
    file = folder / "grid.json"
    if not file.is_file():
        raise ValueError(f"There is no {file}: name --config-files and --seeds to begin with.")
    keys = [field.name for field in fields(Grid)]
    content = read_json(file, keys)
    return Grid(**{key: content[key] for key in keys})


def plan_runs(folder: Path, grid: Grid) -> list[Run]:
    """All runs, seed by seed, so that an interrupted grid has whole seeds to compare.

    Raises:
        ValueError: a config or KEY VALUE pair cannot be used.
    """
    for key in OWN_KEYS:
        if key in grid.opts[::2]:
            raise ValueError(
                f"--opts sets {key}, which each run gets from this tool: leave it out."
            )
    configs = [(file, *read_settings(file, grid.opts)) for file in grid.config_files]
    return [
        Run(file, grid.opts, seed, settings, max_iter, folder)
        for seed in grid.seeds
        for file, settings, max_iter in configs
    ]


def read_settings(config_file: str, opts: Sequence[str]) -> tuple[dict[str, object], int]:
    """What a config and KEY VALUE pairs change of the defaults, and the iterations of a training.

    Compared from run to run they also tell of a config file that was edited in between, but not of
    a new key with its default.

    Returns:
        values by full key, as JSON has them, without what the tool sets; then the iterations.
    """
    cfg = load_config(find_config(config_file), list(opts))
    if len(cfg.DATASETS.TEST or ()) != 1:
        raise ValueError(
            f"{config_file}: DATASETS.TEST is {cfg.DATASETS.TEST}; an ablation compares runs on "
            "exactly one dataset."
        )
    settings = {key: value for key, value in changed_keys(cfg).items() if key not in OWN_KEYS}
    # One process trains, whatever SOLVER.REFERENCE_WORLD_SIZE says.
    max_iter = Trainer.auto_scale_workers(cfg, 1).SOLVER.MAX_ITER
    return settings, max_iter


def is_finished(run: Run) -> bool:
    """Whether the run's JSON is there.

    Raises:
        ValueError: results, or a checkpoint to go on from, are of a run with other settings.
    """
    if can_resume(run):
        check_same(run, run.output_dir / "run.json")
        check_folder(run, run.output_dir / "run.json")
    if run.record.is_file():
        check_same(run, run.record)
    return run.record.is_file()


def can_resume(run: Run) -> bool:
    return (run.output_dir / "last_checkpoint").is_file()


def check_folder(run: Run, file: Path) -> None:
    """Raise a ValueError where a checkpoint is of a run for another folder of the same name."""
    folder = read_json(file, ["folder"])["folder"]
    if folder != str(run.folder.resolve()):
        raise ValueError(
            f"{run.output_dir} is of a run for {folder}, whose results would be taken for new "
            f"ones. Give {run.folder} another last name, or remove {run.output_dir} to train anew."
        )


def check_same(run: Run, file: Path) -> None:
    """Raise a ValueError where the run that a file tells of is not this one."""
    found, asked = read_json(file, ["settings"])["settings"], run.settings
    keys = [key for key in sorted({*found, *asked}) if found.get(key) != asked.get(key)]
    if not keys:
        return
    differences = "; ".join(
        f"{key} is {found.get(key, 'the default')} there and {asked.get(key, 'the default')} in "
        f"{run.config_file} with --opts '{' '.join(run.opts)}'"
        for key in keys
    )
    raise ValueError(
        f"{file} is of a run with other settings: {differences}. Name another folder of results, "
        "or remove the file and what belongs to it to train anew."
    )


def read_json(file: Path, keys: Iterable[str]) -> dict:
    """The contents of a file that this tool wrote.

    Raises:
        ValueError: it is missing or damaged, or lacks one of the keys.
    """
    fix = "restore it, or remove it and what belongs to it."
    try:
        content = json.loads(file.read_text())
    except (OSError, ValueError) as error:
        raise ValueError(f"{file} cannot be read ({error}): {fix}") from error
    missing = [key for key in keys if not isinstance(content, dict) or key not in content]
    if missing:
        raise ValueError(f"{file} lacks {', '.join(missing)}: {fix}")
    return content


def write_json(file: Path, content: dict) -> None:
    """Write a file at once, so that what is there is whole."""
    file.parent.mkdir(parents=True, exist_ok=True)
    new = file.with_suffix(".new")
    new.write_text(json.dumps(content, indent=1, allow_nan=False) + "\n")
    new.replace(file)
