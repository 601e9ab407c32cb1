"""A tiny dataset, a tiny detector for it, and ways to run train_net.py on them."""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import logging
import os
import runpy
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import cv2
import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.engine import default_setup
from detectron2.utils import comm
from detectron2.utils.logger import setup_logger
from torch import Tensor, nn

from asff.checkpoint import Checkpointer, model_metadata
from asff.cli import main
from asff.data import build_train_loader
from asff.data.datasets.builtin import DATASETS, register_builtin_datasets
from asff.engine import Trainer, argument_parser, setup

ROOT = Path(__file__).resolve().parents[1]
CLASSES = DATASETS["shapes"][1]
NUM_TRAIN, NUM_VAL = 12, 7  # an odd number, so that two processes have unequal shares
EMPTY, DEGENERATE = 5, 8  # indices of training images without boxes, and with a degenerate one

CONFIG = f"""
_BASE_: "{ROOT}/configs/Base-YOLOv3.yaml"
MODEL:
  DEVICE: "cpu"
  BACKBONE:
    NAME: "build_darknet_backbone"
  DARKNET:
    DEPTHS: [1, 1, 1, 1, 1]
    WIDTH: 0.125
  YOLOV3:
    NUM_CLASSES: {len(CLASSES)}
    NECK:
      WIDTH: 0.0625
INPUT:
  TRAIN_SIZES: [64]
  TEST_SIZE: 64
DATASETS:
  TRAIN: ("shapes_train",)
  TEST: ("shapes_val",)
DATALOADER:
  NUM_WORKERS: 0
SOLVER:
  IMS_PER_BATCH: 4
  BASE_LR: 0.01
  BASE_LR_END: 0.001
  MAX_ITER: 4
  WARMUP_EPOCHS: 0.0
  WARMUP_ITERS: 2
  WARMUP_FACTOR: 0.1
SEED: 1
"""


def write_dataset(root: Path) -> None:
    """Write ``root/shapes``: grey noise with one or two squares, a colour for each class."""
    rng = np.random.default_rng(0)
    colors = [(220, 40, 40), (40, 220, 40), (40, 40, 220), (220, 220, 40)]
    folder = root / "shapes"
    (folder / "images").mkdir(parents=True)
    for split, count in (("train", NUM_TRAIN), ("val", NUM_VAL)):
        images, annotations = [], []
        for i in range(count):
            height, width = 64 + 16 * (i % 3), 96 - 16 * (i % 2)
            pixels = rng.integers(100, 130, (height, width, 3)).astype(np.uint8)
            boxes = []
            for _ in range(0 if (split, i) == ("train", EMPTY) else 1 + i % 2):
                side = int(rng.integers(24, 40))
                x, y = int(rng.integers(width - side)), int(rng.integers(height - side))
                category = int(rng.integers(len(CLASSES)))
                pixels[y : y + side, x : x + side] = colors[category]
                boxes.append((category, [x, y, side, side]))
            if (split, i) == ("train", DEGENERATE):
                boxes.append((0, [10, 10, 0, 20]))
            name = f"{split}_{i}.png"
            cv2.imwrite(str(folder / "images" / name), pixels)
            images.append({"id": i + 1, "file_name": name, "height": height, "width": width})
            for category, box in boxes:
                annotations.append(
                    {
                        "id": len(annotations) + 1,
                        "image_id": i + 1,
                        "category_id": category + 1,
                        "bbox": box,
                        "segmentation": [outline(*box)],
                        "area": box[2] * box[3],
                        "iscrowd": 0,
                    }
                )
        categories = [{"id": i, "name": name} for i, name in enumerate(CLASSES, start=1)]
        coco_dict = {"info": {}, "images": images, "annotations": annotations}
        coco_dict["categories"] = categories
        (folder / f"{split}.json").write_text(json.dumps(coco_dict))


def outline(x: int, y: int, width: int, height: int) -> list[int]:
    """Return a box as COCO's polygon."""
    return [x, y, x + width, y, x + width, y + height, x, y + height]


