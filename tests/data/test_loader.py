from __future__ import annotations

import logging
import re
from collections.abc import Iterator

import cv2
import numpy as np
import pytest
import torch

from asff.data import TrainingLoader, UnreadableImage
from asff.data.batch_plan import BatchPlan, BatchPlanSampler, MixupSchedule, SizeSchedule
from asff.data.training_dataset import TrainingDataset
from tests.helpers import make_instances
from tests.training import NUM_TRAIN, run_here, truncated

BATCH = 4


class Mapper:
    """Mapper that cannot read some images; of the others it keeps two boxes and drops one."""

    def __init__(self, *broken: int):
        self.broken = broken

    def __call__(self, first: dict, partner: dict | None, *, weight: float, size: int) -> dict:
        for number in (x["image_id"] for x in (first, partner) if x):
            if number in self.broken:
                raise UnreadableImage(f"{number}.jpg: broken")
        instances = make_instances([[0, 0, 9, 9], [1, 1, 5, 5]], [0, 1])
        image = torch.full((3, size, size), cv2.getNumThreads(), dtype=torch.uint8)
        return {**first, "image": image, "instances": instances, "dropped_boxes": 1}


def build(
    *broken: int,
    images: int,
    max_unreadable: float = 0.01,
    workers: int = 0,
    world_size: int = 1,
) -> TrainingLoader:
    batch_plan = BatchPlan(
        np.ones(images),
        batch_size=BATCH,
        seed=3,
        sizes=SizeSchedule([32], period=10, first=32, final=32, final_start=10**9),
        mixup=MixupSchedule(0.0, alpha=1.5, end=10**9),
    )
    return TrainingLoader(
        TrainingDataset([{"image_id": i} for i in range(images)], Mapper(*broken)),
        BatchPlanSampler(batch_plan, world_size=world_size),
        num_workers=workers,
        max_unreadable=max_unreadable,
    )


def take(loader: TrainingLoader, count: int) -> list[list[dict]]:
    return [batch for batch, _ in zip(loader, range(count))]


def example(**fields) -> dict:
    return {"image": None, "reads": 1, "unreadable": [], **fields}


@pytest.mark.parametrize("workers", [0, 2])
def test_counters_go_to_the_stats_not_to_the_model(workers):
    """3 batches of 4, each image with 2 boxes."""
    loader = build(images=10, workers=workers)
    batches = take(loader, 3)
    assert [len(batch) for batch in batches] == [BATCH] * 3
    keys = {frozenset(x) for batch in batches for x in batch}
    assert keys == {frozenset({"image_id", "image", "instances"})}
    # The batch that zip() took, but did not give, is counted too.
    count = loader.stats.reads // BATCH
    assert count in (3, 4)
    assert loader.stats.boxes == 2 * BATCH * count
    assert loader.stats.dropped_boxes == BATCH * count
    assert not loader.stats.unreadable


def test_workers_have_one_thread_each():
    """OpenCV would start one for each core, in each of them."""
    threads = cv2.getNumThreads()
    cv2.setNumThreads(4)
    try:
        ((first, *_), *_) = take(build(images=10, workers=1), 1)
    finally:
        cv2.setNumThreads(threads)
    assert (first["image"] == 1).all()


def test_large_batches_need_few_open_files():
    """Batches that are held, of 120 x 3 tensors in all, where a process may open 256 files."""
    import resource  # not on Windows

    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, limits[1]))
    try:
        assert len(take(build(images=120, workers=1), 30)) == 30
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


def test_stats_by_hand():
    """Detectron2's mapper counts no dropped boxes, and an image may have no instances."""
    loader = build(images=100, max_unreadable=0.5)
    three = make_instances([[0, 0, 9, 9]] * 3, [0, 0, 0])
    loader.count(example(instances=three, dropped_boxes=2))
    loader.count(example(instances=three))
    assert len(loader.stats.summary()) == 1  # nothing was unreadable
    loader.count(example(reads=6, unreadable=["a", "b"]))
    loader.count(example(reads=2, unreadable=["b"]))
    stats = loader.stats
    assert (stats.reads, stats.boxes, stats.dropped_boxes) == (10, 6, 2)
    assert stats.unreadable == {"a": 1, "b": 2}
    boxes, reads = stats.summary()
    assert "25.0%" in boxes and "INPUT.MIN_BOX_SIDE, INPUT.MIN_BOX_VISIBLE" in boxes
    assert "3 of 10 reads" in reads and "2 images" in reads


