"""Read the folder of a run: config, metrics, log and detections."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from detectron2.config import CfgNode

from ..config_files import load_config
from ..data import check_datasets, register_custom_datasets, resolve_custom_datasets
from ..evaluation import RESULTS

# Lines of the log, in the order in which an evaluation writes them.
_BATCHES = re.compile(r"Start inference on (\d+) batches")
_TOTAL = re.compile(r"Total inference time: .*\(([\d.e-]+) s / iter per device, on (\d+) devices\)")
_COMPUTE = re.compile(r"Total inference pure compute time: .*\(([\d.e-]+) s / iter")
_SAVING = re.compile(r"Saving results to (.*)")


class RunFolder:
    """The OUTPUT_DIR of a training or evaluation.

    Raises:
        ValueError: the folder is not that of a run, or nothing was evaluated.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self.config_file = self.path / "config.yaml"
        if not self.path.is_dir():
            raise ValueError(f"{path}: there is no such folder.")
        if not self.config_file.is_file():
            raise ValueError(
                f"{path} is not the folder of a run: it has no config.yaml, which a training "
                "writes to OUTPUT_DIR."
            )
        found = sorted(self.path.glob(f"inference/*/{RESULTS}"))
        self.evaluated = [file.parent.name for file in found]
        if not found:
            raise ValueError(
                f"{path} has no evaluation (inference/*/{RESULTS}): run asff train --config-file "
                f"{self.config_file} --eval-only MODEL.WEIGHTS CHECKPOINT OUTPUT_DIR {path} first."
            )

    def choose_dataset(self, tested: Sequence[str], wanted: str | None = None) -> str:
        """Return the wanted dataset to report on, by default the first evaluated one of ``tested``.

        Raises:
            ValueError: ``wanted`` was not evaluated.
        """
        if wanted is not None and wanted not in self.evaluated:
            raise ValueError(
                f"--dataset {wanted} was not evaluated in {self.path}, but "
                f"{', '.join(self.evaluated)}."
            )
        return wanted or next((x for x in tested if x in self.evaluated), self.evaluated[0])

    def results_file(self, dataset: str) -> Path:
        return self.path / "inference" / dataset / RESULTS

    def read_results(self, dataset: str) -> list[dict]:
        """Read the detections, in COCO's result format.

        Raises:
            ValueError: the file is not in this format.
        """
        path = self.results_file(dataset)
        keys = {"image_id", "category_id", "bbox", "score"}
        try:
            results = json.loads(path.read_bytes())
        except ValueError as error:
            raise ValueError(f"{path} is not JSON: {error}. Evaluate again.") from error
        if not isinstance(results, list) or not all(
            isinstance(result, dict) and keys <= result.keys() for result in results
        ):
            raise ValueError(f"{path} is not a list of detections with {', '.join(sorted(keys))}.")
        return results

    def evaluation_time(self, dataset: str) -> datetime:
        """Return the local time at which the detections were written."""
        return datetime.fromtimestamp(self.results_file(dataset).stat().st_mtime)

    def read_config(self, wanted: str | None = None) -> tuple[CfgNode, str]:
        """Read the config, and register the dataset to report on; see :meth:`choose_dataset`.

        Raises:
            ValueError: naming the key or file, its value, and the fix.
        """
        cfg = load_config(str(self.config_file))
        cfg.OUTPUT_DIR = str(self.path)  # it may have been moved
        dataset = self.choose_dataset(cfg.DATASETS.TEST, wanted)
        resolve_custom_datasets(cfg, self.config_file, [dataset])
        register_custom_datasets(cfg)
        check_datasets([dataset], "DATASETS.TEST")
        return cfg, dataset

    def last_checkpoint(self) -> Path:
        """Return the checkpoint that was saved last, or raise a ValueError."""
        file = self.path / "last_checkpoint"
        if not file.is_file():
            raise ValueError(f"There is no {file}.")
        return self.path / file.read_text().strip()

    def read_log(self) -> str:
        path = self.path / "log.txt"
        return path.read_text(errors="replace") if path.is_file() else ""


def read_metrics(file: Path) -> list[dict]:
    """Read the entries of a metrics.json in the order of their iterations; empty without the file.

    An entry replaces all earlier ones of its iteration and later: of a training that was resumed
    before them, or started anew in the same folder.
    """
    entries: list[dict] = []
    for line in file.read_text(errors="replace").splitlines() if file.is_file() else ():
        try:
            entry = json.loads(line)
            iteration = entry["iteration"]
        except (ValueError, TypeError, KeyError):
            continue  # a training that was killed while writing, or a damaged file
        while entries and entries[-1]["iteration"] >= iteration:
            entries.pop()
        entries.append(entry)
    return entries


def environment(log: str) -> list[tuple[str, str]]:
    """Return the environment that Detectron2 logged last: names and versions, without paths."""
    _, found, block = log.rpartition("Environment info:\n")
    rows: list[tuple[str, str]] = []
    for line in block.splitlines()[1:] if found else ():
        if line.startswith("---"):
            break
        name, _, value = line.partition("  ")
        rows.append((name, value.strip().partition(" @")[0]))
    return rows


def inference_speed(log: str, dataset: str, num_images: int) -> dict[str, float] | None:
    """Return the time that the last evaluation of a dataset took, by the log.

    Returns:
        ``compute`` and ``total`` seconds per image on one device, without and with reading it, and
        the number of ``devices``; None if the log does not contain them.
    """
    speed, batches, total, devices, compute = None, 0, 0.0, 0, 0.0
    for line in log.splitlines():
        if found := _BATCHES.search(line):
            batches = int(found[1])  # of each device
        elif found := _TOTAL.search(line):
            total, devices = float(found[1]), int(found[2])
        elif found := _COMPUTE.search(line):
            compute = float(found[1])
        elif (found := _SAVING.search(line)) and Path(found[1].strip()).parent.name == dataset:
            ratio = batches * devices / num_images  # batches per image
            speed = {"compute": compute * ratio, "total": total * ratio, "devices": devices}
    return speed if speed and speed["total"] else None
