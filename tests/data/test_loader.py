"""The training loader: nothing is left out without being counted, and too much of it is an end."""

from __future__ import annotations

import json
import logging
import re
from collections import Counter
from collections.abc import Iterator

import cv2
import numpy as np
import pytest
import torch

from asff.data.batch_plan import BatchPlan, BatchPlanSampler, MixupSchedule, SizeSchedule
from asff.data.image_io import UnreadableImage
from asff.data.loader import TrainingLoader
from asff.data.training_dataset import TrainingDataset
from tests.helpers import make_instances
from tests.training import NUM_TRAIN, run_here, truncated

BATCH = 4


class Mapper:
    """In place of one that reads: refuses some images; of the others two boxes, and one dropped."""

    def __init__(self, *broken: int):
        self.broken = broken

    def __call__(self, record: dict, other: dict | None, *, weight: float, size: int) -> dict:
        for number in (x["image_id"] for x in (record, other) if x):
            if number in self.broken:
                raise UnreadableImage(f"{number}.jpg: broken")
        instances = make_instances([[0, 0, 9, 9], [1, 1, 5, 5]], [0, 1])
        image = torch.zeros(3, size, size, dtype=torch.uint8)
        return {**record, "image": image, "instances": instances, "dropped_boxes": 1}


def count_threads(record: dict, other: dict | None, *, weight: float, size: int) -> dict:
    """In place of a mapper."""
    return {"image": None, "threads": cv2.getNumThreads()}


def build(
    *broken: int, images: int, max_unreadable: float = 0.01, workers: int = 0, mixup: float = 0.0
) -> TrainingLoader:
    stream = BatchPlan(
        np.ones(images),
        batch_size=BATCH,
        seed=3,
        sizes=SizeSchedule([32], 10, 32, 32, 10**9),
        mixup=MixupSchedule(mixup, 1.5, 10**9),
    )
    records = [{"image_id": i} for i in range(images)]
    return TrainingLoader(
        TrainingDataset(records, Mapper(*broken)),
        BatchPlanSampler(stream),
        num_workers=workers,
        max_unreadable=max_unreadable,
    )


def take(loader: TrainingLoader, count: int) -> list[list[dict]]:
    return [batch for batch, _ in zip(loader, range(count))]


def example(**fields) -> dict:
    return {"image": None, "reads": 1, "unreadable": [], **fields}


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_without_their_history(workers):
    """The model sees none of it; the account does. 3 batches of 4, each image with 2 boxes."""
    loader = build(images=10, workers=workers)
    batches = take(loader, 3)
    assert [len(batch) for batch in batches] == [BATCH] * 3
    assert {frozenset(x) for batch in batches for x in batch} == {
        frozenset({"image_id", "image", "instances"})
    }
    # The batch that zip() took, but did not give, is counted too.
    batches = loader.stats.reads // BATCH
    assert batches in (3, 4)
    assert loader.stats.boxes == 2 * BATCH * batches
    assert loader.stats.dropped_boxes == BATCH * batches
    assert not loader.stats.unreadable


def test_workers_have_one_thread_each(monkeypatch):
    """OpenCV would start one for each core, in each of them."""
    threads = cv2.getNumThreads()
    cv2.setNumThreads(4)
    try:
        loader = build(images=10, workers=1)
        monkeypatch.setattr(loader.dataset, "mapper", count_threads)
        ((first, *_), *_) = take(loader, 1)
    finally:
        cv2.setNumThreads(threads)
    assert first["threads"] == 1


def test_mixed_images_are_two_reads():
    loader = build(images=10, mixup=1.0)
    next(iter(loader))
    assert loader.stats.reads == 2 * BATCH


def test_account_by_hand():
    """Detectron2's mapper counts no dropped boxes, and an image may have no instances."""
    loader = build(images=100, max_unreadable=0.5)
    three = make_instances([[0, 0, 9, 9]] * 3, [0, 0, 0])
    loader.count(example(instances=three, dropped_boxes=2))
    loader.count(example(instances=three))
    loader.count(example(reads=6, unreadable=["a", "b"]))
    loader.count(example(reads=2, unreadable=["b"]))
    account = loader.stats
    assert (account.reads, account.boxes, account.dropped_boxes) == (10, 6, 2)
    assert account.unreadable == {"a": 1, "b": 2}


