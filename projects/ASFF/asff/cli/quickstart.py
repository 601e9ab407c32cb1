#!/usr/bin/env python
"""From nothing to a trained detector in minutes: generate images, train, evaluate, draw detections.

    python tools/quickstart.py [--images N] [KEY VALUE ...]

Uses a GPU where there is one. KEY VALUE pairs override configs/quickstart.yaml.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

# First, for it says what is not installed.
from ..data.datasets.shapes import write_shapes_dataset
from ..engine import Predictor, argument_parser, setup, user_errors
from ..visualization import draw_detections

# isort: split
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
from train_net import main as train  # noqa: E402

CONFIG = ROOT / "configs" / "quickstart.yaml"
NUM_PICTURES = 8


def write_pictures(cfg: CfgNode, weights: Path, folder: Path) -> None:
    """Draw truth and detections of the first images of the test set."""
    folder.mkdir(parents=True, exist_ok=True)
    predictor, name = Predictor(cfg, weights), cfg.DATASETS.TEST[0]
    for record in DatasetCatalog.get(name)[:NUM_PICTURES]:
        file = Path(record["file_name"])
        picture = draw_detections(record, predictor(file), MetadataCatalog.get(name))
        Image.fromarray(picture).save(folder / f"{file.stem}.jpg")


def main() -> None:
    start = time.perf_counter()
    parser = argument_parser()
    parser.add_argument("--images", type=int, default=1600, help="to train on; an eighth to test")
    args = parser.parse_args(["--config-file", str(CONFIG), *sys.argv[1:]])
    datasets = Path(os.getenv("DETECTRON2_DATASETS", "datasets"))
    with user_errors():
        write_shapes_dataset(
            datasets / "shapes", num_train=args.images, num_val=max(args.images // 8, 1)
        )
        cfg = setup(args)
    results = train(cfg, args)
    output = Path(cfg.OUTPUT_DIR)
    write_pictures(cfg, output / "model_final.pth", output / "pictures")
    seconds = time.perf_counter() - start
    print(
        f"\nDone in {seconds:.0f} s: AP50 {results['bbox']['AP50']:.1f} on images it never saw.\n"
        f"Truth and detections side by side: {output / 'pictures'}\n"
        f"Model and log: {output}\n"
        f"Next: python tools/report.py {output}"
    )


if __name__ == "__main__":
    main()
