#!/usr/bin/env python
"""From nothing to a trained detector in minutes: generate images, train, evaluate, draw detections.

    python tools/quickstart.py [KEY VALUE ...]

Uses a GPU where there is one. KEY VALUE pairs override configs/quickstart.yaml.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.modeling import build_model
from PIL import Image

from asff.checkpoint import Checkpointer
from asff.data import build_test_loader
from asff.data.shapes import write_shapes_dataset
from asff.engine import argument_parser, setup
from asff.visualization import draw_detections

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
from train_net import main as train  # noqa: E402

CONFIG = ROOT / "configs" / "quickstart.yaml"
NUM_PICTURES = 8


def write_pictures(cfg: CfgNode, weights: Path, folder: Path) -> None:
    """Draw truth and detections of the first images of the test set."""
    folder.mkdir(parents=True, exist_ok=True)
    name = cfg.DATASETS.TEST[0]
    model = build_model(cfg).eval()
    Checkpointer(model).load(str(weights))
    records = DatasetCatalog.get(name)[:NUM_PICTURES]
    for record, batch in zip(records, build_test_loader(cfg, name)):
        with torch.no_grad():
            instances = model(batch)[0]["instances"].to("cpu")
        picture = draw_detections(record, instances, MetadataCatalog.get(name))
        Image.fromarray(picture).save(folder / Path(record["file_name"]).with_suffix(".jpg").name)


def main() -> None:
    start = time.perf_counter()
    args = argument_parser().parse_args(["--config-file", str(CONFIG), *sys.argv[1:]])
    datasets = Path(os.getenv("DETECTRON2_DATASETS", "datasets"))
    write_shapes_dataset(datasets / "shapes")
    try:
        cfg = setup(args)
    except ValueError as error:
        sys.exit(f"quickstart.py: error: {error}")
    results = train(cfg, args)
    output = Path(cfg.OUTPUT_DIR)
    write_pictures(cfg, output / "model_final.pth", output / "pictures")
    print(
        f"\nDone in {time.perf_counter() - start:.0f} s: AP50 {results['bbox']['AP50']:.1f} on "
        f"images it never saw. Truth and detections are in {output / 'pictures'}, the model is "
        f"{output / 'model_final.pth'}, log and curves lie beside it. Next, your own data or COCO: "
        "python train_net.py --config-file configs/coco/yolov3_mobilenetv2_asff.yaml"
    )


if __name__ == "__main__":
    main()