def test_each_unreadable_image_is_logged_once(caplog):
    """200 images, of which one: half a percent of the reads, in every epoch."""
    caplog.set_level(logging.WARNING, "asff")
    loader = build(17, images=200)
    take(loader, 4 * 50)
    (message,) = caplog.messages
    assert "17.jpg: broken" in message
    assert loader.stats.unreadable.keys() == {"17.jpg: broken"}
    # Once in each of 4 epochs, and now and then as a replacement.
    assert 4 <= loader.stats.unreadable["17.jpg: broken"] <= 6


@pytest.mark.parametrize("workers", [0, 2])
def test_too_many_unreadable_images(workers):
    """3 of 100 images are more than one percent; two failures are the first that are too many."""
    loader = build(3, 50, 97, images=100, workers=workers)
    with pytest.raises(UnreadableImage) as caught:
        take(loader, 26)
    lines = str(caught.value).splitlines()
    count, reads = map(int, re.match(r"(\d+) of (\d+) reads of images failed; ", lines[0]).groups())
    assert count == 2 and reads <= 100 + 3
    assert lines[0].endswith("; DATALOADER.MAX_UNREADABLE allows 1.00%:")
    broken = {"  3.jpg: broken", "  50.jpg: broken", "  97.jpg: broken"}
    assert set(lines[1:-1]) < broken and len(lines[1:-1]) in (1, 2)
    assert "asff check-data --fix" in lines[-1]


def failures_allowed(images: int, max_unreadable: float, reads_before: int = 0) -> int:
    """How many failed reads in a row a loader bears."""
    loader = build(images=images, max_unreadable=max_unreadable)
    if reads_before:
        loader.count(example(reads=reads_before))
    for count in range(1000):
        try:
            loader.count(example(reads=0, unreadable=[f"{count}"]))
        except UnreadableImage:
            return count
    return 1000


@pytest.mark.parametrize(
    ("images", "max_unreadable", "reads", "allowed"),
    [
        (99, 0.01, 0, 0),  # a single one is more than a percent
        (100, 0.01, 0, 1),
        (1000, 0.01, 0, 10),  # early on, the dataset's size counts instead of the reads
        (1000, 0.01, 999, 10),
        (1000, 0.01, 2000, 20),
        (1000, 0.0, 5000, 0),
        (10, 1.0, 0, 10),
    ],
)
def test_how_many_failures_are_allowed(images, max_unreadable, reads, allowed):
    assert failures_allowed(images, max_unreadable, reads) == allowed


def test_each_failure_of_an_image_counts():
    """One of 100 images may fail once in the first epoch, not twice."""
    loader = build(images=100)
    loader.count(example(unreadable=["a"]))
    with pytest.raises(UnreadableImage, match="2 of 2 reads"):
        loader.count(example(unreadable=["a"]))


def test_processes_share_what_is_allowed():
    """A quarter of 1000 images is read here in an epoch: 2 of them are not more than a percent."""
    loader = build(images=1000)
    loader.sampler = BatchPlanSampler(loader.sampler.batch_plan, rank=3, world_size=4)
    loader.count(example(unreadable=["a", "b"]))
    with pytest.raises(UnreadableImage):
        loader.count(example(unreadable=["c"]))


@pytest.mark.parametrize("workers", [0, 2])
def test_nothing_is_readable(workers):
    """Whatever the key says, a batch without images is none."""
    loader = build(*range(5), images=5, max_unreadable=1.0, workers=workers)
    with pytest.raises(UnreadableImage, match="reads of images failed"):
        next(iter(loader))


def test_nothing_to_report():
    loader = build(images=10)
    loader.count(example(instances=make_instances([[0, 0, 9, 9]], [0]), dropped_boxes=0))
    assert loader.stats.summary() == []


def test_report():
    """2 of 8 boxes; 3 failures of 2 images in 14 reads."""
    loader = build(images=1000)
    boxes = make_instances([[0, 0, 9, 9]] * 6, [0] * 6)
    loader.count(example(instances=boxes, dropped_boxes=2))
    loader.count(example(reads=13, unreadable=["a", "b", "a"]))
    boxes, reads = loader.stats.summary()
    assert "25.0%" in boxes and "INPUT.MIN_BOX_SIDE, INPUT.MIN_BOX_VISIBLE" in boxes
    assert "3 of 14 reads" in reads and "2 images" in reads


