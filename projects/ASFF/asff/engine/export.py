"""Export a detector; a file is written only if it detects what the detector does."""

from __future__ import annotations

import math
import os
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog
from detectron2.evaluation import inference_on_dataset
from torch import Tensor

from ..checkpoint.metadata import package_version
from ..data import build_pixel_mapper, build_reader, check_datasets
from ..data.datasets.shapes import draw_image
from ..export import (
    FORMATS,
    Agreement,
    Detector,
    ExportedDetector,
    Options,
    Source,
    Thresholds,
    Tolerance,
    another_size,
    build_graph,
    check_options,
    compare,
    default_deformable,
    describe,
)
from .exported_predictor import ExportedPredictor
from .predictor import Predictor
from .setup import setup_datasets
from .trainer import Trainer

NUM_IMAGES = 8  # for the comparison of detections
BATCH_SIZE = 4
NUM_CALIBRATION = 64  # images, at most, from which INT8 takes its ranges
# Keys of the detector that is exported and compared: on the CPU, as it was trained.
FIXED = (
    *("MODEL.DEVICE", "cpu", "TEST.DTYPE", "float32"),
    *("TEST.COMPILE", False, "TEST.FUSE", False),
)
# Of boxes in pixels, and of scores. INT8's only pairs detections: it is judged by its AP.
TOLERANCES = {
    "float32": Tolerance(box=0.5, score=1e-3),
    "float16": Tolerance(box=4.0, score=0.03),
    "int8": Tolerance(box=16.0, score=0.2),
}


@dataclass(frozen=True)
class Verification:
    """How to verify an exported model.

    Attributes:
        images: files in which both must detect the same; without any, images of ``dataset``;
            without that, generated ones.
        dataset: whose AP is measured before and after.
        max_drop: of AP, in points.
    """

    images: Sequence[str | os.PathLike] = ()
    dataset: str | None = None
    max_drop: float = 1.0


@dataclass
class ExportReport:
    """Result of a verification; ``ap`` in points, of both models, where it was measured."""

    agreement: Agreement
    ap: dict[str, float] = field(default_factory=dict)


def export(
    config: str | os.PathLike | CfgNode | None,
    weights: str | os.PathLike,
    output: str | os.PathLike,
    export_format: str,
    options: Options,
    verification: Verification,
    opts: Sequence = (),
) -> ExportReport:
    """Export a detector to a file, and verify the file before it gets its name.

    Args:
        config, weights, opts: see :class:`Predictor`.
        export_format: one of ``asff.export.FORMATS``.

    Raises:
        ValueError: the detector cannot be exported so, or the exported model detects something
            else: then no file is left.
    """
    output = Path(output)
    suffix, write = FORMATS[export_format]
    check_options(export_format, options)
    if output.suffix != suffix:
        raise ValueError(
            f"--output is {output}, but a file of --format {export_format} is *{suffix}."
        )
    if options.precision == "int8" and verification.dataset is None:
        raise ValueError(
            "--int8 changes what is detected: name --dataset NAME to measure its AP on."
        )
    predictor = Predictor(config, weights, opts=[*opts, *FIXED])
    cfg = _fix_size(predictor.cfg, options.size)
    half = options.precision == "float16"
    deformable = options.deformable or default_deformable(export_format)
    graph = build_graph(predictor.model, half=half, deformable=deformable)
    metadata = describe(
        cfg,
        predictor.class_names,
        package_version(),
        divisor=graph.divisor,
        strides=graph.strides,
        size=options.size,
        nms=options.nms,
        precision=options.precision,
    )
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=output.parent, prefix=".export") as folder:
        path = Path(folder, output.name)
        calibration = _calibration(cfg, metadata, verification.dataset)
        write(Source(graph, metadata, options, calibration), path)
        report = _verify(predictor, ExportedPredictor(path), verification, options.precision)
        for file in path.parent.iterdir():
            os.replace(file, output.parent / file.name)
    return report


def _calibration(cfg: CfgNode, metadata: dict[str, str], dataset: str | None) -> Iterator[Tensor]:
    """Yield images as the model takes them: of the config's training set, else of ``dataset``."""
    detector = ExportedDetector("", cfg, metadata, None)
    read, map_pixels = build_reader(cfg), build_pixel_mapper(cfg)
    names = [*cfg.DATASETS.TRAIN][:1]
    try:
        _register(cfg, names[0])
        dicts = DatasetCatalog.get(names[0])
    except (ValueError, IndexError):
        _register(cfg, dataset)
        dicts = DatasetCatalog.get(dataset)
    for x in dicts[:: math.ceil(len(dicts) / NUM_CALIBRATION)]:
        yield detector.preprocess([map_pixels(read(x["file_name"]))["image"]])


