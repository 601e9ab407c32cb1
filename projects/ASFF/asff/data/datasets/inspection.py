"""Inspection, repair and summary of datasets by the table of rules."""

from __future__ import annotations

import itertools
import logging
import os
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from detectron2.data import MetadataCatalog
from detectron2.structures import BoxMode

from .classes import shorten
from .coco_dataset import CocoDataset, load_dataset
from .dataset_index import DatasetIndex
from .image_files import ImageFile, examine_files
from .rules import ERROR, EVALUATION, RULES, SEVERITIES, TRAINING, UNUSABLE_BOXES, Rule

MAX_EXAMPLES = 3  # shown of each rule


class Finding(NamedTuple):
    """How often a rule is broken, and the first few examples."""

    rule: Rule
    count: int
    examples: list[str]


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
        What was found by name of the rule, errors first.
    """
    index, findings = DatasetIndex(dataset, files), []
    for part, groups in RULES.items():
        for rules in groups:
            items = getattr(dataset, part)
            for rule in rules:
                kept, broken = _split(rule, items, index)
                if broken:
                    examples = [index.label(part, x) + fault for x, fault in broken[:MAX_EXAMPLES]]
                    findings.append(Finding(rule, len(broken), examples))
                if rule.drops:
                    items = kept
    findings.sort(key=lambda finding: SEVERITIES.index(finding.rule.severity))
    return {finding.rule.name: finding for finding in findings}


def usable_annotations(
    dataset: CocoDataset, files: dict[str, ImageFile]
) -> tuple[list[dict], dict[Any, tuple[int, int]]]:
    """List what can be trained on.

    Returns:
        The annotations that are no crowds, that no error drops, and whose images have a known
        size; and the known sizes by image id.
    """
    index = DatasetIndex(dataset, files)
    annotations = dataset.annotations
    for rule in itertools.chain(*RULES["annotations"]):
        if rule.severity == ERROR and rule.drops:
            annotations, _ = _split(rule, annotations, index)
    sizes = {image_id: size for image_id, size in index.sizes.items() if size is not None}
    return [x for x in annotations if x["image_id"] in sizes and not x.get("iscrowd")], sizes


def _split(
    rule: Rule, items: list[dict], index: DatasetIndex
) -> tuple[list[dict], list[tuple[dict, str]]]:
    """Return the items that keep a rule, and those that break it with what is at fault."""
    faults = [rule.find(item, index) for item in items]
    broken = [(item, fault) for item, fault in zip(items, faults) if fault is not None]
    kept = [item for item, fault in zip(items, faults) if fault is None] if broken else items
    return kept, broken


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
    paths = defaultdict(set)
    for image in dataset.images:
        paths[image["id"]].add(files[image["file_name"]].path)
    # To which of several files with one id an annotation belongs cannot be known: all are dropped.
    images = [image for image in dataset.images if len(paths[image["id"]]) == 1]
    if ambiguous := len(dataset.images) - len(images):
        changes["dropped images with the id of another"] = ambiguous
    index = DatasetIndex(replace(dataset, images=images), files)
    _fix("categories", dataset.categories, index, changes)
    new_ids = {image["id"]: index.first_of_file(image)["id"] for image in images}
    images = _fix("images", images, index, changes)
    if not images:
        raise ValueError(
            f"Of {len(dataset.images)} images none would be left. Is the image folder right?"
        )
    dropped = paths.keys() - {image["id"] for image in images}
    annotations = [
        {**x, "image_id": new_ids.get(x["image_id"], x["image_id"])} for x in dataset.annotations
    ]
    annotations = [x for x in annotations if x["image_id"] not in dropped]
    if lost := len(dataset.annotations) - len(annotations):
        changes["dropped annotations of dropped images"] = lost
    cleaned = replace(dataset, images=images, annotations=annotations)
    annotations = _fix("annotations", annotations, DatasetIndex(cleaned, files), changes)
    return replace(cleaned, annotations=annotations), changes


def _fix(part: str, items: list[dict], index: DatasetIndex, changes: Counter[str]) -> list[dict]:
    """Return the items to keep, fixed copies of those that break a rule, and count the changes."""
    for rule in itertools.chain(*RULES[part]):
        if rule.fix is None:
            continue
        kept = []
        for item in items:
            if rule.find(item, index) is not None:
                item = dict(item)
                changes[f"{rule.fix(item, index)} {rule.description}"] += 1
                if rule.drops:
                    continue
            kept.append(item)
        items = kept
    return items


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
    images = [{**x, "id": i} for i, x in enumerate(dataset_dicts)]
    dataset = CocoDataset(images, [], [])
    files = examine_files(dataset, opened=False)
    index = DatasetIndex(dataset, files)
    counts: Counter[str] = Counter()
    for image in images:
        objects = image.get("annotations", ())
        counts.update(objects=len(objects), empty=not objects)
        for x in objects:
            counts["crowds"] += bool(x.get("iscrowd"))
            annotation = {"image_id": image["id"], "bbox": _xywh_box(x)}
            for rule in UNUSABLE_BOXES:
                if rule.find(annotation, index) is not None:
                    counts[rule.name] += 1
                    break
    line = (
        f"Training data: {len(images)} images with {counts['objects']} objects; {counts['empty']} "
        f"images without objects, {counts['crowds']} crowd boxes (not used)."
    )
    lines = [(logging.INFO, line)]
    for rule in UNUSABLE_BOXES:
        if count := counts[rule.name]:
            lines.append((logging.WARNING, f"Not used: {rule.description} ({count})."))
    if line := _describe_missing(files):
        lines.append((logging.WARNING, line))
    return lines


def _describe_missing(files: dict[str, ImageFile]) -> str:
    missing = [name for name, file in files.items() if file.missing]
    names = shorten(missing, MAX_EXAMPLES)
    if not missing:
        return ""
    if len(missing) == len(files):
        raise ValueError(
            f"None of the {len(missing)} image files exists, for example in "
            f"'{os.path.dirname(missing[0])}': {names}. Correct the image folder of the dataset, "
            "or set the environment variable DETECTRON2_DATASETS."
        )
    advice = "asff check-data --fix writes annotations without them"
    return f"{len(missing)} image files do not exist ({advice}): {names}"


def _xywh_box(annotation: dict) -> list[float]:
    box, mode = annotation["bbox"], annotation["bbox_mode"]
    if mode == BoxMode.XYXY_ABS:  # Detectron2's conversion takes long for a single box
        x0, y0, x1, y1 = box
        return [x0, y0, x1 - x0, y1 - y0]
    return BoxMode.convert(box, mode, BoxMode.XYWH_ABS)