def test_all_boxes_dropped():
    loader = build(images=10)
    loader.count(example(instances=make_instances([], []), dropped_boxes=3))
    assert loader.stats.summary()[0].startswith("100.0% of ")


@pytest.mark.parametrize("workers", [0, 2])
def test_resume_goes_on_at_an_iteration_of_another_seed(workers):
    def ids(batches):
        return [[x["image_id"] for x in batch] for batch in batches]

    loader = build(images=50, workers=workers)
    loader.resume(0, 11)
    whole = ids(take(loader, 9))
    loader = build(images=50, workers=workers)
    assert ids(take(loader, 9)) != whole
    loader.resume(5, 11)
    assert ids(take(loader, 4)) == whole[5:]


@pytest.fixture
def one_broken(datasets) -> Iterator[str]:
    """One of the training images."""
    with truncated(datasets / "shapes" / "images" / "train_3.png") as path:
        yield path


@pytest.mark.parametrize("workers", [0, 1])
def test_training_stops_with_the_list(config, one_broken, tmp_path, workers):
    """One of 12 images is more than a percent. The message comes once, without traceback."""
    options = ("DATALOADER.NUM_WORKERS", workers, "OUTPUT_DIR", tmp_path)
    run = run_here("--config-file", config, *options)
    message = run.error.splitlines()
    assert re.fullmatch(
        r"train_net\.py: error: 1 of \d+ reads of images failed; DATALOADER\.MAX_UNREADABLE allows "
        r"1\.00%:",
        message[0],
    )
    assert re.fullmatch(rf"  {re.escape(one_broken)}: .*truncated.*", message[1])
    assert message[2].startswith("Repair or remove these images")
    assert not (tmp_path / "model_final.pth").exists()


def test_training_goes_on_where_the_key_allows(config, one_broken, tmp_path):
    """6 steps of 4 images are two epochs: the image is missed twice, or more often, by chance."""
    options = ("DATALOADER.MAX_UNREADABLE", 0.5, "SOLVER.MAX_ITER", 6, "OUTPUT_DIR", tmp_path)
    run = run_here("--config-file", config, *options, "DATASETS.TEST", ())
    assert run.code == 0, run.output
    assert run.output.count("Another image replaces an unreadable one: ") == 1
    found = re.search(r"(\d+) of (\d+) reads in this process failed, of 1 images", run.output)
    failed, reads = map(int, found.groups())
    assert failed >= 2 and reads == 2 * NUM_TRAIN + failed


def test_training_says_how_many_boxes_it_did_not_use(config, datasets, tmp_path):
    """Two epochs; by hand from the annotations, with the width that a box has at 64 pixels."""
    content = json.loads((datasets / "shapes" / "train.json").read_text())
    sizes = {image["id"]: (image["width"], image["height"]) for image in content["images"]}
    kinds = Counter()
    for annotation in content["annotations"]:
        width, height = sizes[annotation["image_id"]]
        _, _, w, h = annotation["bbox"]
        if w and h:  # the box without area is not of them
            kinds[min(w * 64 / width, h * 64 / height) >= 24] += 1
    assert kinds[True] > 3 and kinds[False] > 3
    share = kinds[False] / kinds.total()
    options = ("INPUT.MIN_BOX_SIDE", 24.0, "SOLVER.MAX_ITER", 6, "OUTPUT_DIR", tmp_path)
    run = run_here("--config-file", config, *options, "DATASETS.TEST", ())
    assert run.code == 0, run.output
    assert f"{share:.1%} of this process's training boxes were not used" in run.output


def test_faults_of_the_program_keep_their_traceback(config, tmp_path, monkeypatch):
    """Other ValueErrors must not look like mistakes of the user."""

    def fail(*args):
        raise ValueError("a fault")

    monkeypatch.setattr("asff.data.mapper.SquareMapper.clip", fail)
    run = run_here("--config-file", config, "OUTPUT_DIR", tmp_path)
    assert run.code == 1
    assert "train_net.py: error: " not in run.output
    assert run.output.rstrip().endswith("ValueError: a fault")
    assert "Traceback (most recent call last)" in run.output