def _fix_size(cfg: CfgNode, size: int | None) -> CfgNode:
    """Return the config with images resized, or put by a letterbox, to squares of a fixed side.

    Raises:
        ValueError: the detector's inputs are no squares. Padded to some, images would have other
            detections.
    """
    if size is None:
        return cfg
    is_yolo = cfg.MODEL.META_ARCHITECTURE == "YOLOv3"
    if not (cfg.INPUT.SQUARE or is_yolo and cfg.MODEL.YOLOV3.LETTERBOX_TEST):
        raise ValueError(
            f"--size is {size}, but INPUT.SQUARE is False: images keep their aspect ratio, and "
            "none has a fixed size. Export without --size."
        )
    cfg = cfg.clone()
    cfg.defrost()
    cfg.INPUT.TEST_SIZE = cfg.INPUT.MIN_SIZE_TEST = cfg.INPUT.MAX_SIZE_TEST = size
    cfg.freeze()
    return cfg


def _verify(
    predictor: Predictor,
    exported: ExportedPredictor,
    verification: Verification,
    precision: str,
) -> ExportReport:
    """Compare detections and AP.

    Raises:
        ValueError: they differ too much.
    """
    dataset = verification.dataset
    if dataset is not None:
        _register(predictor.cfg, dataset)
    predictor.map_pixels = exported.map_pixels  # of the size that was exported
    report = ExportReport(_compare(predictor, exported, verification, precision))
    if dataset is not None:
        report.ap = {
            name: evaluate(model, exported.cfg, dataset)
            for name, model in (("PyTorch", predictor.run), ("exported", exported.run))
        }
        drop = report.ap["PyTorch"] - report.ap["exported"]
        if not drop <= verification.max_drop:
            raise ValueError(
                f"The exported model has an AP of {report.ap['exported']:.2f} on {dataset}, the "
                f"detector {report.ap['PyTorch']:.2f}: it lost {drop:.2f}, and --max-drop is "
                f"{verification.max_drop:g}. Nothing was written."
            )
    return report


def _register(cfg: CfgNode, dataset: str) -> None:
    """Make a dataset known, be it a built-in one or of the config."""
    cfg = cfg.clone()
    cfg.defrost()
    setup_datasets(cfg, "", [dataset])
    check_datasets([dataset], "--dataset")


def _compare(
    predictor: Predictor,
    exported: ExportedPredictor,
    verification: Verification,
    precision: str,
) -> Agreement:
    """Compare the detections in images, at two sizes where the model takes any."""
    images = verification.images
    if not images and verification.dataset is not None:
        images = [x["file_name"] for x in DatasetCatalog.get(verification.dataset)[:NUM_IMAGES]]
    size = exported.cfg.INPUT.TEST_SIZE
    images = images or [
        draw_image(0, "val", i, size).image[..., ::-1].copy() for i in range(NUM_IMAGES)
    ]
    inputs = [exported.map_pixels(exported.read(x)) for x in images]
    batches = [inputs[i : i + BATCH_SIZE] for i in range(0, len(inputs), BATCH_SIZE)]
    if not exported.model.fixed_size:
        batches.append([another_size(inputs[0], exported.model.input["divisor"])])
    agreement = compare(
        predictor.run,
        exported.run,
        batches,
        Thresholds.from_config(exported.cfg),
        TOLERANCES[precision],
    )
    if not agreement.matched + agreement.unmatched:
        raise ValueError(
            f"The detector finds nothing in {len(images)} images, which verifies nothing. Name "
            "images with objects: --images FILE ..., or a dataset: --dataset NAME."
        )
    if agreement.unmatched and precision != "int8":
        raise ValueError(
            f"The exported model does not detect what the detector does: {agreement}. Nothing was "
            "written."
        )
    return agreement


def evaluate(model: Detector, cfg: CfgNode, dataset: str) -> float:
    """Return the AP of a detector, in points."""
    with tempfile.TemporaryDirectory() as folder:
        cfg = cfg.clone()
        cfg.defrost()
        cfg.OUTPUT_DIR = folder
        loader = Trainer.build_test_loader(cfg, dataset)
        results = inference_on_dataset(model, loader, Trainer.build_evaluator(cfg, dataset))
    if "bbox" not in results:
        raise ValueError(f"--dataset {dataset} has no annotations, hence no AP. Name another.")
    return results["bbox"]["AP"]
