"""Runs the table of rules: over a dataset, to repair it, and before a training."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from detectron2.data import MetadataCatalog

from .coco_dataset import CocoDataset, load_dataset
from .dataset_index import DatasetIndex
from .image_files import ImageFile, examine_files
from .rules import ERROR, EVALUATION, RULES, SEVERITIES, TRAINING, Rule, violations

MAX_EXAMPLES = 3  # shown of each rule


@dataclass
class Finding:
    """How often a rule is broken, and where first."""

    rule: Rule
    count: int = 0
    examples: list[str] = field(default_factory=list)

    def add(self, example: str) -> None:
        self.count += 1
        if len(self.examples) < MAX_EXAMPLES:
            self.examples.append(example)


@dataclass(frozen=True)
class Inspection:
    """A dataset by name, the status of its image files, and what is wrong with it."""

    name: str
    dataset: CocoDataset
    files: dict[str, ImageFile]
    findings: dict[str, Finding]

    @property
    def num_errors(self) -> int:
        return sum(x.count for x in self.findings.values() if x.rule.severity == ERROR)


def inspect_dataset(name: str, *, opened: bool) -> Inspection:
    """Read a registered dataset and find what is wrong with it; ``opened``: with its images."""
    dataset = load_dataset(name)
    files = examine_files(dataset, opened=opened)
    return Inspection(name, dataset, files, inspect(dataset, files))


def inspect(dataset: CocoDataset, files: dict[str, ImageFile]) -> dict[str, Finding]:
    """Find what is wrong with a dataset.

    Args:
        files: status of the image files, by ``file_name``.

    Returns:
        What was found by name of the rule, errors first. Of the rules that drop an item, it counts
        for the first alone.
    """
    index, found = DatasetIndex(dataset, files), {}
    for part in RULES:
        for item in getattr(dataset, part):
            for rule, fault in violations(part, item, index):
                finding = found.setdefault(rule.name, Finding(rule))
                finding.add(index.label(part, item) + fault)
    rules = sorted(
        (rule for rules in RULES.values() for rule in rules),
        key=lambda rule: SEVERITIES.index(rule.severity),
    )
    return {rule.name: found[rule.name] for rule in rules if rule.name in found}


def usable_annotations(
    dataset: CocoDataset, files: dict[str, ImageFile]
) -> tuple[list[dict], dict[Any, tuple[int, int]]]:
    """List what can be trained on.

    Returns:
        The annotations that are no crowds, that no error drops, and whose images have a known
        size; and the known sizes by image id.
    """
    index = DatasetIndex(dataset, files)
    sizes = {image_id: size for image_id, size in index.sizes.items() if size is not None}
    annotations = [
        annotation
        for annotation in dataset.annotations
        if annotation["image_id"] in sizes
        and not annotation.get("iscrowd")
        and not any(rule.unusable for rule, _ in violations("annotations", annotation, index))
    ]
    return annotations, sizes


def repair(dataset: CocoDataset, files: dict[str, ImageFile]) -> tuple[CocoDataset, Counter[str]]:
    """Drop what cannot be used, correct what can; nothing in the copy is an error.

    Args:
        dataset: stays as it is.
        files: status of the image files, which have been opened, by ``file_name``.

    Returns:
        The cleaned copy, and how often each change was made.

    Raises:
        ValueError: categories share an id or a name, or no image is left.
    """
    changes: Counter[str] = Counter()
    index = DatasetIndex(dataset, files)
    _fix("categories", dataset.categories, index, changes)
    images = _fix("images", dataset.images, index, changes)
    if not images:
        raise ValueError(
            f"Of {len(dataset.images)} images none would be left. Is the image folder right?"
        )
    merged = index.merged_images
    dropped = index.sizes.keys() - merged.keys() - {image["id"] for image in images}
    annotations = [
        {**x, "image_id": merged.get(x["image_id"], x["image_id"])}
        for x in dataset.annotations
        if x["image_id"] not in dropped
    ]
    if lost := len(dataset.annotations) - len(annotations):
        changes["dropped annotations of dropped images"] = lost
    cleaned = replace(dataset, images=images, annotations=annotations)
    annotations = _fix("annotations", annotations, DatasetIndex(cleaned, files), changes)
    return replace(cleaned, annotations=annotations), changes


def _fix(part: str, items: list[dict], index: DatasetIndex, changes: Counter[str]) -> list[dict]:
    """Return fixed copies of the items to keep, and count the changes."""
    kept = []
    for item in map(dict, items):
        dropped = False
        # A fix may mend what a later rule looks at.
        for rule in RULES[part]:
            if rule.fix and not dropped and rule.find(item, index) is not None:
                changes[f"{rule.fix(item, index)} {rule.description}"] += 1
                dropped = rule.drops
        if not dropped:
            kept.append(item)
    return kept


def check_annotations(names: Sequence[str], key: str) -> None:
    """Check the annotations of datasets before a training, without opening their images.

    Args:
        names: of registered datasets. Those that come from Python code are left out.
        key: of the config, DATASETS.TRAIN or DATASETS.TEST, that names them.

    Raises:
        ValueError: annotations cannot be read, or would end a training or its evaluation later.
    """
    fatal = (TRAINING, EVALUATION) if key == "DATASETS.TEST" else (TRAINING,)
    for name in names:
        metadata = MetadataCatalog.get(name)
        if metadata.get("evaluator_type") != "coco" or "://" in metadata.get("json_file", ""):
            continue
        try:
            findings = inspect_dataset(name, opened=False).findings
        except ValueError as error:
            raise ValueError(f"{key} names the dataset '{name}': {error}") from error
        for finding in findings.values():
            if finding.rule.fatal in fatal:
                raise ValueError(
                    f"{key} names the dataset '{name}', which has {finding.rule.description} "
                    f"({finding.count}), as {finding.examples[0]}. asff check-data lists what is "
                    "wrong, and can write a cleaned copy."
                )


def summarize(dataset_dicts: Sequence[dict]) -> list[tuple[int, str]]:
    """Count what there is to train on, and what of it will not be used; no image is opened.

    Returns:
        Lines for the log, each with its level.

    Raises:
        ValueError: not one of the image files exists.
    """
    dataset = CocoDataset.from_dataset_dicts(dataset_dicts)
    files = examine_files(dataset, opened=False)
    findings = inspect(dataset, files)
    counts = Counter({name: finding.count for name, finding in findings.items()})
    line = (
        f"Training data: {len(dataset.images)} images with {len(dataset.annotations)} objects; "
        f"{counts['empty_image']} images without objects, {counts['crowd_box']} crowd boxes (not "
        "used)."
    )
    lines = [(logging.INFO, line)]
    for rule in RULES["annotations"]:
        if rule.unusable and counts[rule.name]:
            line = f"Not used: {rule.description} ({counts[rule.name]})."
            lines.append((logging.WARNING, line))
    missing = [name for name, file in files.items() if file.missing]
    names = ", ".join(missing[:MAX_EXAMPLES]) + (", ..." if len(missing) > MAX_EXAMPLES else "")
    if missing and len(missing) == len(files):
        raise ValueError(
            f"None of the {len(missing)} image files exists, for example in "
            f"'{os.path.dirname(missing[0])}': {names}. Correct the image folder of the dataset, "
            "or set the environment variable DETECTRON2_DATASETS."
        )
    if missing:
        advice = "asff check-data --fix writes annotations without them"
        line = f"{len(missing)} image files do not exist ({advice}): {names}"
        lines.append((logging.WARNING, line))
    return lines