def register_datasets(root: str | Path) -> None:
    """Register the builtin datasets again, below ``root``."""
    for dataset, (splits, _) in DATASETS.items():
        for split in splits:
            DatasetCatalog.remove(f"{dataset}_{split}")
            MetadataCatalog.remove(f"{dataset}_{split}")
    register_builtin_datasets(root)


@contextmanager
def truncated(path: Path) -> Iterator[str]:
    """Cut the end off a file for the length of a test, and yield its path."""
    data = path.read_bytes()
    path.write_bytes(data[:-50])
    yield str(path)
    path.write_bytes(data)


@dataclass
class Run:
    """Exit code of a script, and what it printed to stdout and stderr."""

    script: str
    code: int
    output: str

    @property
    def error(self) -> str:
        """The message of a run that was refused."""
        assert self.code == 2, self.output
        assert "Traceback" not in self.output, self.output
        start = f"{self.script}: error: "
        lines = [line for line in self.output.splitlines() if line.startswith(start)]
        assert len(lines) == 1, self.output
        # A message may go on over several lines: it is the last that a run prints.
        return self.output[self.output.index(lines[0]) :]


@contextmanager
def one_thread() -> Iterator[None]:
    """Use one thread: threads that share tiny operations slow each other down."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def run_script(script: str, *args: object) -> Run:
    """Run ``python SCRIPT ARGS`` in this process, which saves seconds of imports."""
    file = ROOT / script

    def run() -> None:
        sys.argv = [file.name, *map(str, args)]
        sys.path.insert(0, str(file.parent))  # as python does
        runpy.run_path(str(file), run_name="__main__")

    return capture(file.name, run)


def run_asff(verb: str, *args: object) -> Run:
    """Run ``asff VERB ARGS`` in this process."""
    return capture(f"asff {verb}", lambda: sys.exit(main([verb, *map(str, args)])))


def capture(name: str, run: Callable[[], None]) -> Run:
    """Call a function as the main program of a process."""
    printed, code = io.StringIO(), 0
    argv, path = sys.argv, sys.path.copy()
    try:
        with one_thread(), redirect_stdout(printed), redirect_stderr(printed):
            try:
                run()
            except SystemExit as error:
                code = error.code if isinstance(error.code, int) else int(error.code is not None)
                if isinstance(error.code, str):
                    print(error.code)
            except Exception:
                code = 1
                traceback.print_exc()
    finally:
        sys.argv, sys.path[:] = argv, path
        reset_loggers()
    return Run(name, code, printed.getvalue())


def run_here(*options: object) -> Run:
    """Run ``python train_net.py OPTIONS`` in this process."""
    return run_script("train_net.py", *options)


def run_apart(*options: object, launcher: tuple = (), timeout: int = 240) -> Run:
    """Run ``python [LAUNCHER] train_net.py OPTIONS``, and kill all its processes at the timeout."""
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, *launcher, str(ROOT / "train_net.py"), *options]
    process = subprocess.Popen(
        list(map(str, command)),
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        output, _ = process.communicate(timeout=timeout)
    except BaseException:
        os.killpg(process.pid, signal.SIGKILL)
        raise
    return Run("train_net.py", process.returncode, output)


def reset_loggers() -> None:
    """Undo Detectron2's setup_logger(), whose handlers hold on to a redirected stdout."""
    setup_logger.cache_clear()
    for name in ("asff", "detectron2", "fvcore"):
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.propagate = True


def metrics(folder: Path) -> list[dict]:
    """Read metrics.json of a training, line by line."""
    return [json.loads(line) for line in (folder / "metrics.json").read_text().splitlines()]


def read_checkpoint(path: Path) -> dict:
    """Load a checkpoint without running code from it."""
    return torch.load(path, weights_only=True)


def check_same_weights(output: Path, other: Path) -> None:
    """Check that two trainings ended alike, to the bit."""
    found, expected = (read_checkpoint(x / "model_final.pth") for x in (output, other))
    assert found["trainer"]["seed"] == expected["trainer"]["seed"] >= 0
    assert found["model"].keys() == expected["model"].keys() and len(expected["model"]) > 100
    for name, tensor in expected["model"].items():
        assert torch.equal(found["model"][name], tensor), name


