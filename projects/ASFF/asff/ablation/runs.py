"""The runs of an ablation: each config with each seed, under the same settings."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from ..config_files import changed_keys, load_config
from ..engine import Trainer

RUN_KEYS = ("OUTPUT_DIR", "SEED")  # set for each run


@dataclass
class Grid:
    """Configs, seeds and options that a folder of results compares.

    Attributes:
        config_files: the first is the baseline.
        opts: KEY VALUE pairs of all runs.
        jobs: number of simultaneous runs.
        threads: number of threads of each run.
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
        settings: all values that differ from the defaults, by full key; see :func:`read_settings`.
        max_iter: iterations of the training.
        folder: folder of the results.
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
        """Return the JSON file of the record, which exists if the run is finished."""
        return self.folder / "runs" / f"{self.name}.json"

    @property
    def output_dir(self) -> Path:
        return Path("output", "ablations", self.folder.resolve().name, self.name)

    @property
    def can_resume(self) -> bool:
        return (self.output_dir / "last_checkpoint").is_file()

    def identity(self) -> dict:
        """Return what distinguishes this run from any other."""
        keys = ("config_file", "opts", "seed", "settings")
        return {key: getattr(self, key) for key in keys}


def extend_grid(folder: Path, asked: Grid) -> Grid:
    """Add what a command asks for to the grid of a folder, if it has one.

    Raises:
        ValueError: naming the option or file, its value, and the fix.
    """
    before = read_grid(folder) if (folder / "grid.json").is_file() else asked
    if before.opts != asked.opts:
        raise ValueError(
            f"KEY VALUE pairs are '{' '.join(asked.opts)}', but the runs of "
            f"{folder / 'grid.json'} have '{' '.join(before.opts)}'. Use the same, or name another "
            "folder."
        )
    files = list(dict.fromkeys([*before.config_files, *asked.config_files]))
    stems: dict[str, str] = {}
    for file in files:
        if stems.setdefault(Path(file).stem, file) != file:
            raise ValueError(
                f"{stems[Path(file).stem]} and {file} have the same name, which is that of their "
                "runs: rename one."
            )
    seeds = list(dict.fromkeys([*before.seeds, *asked.seeds]))
    return Grid(files, seeds, asked.opts, asked.jobs, asked.threads)


def read_grid(folder: Path) -> Grid:
    """Read the grid of a folder of results.

    Raises:
        ValueError: it has none, or a damaged one.
    """
    file = folder / "grid.json"
    if not file.is_file():
        raise ValueError(f"There is no {file}: name --config-files and --seeds to begin with.")
    keys = [field.name for field in fields(Grid)]
    content = read_json(file, keys)
    return Grid(**{key: content[key] for key in keys})


def write_grid(folder: Path, grid: Grid) -> None:
    """Write the grid of a folder of results."""
    write_json(folder / "grid.json", asdict(grid))


def plan_runs(folder: Path, grid: Grid) -> list[Run]:
    """Return all runs, seed by seed, so that an interrupted grid has complete seeds to compare.

    Raises:
        ValueError: a config or KEY VALUE pair cannot be used.
    """
    for key in RUN_KEYS:
        if key in grid.opts[::2]:
            raise ValueError(f"KEY VALUE pairs set {key}, which each run sets: leave it out.")
    configs = [(file, *read_settings(file, grid.opts)) for file in grid.config_files]
    return [
        Run(file, grid.opts, seed, settings, max_iter, folder)
        for seed in grid.seeds
        for file, settings, max_iter in configs
    ]


def read_settings(config_file: str, opts: Sequence[str]) -> tuple[dict[str, object], int]:
    """Read the values that differ from the defaults, and the iterations of a training.

    Comparing them also finds a config file that was edited in between.

    Returns:
        Values by full key, as JSON has them, without those that each run sets; then the iterations.
    """
    cfg = load_config(config_file, list(opts))
    if len(cfg.DATASETS.TEST or ()) != 1:
        raise ValueError(
            f"{config_file}: DATASETS.TEST is {cfg.DATASETS.TEST}; an ablation compares runs on "
            "exactly one dataset."
        )
    settings = {key: value for key, value in changed_keys(cfg).items() if key not in RUN_KEYS}
    # Each run is one process: SOLVER.REFERENCE_WORLD_SIZE may change its number of iterations.
    return settings, Trainer.auto_scale_workers(cfg, 1).SOLVER.MAX_ITER


def is_finished(run: Run) -> bool:
    """Check whether the record of a run exists.

    Raises:
        ValueError: the record, or a checkpoint to resume from, belongs to other settings.
    """
    started = run.output_dir / "run.json"
    if run.can_resume:
        _check_settings(run, started)
        folder = read_json(started, ["folder"])["folder"]
        if folder != str(run.folder.resolve()):
            raise ValueError(
                f"{run.output_dir} is of a run for {folder}, whose results would be taken for new "
                f"ones. Give {run.folder} another last name, or remove {run.output_dir} to train "
                "anew."
            )
    if run.record.is_file():
        _check_settings(run, run.record)
    return run.record.is_file()


def _check_settings(run: Run, file: Path) -> None:
    """Raise a ValueError if a file is about a run with other settings."""
    found, asked = read_json(file, ["settings"])["settings"], run.settings
    keys = [key for key in sorted({*found, *asked}) if found.get(key) != asked.get(key)]
    if not keys:
        return
    differences = "; ".join(
        f"{key} is {found.get(key, 'the default')} there and {asked.get(key, 'the default')} in "
        f"{run.config_file} with '{' '.join(run.opts)}'"
        for key in keys
    )
    raise ValueError(
        f"{file} is of a run with other settings: {differences}. Name another folder of results, "
        "or remove the file and what belongs to it to train anew."
    )


def read_json(file: Path, keys: Iterable[str]) -> dict:
    """Read a file that an ablation wrote.

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
    """Write a file atomically, so that it is never half written."""
    file.parent.mkdir(parents=True, exist_ok=True)
    new = file.with_suffix(".new")
    new.write_text(json.dumps(content, indent=1, allow_nan=False) + "\n")
    new.replace(file)