def test_each_unreadable_image_is_logged_once(caplog):
    """200 images, of which one: half a percent of the reads, in every epoch."""
    caplog.set_level(logging.WARNING, "asff")
    loader = build(17, images=200)
    take(loader, 4 * 50)
    (message,) = caplog.messages
    assert "17.jpg: broken" in message
    # Once in each of 4 epochs, and now and then as a replacement.
    ((reason, count),) = loader.stats.unreadable.items()
    assert reason == "17.jpg: broken" and 4 <= count <= 6


@pytest.mark.parametrize("workers", [0, 2])
def test_too_many_unreadable_images(workers):
    """3 of 100 images are more than one percent; two failures are the first that are too many."""
    loader = build(3, 50, 97, images=100, workers=workers)
    with pytest.raises(UnreadableImage) as caught:
        take(loader, 26)
    first, *reasons, fix = str(caught.value).splitlines()
    count, reads = map(int, re.match(r"(\d+) of (\d+) reads of images failed; ", first).groups())
    assert count == 2 and reads <= 100 + 3
    assert "DATALOADER.MAX_UNREADABLE allows 1.00%" in first
    assert set(reasons) < {"  3.jpg: broken", "  50.jpg: broken", "  97.jpg: broken"}
    assert len(reasons) in (1, 2) and "asff check-data --fix" in fix


@pytest.mark.parametrize(
    ("images", "max_unreadable", "world_size", "reads", "allowed"),
    [
        (99, 0.01, 1, 0, 0),  # a single one is more than a percent
        (100, 0.01, 1, 0, 1),
        (1000, 0.01, 1, 0, 10),  # early on, the dataset's size counts instead of the reads
        (1000, 0.01, 1, 999, 10),
        (1000, 0.01, 1, 2000, 20),
        (1000, 0.01, 4, 0, 2),  # of a process that reads a quarter of the images
        (1000, 0.0, 1, 5000, 0),
        (10, 1.0, 1, 0, 10),
    ],
)
def test_number_of_failures_that_are_allowed(images, max_unreadable, world_size, reads, allowed):
    """Each failure counts, of the same image as well as of others."""
    loader = build(images=images, max_unreadable=max_unreadable, world_size=world_size)
    loader.count(example(reads=reads))
    reasons = [str(i // 2) for i in range(allowed + 1)]
    for reason in reasons[:-1]:
        loader.count(example(reads=0, unreadable=[reason]))
    with pytest.raises(UnreadableImage):
        loader.count(example(reads=0, unreadable=reasons[-1:]))


def test_nothing_is_readable():
    """Whatever the key says, a batch without images is none."""
    loader = build(*range(5), images=5, max_unreadable=1.0)
    with pytest.raises(UnreadableImage, match="reads of images failed"):
        next(iter(loader))


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
    """Truncate one of the training images; yield its path."""
    with truncated(datasets / "shapes" / "images" / "train_3.png") as path:
        yield path


@pytest.mark.parametrize("workers", [0, 1])
def test_training_stops_with_the_list(config, one_broken, tmp_path, workers):
    """One of 12 images is more than a percent. The message comes once, without traceback."""
    options = ("DATALOADER.NUM_WORKERS", workers, "OUTPUT_DIR", tmp_path)
    run = run_here("--config-file", config, *options)
    first, reason, fix, *_ = run.error.splitlines()
    assert "1 of " in first and "DATALOADER.MAX_UNREADABLE allows 1.00%" in first
    assert reason.startswith(f"  {one_broken}: ") and "truncated" in reason
    assert "asff check-data --fix" in fix
    assert not (tmp_path / "model_final.pth").exists()


def test_training_goes_on_where_the_key_allows(config, one_broken, tmp_path):
    """6 steps of 4 images are two epochs: the image is missed twice, or more often, by chance."""
    options = ("DATALOADER.MAX_UNREADABLE", 0.5, "INPUT.MIN_BOX_SIDE", 24.0, "SOLVER.MAX_ITER", 6)
    run = run_here("--config-file", config, *options, "OUTPUT_DIR", tmp_path, "DATASETS.TEST", ())
    assert run.code == 0, run.output
    assert run.output.count("Another image replaces an unreadable one: ") == 1
    found = re.search(r"(\d+) of (\d+) reads in this process failed, of 1 images", run.output)
    failed, reads = map(int, found.groups())
    assert failed >= 2 and reads == 2 * NUM_TRAIN + failed
    assert re.search(r"[1-9]\S*% of this process's training boxes were not used", run.output)


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