def write_checkpoint(config: Path, folder: Path, *options: object) -> Path:
    """Write a checkpoint of an untrained detector, as training does, and return its path."""
    args = argument_parser().parse_args(["--config-file", str(config), *map(str, options)])
    cfg = setup(args)
    torch.manual_seed(0)
    checkpointer = Checkpointer(Trainer.build_model(cfg), str(folder))
    checkpointer.metadata = model_metadata(cfg)
    checkpointer.save("model")
    return folder / "model.pth"


class RecordingLoader:
    """Data loader that keeps the files of one batch and the model's parameters before it.

    Args:
        batch: index of that batch.
    """

    def __init__(self, loader: Iterable, batch: int, model: nn.Module):
        self.loader, self.batch, self.model = loader, batch, model
        self.files: list[str] = []
        self.parameters: list[Tensor] = []

    def __iter__(self) -> Iterator[list[dict]]:
        for index, batch in enumerate(self.loader):
            if index == self.batch:
                self.files = [x["file_name"] for x in batch]
                self.parameters = [p.detach().clone() for p in self.model.parameters()]
            yield batch


def train_on_bad_loss(cfg: CfgNode, args: argparse.Namespace) -> None:
    """Train with an infinite loss in the last process, at step 2; every process reports on it."""
    default_setup(cfg, args)
    trainer = Trainer(cfg)
    step, rank = trainer._trainer, comm.get_rank()
    step.data_loader = loader = RecordingLoader(step.data_loader, 2, step.model)

    def spoil(module: nn.Module, inputs: tuple, losses: dict[str, Tensor]) -> dict[str, Tensor]:
        # Its gradient stays finite: nothing but the loss itself tells, and only in this process.
        infinite = trainer.iter == 2 and rank == comm.get_world_size() - 1
        return {**losses, "loss_obj": losses["loss_obj"] + float("inf")} if infinite else losses

    hook = step.model.register_forward_hook(spoil)
    report = {"error": ""}
    try:
        trainer.train()
    except FloatingPointError as error:
        report["error"] = str(error)
    hook.remove()
    report["iteration"] = trainer.iter
    report["files"] = loader.files
    if rank == 0:  # which alone knows the mean over the processes
        report["loss"] = trainer.storage.history("total_loss").values()[0][0]
        report["grad_norm"] = trainer.storage.history("grad_norm").values()[0][0]
    after = step.model.parameters()
    report["unchanged"] = all(map(torch.equal, loader.parameters, after))
    Path(cfg.OUTPUT_DIR, f"report{rank}.json").write_text(json.dumps(report))


def save_buffers(cfg: CfgNode, args: argparse.Namespace) -> None:
    """Train, and save this process's buffers."""
    default_setup(cfg, args)
    trainer = Trainer(cfg)
    trainer.train()
    buffers = dict(trainer.model.module.named_buffers())
    torch.save(buffers, Path(cfg.OUTPUT_DIR, f"buffers{comm.get_rank()}.pt"))


def write_batches(cfg: CfgNode, args: argparse.Namespace) -> None:
    """Write this process's share of batches ``args.start`` to 11."""
    loader = build_train_loader(cfg)
    loader.resume(args.start, cfg.SEED)
    seen = [list(map(digest, batch)) for batch in islice(loader, 12 - args.start)]
    Path(cfg.OUTPUT_DIR, f"batches{comm.get_rank()}.json").write_text(json.dumps(seen))


def digest(example: dict) -> list:
    """Return file, size, hash of the pixels, boxes, classes and weights of an example."""
    gt = example["instances"]
    pixels = hashlib.sha1(example["image"].numpy().tobytes()).hexdigest()
    boxes = [gt.gt_boxes.tensor.tolist(), gt.gt_classes.tolist()]
    size = list(example["image"].shape)
    weights = gt.gt_weights.tolist() if gt.has("gt_weights") else [1.0] * len(gt)
    return [example["file_name"], size, pixels, *boxes, weights]
