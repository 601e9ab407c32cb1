"""What a run leaves in its folder: config, metrics, log and detections."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

RESULTS = "coco_instances_results.json"  # COCOEvaluator writes it at every evaluation

# Lines of the log, in the order in which an evaluation writes them.
BATCHES = re.compile(r"Start inference on (\d+) batches")
TOTAL = re.compile(r"Total inference time: .*\(([\d.e-]+) s / iter per device, on (\d+) devices\)")
COMPUTE = re.compile(r"Total inference pure compute time: .*\(([\d.e-]+) s / iter")
SAVING = re.compile(r"Saving results to (.*)")


class RunFolder:
    """The OUTPUT_DIR of a run of train_net.py.

    Raises:
        ValueError: it is none, or nothing was evaluated.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        if not self.path.is_dir():
            raise ValueError(f"{path}: there is no such folder.")
        if not self.config_file.is_file():
            raise ValueError(
                f"{path} is not the folder of a run: it has no config.yaml, which train_net.py "
                "writes to OUTPUT_DIR."
            )
        found = sorted(self.path.glob(f"inference/*/{RESULTS}"))
        self.evaluated = [file.parent.name for file in found]
        if not found:
            raise ValueError(
                f"{path} has no evaluation (inference/*/{RESULTS}): run train_net.py --config-file "
                f"{self.config_file} --eval-only MODEL.WEIGHTS CHECKPOINT OUTPUT_DIR {path} first."
            )

    @property
    def config_file(self) -> Path:
        return self.path / "config.yaml"

    @property
    def name(self) -> str:
        return self.path.resolve().name

    def choose_dataset(self, tested: Sequence[str], wanted: str | None = None) -> str:
        """The dataset to report on.

        Args:
            tested: DATASETS.TEST, of which the first that was evaluated is taken.
            wanted: taken instead.

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
        """Detections in COCO's result format.

        Raises:
            ValueError: the file is not in this format.
        """
        path = self.results_file(dataset)
        keys = {"image_id", "category_id", "bbox", "score"}
        try:
            results = json.loads(path.read_bytes())
        except ValueError as error:
            raise ValueError(f"{path} is not JSON: {error}. Evaluate anew.") from error
        if not isinstance(results, list) or not all(
            isinstance(result, dict) and keys <= result.keys() for result in results
        ):
            raise ValueError(f"{path} is no list of detections with {', '.join(sorted(keys))}.")
        return results

    def evaluation_time(self, dataset: str) -> datetime:
        """When the detections were written; local time."""
        return datetime.fromtimestamp(self.results_file(dataset).stat().st_mtime)

    def read_metrics(self) -> list[dict]:
        """Read metrics.json; see :func:`read_metrics`."""
        return read_metrics(self.path / "metrics.json")

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
    """The environment that Detectron2 logged last: names and versions, without paths."""
    _, found, block = log.rpartition("Environment info:\n")
    rows: list[tuple[str, str]] = []
    for line in block.splitlines()[1:] if found else ():
        if line.startswith("---"):
            break
        name, _, value = line.partition("  ")
        rows.append((name, value.strip().partition(" @")[0]))
    return rows


def inference_speed(log: str, dataset: str, num_images: int) -> dict[str, float] | None:
    """What the last evaluation of a dataset took, by the log.

    Returns:
        ``compute`` and ``total`` seconds for an image on one device, without and with reading it,
        and the number of ``devices``; None where the log does not tell.
    """
    speed, batches, total, devices, compute = None, 0, 0.0, 0, 0.0
    for line in log.splitlines():
        if found := BATCHES.search(line):
            batches = int(found[1])  # of each device
        elif found := TOTAL.search(line):
            total, devices = float(found[1]), int(found[2])
        elif found := COMPUTE.search(line):
            compute = float(found[1])
        elif (found := SAVING.search(line)) and Path(found[1].strip()).parent.name == dataset:
            share = batches * devices / num_images  # batches of an image
            speed = {"compute": compute * share, "total": total * share, "devices": devices}
    return speed if speed and speed["total"] else None
