"""Datasets that are registered by name, below `$DETECTRON2_DATASETS` as Detectron2's own.

`NAME/{train,val,test}.json` in COCO format and `NAME/images/` hold the splits `NAME_train` etc.
"""

from __future__ import annotations

import os
from pathlib import Path

from detectron2.data import DatasetCatalog
from detectron2.data.datasets import register_coco_instances

from .shapes import CLASS_NAMES

# Real microscope images of blood cells, and the generated images of the quick start (shapes.py).
DATASETS = {
    "bccd": (("train", "val", "test"), ["RBC", "WBC", "Platelets"]),
    "shapes": (("train", "val"), list(CLASS_NAMES)),
}


def register_builtin_datasets(root: str | os.PathLike) -> None:
    """Register every split of :data:`DATASETS` below ``root``; files are read when used."""
    for dataset, (splits, classes) in DATASETS.items():
        folder = Path(root).expanduser() / dataset
        for split in splits:
            name = f"{dataset}_{split}"
            if name not in DatasetCatalog:
                register_coco_instances(
                    name,
                    {"thing_classes": classes},
                    str(folder / f"{split}.json"),
                    str(folder / "images"),
                )


register_builtin_datasets(os.getenv("DETECTRON2_DATASETS", "datasets"))
