"""Write a COCO dict as COCO, VOC and YOLO users lay their data out."""

from __future__ import annotations

import json
import shutil
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image

from tests.helpers import detector_cfg


def cases(names: tuple[str, ...], table: dict[str, tuple]) -> pytest.MarkDecorator:
    """Parametrise a test by a table of named cases."""
    return pytest.mark.parametrize(names, table.values(), ids=table)


@contextmanager
def refused(*parts: str) -> Iterator[None]:
    """Expect a ValueError whose message has these parts."""
    with pytest.raises(ValueError) as error:
        yield
    for part in parts:
        assert part in str(error.value), error.value


def write_files(root: Path, files: dict[str, str | tuple[int, int]]) -> None:
    """Write text files, and images of a width and a height."""
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, str):
            path.write_text(content)
        else:
            Image.new("RGB", content).save(path)


def class_names(content: dict) -> list[str]:
    return [category["name"] for category in sorted(content["categories"], key=lambda x: x["id"])]


def boxes_by_image(content: dict) -> dict[int, list[tuple[int, list[float]]]]:
    """By image id: class index from 0, and x, y, width, height, of each object."""
    ids = sorted(category["id"] for category in content["categories"])
    boxes = defaultdict(list)
    for annotation in content["annotations"]:
        boxes[annotation["image_id"]].append(
            (ids.index(annotation["category_id"]), annotation["bbox"])
        )
    return boxes


def write_coco(content: dict, images: Path, root: Path) -> dict:
    """Write the dataset below ``root``, and return the keys that describe it."""
    root.mkdir(parents=True, exist_ok=True)
    (root / "train.json").write_text(json.dumps(content))
    copy_images(content, images, root / "images")
    return {"format": "coco", "annotations": "train.json", "images": "images"}


def write_voc(content: dict, images: Path, root: Path) -> dict:
    names, boxes = class_names(content), boxes_by_image(content)
    copy_images(content, images, root / "JPEGImages")
    (root / "Annotations").mkdir()
    (root / "ImageSets" / "Main").mkdir(parents=True)
    stems = []
    for image in content["images"]:
        objects = [
            (names[index], (x + 1, y + 1, x + w, y + h), 0)
            for index, (x, y, w, h) in boxes[image["id"]]
        ]
        stems.append(Path(image["file_name"]).stem)
        text = voc_xml(objects, image["file_name"], (image["width"], image["height"]))
        (root / "Annotations" / f"{stems[-1]}.xml").write_text(text)
    (root / "ImageSets" / "Main" / "train.txt").write_text("\n".join(stems) + "\n")
    return {"format": "voc", "root": ".", "split": "train"}


def voc_xml(objects: list[tuple], filename: str = "", size: tuple[int, int] | None = None) -> str:
    """An XML file of objects: name, corners as VOC counts them, difficult."""
    lines = ["<annotation>", f"<filename>{filename}</filename>"]
    if size:
        lines.append("<size><width>{}</width><height>{}</height></size>".format(*size))
    for name, (x0, y0, x1, y1), difficult in objects:
        lines += [
            f"<object><name>{name}</name><difficult>{difficult}</difficult><bndbox>",
            f"<xmin>{x0}</xmin><ymin>{y0}</ymin><xmax>{x1}</xmax><ymax>{y1}</ymax>",
            "</bndbox></object>",
        ]
    return "\n".join([*lines, "</annotation>"])


def write_yolo(content: dict, images: Path, root: Path) -> dict:
    boxes = boxes_by_image(content)
    copy_images(content, images, root / "images")
    (root / "labels").mkdir()
    files = []
    for image in content["images"]:
        lines = [
            f"{index} {(x + w / 2) / image['width']:.12f} {(y + h / 2) / image['height']:.12f} "
            f"{w / image['width']:.12f} {h / image['height']:.12f}\n"
            for index, (x, y, w, h) in boxes[image["id"]]
        ]
        (root / "labels" / image["file_name"]).with_suffix(".txt").write_text("".join(lines))
        files.append(f"./images/{image['file_name']}\n")
    (root / "train.txt").write_text("".join(files))
    data = {"path": ".", "train": "train.txt", "names": class_names(content)}
    (root / "data.yaml").write_text(json.dumps(data))  # which is YAML, too
    return {"format": "yolo", "data": "data.yaml", "split": "train"}


def copy_images(content: dict, images: Path, folder: Path) -> None:
    folder.mkdir(parents=True)
    for image in content["images"]:
        shutil.copy(images / image["file_name"], folder)


WRITERS = {"coco": write_coco, "voc": write_voc, "yolo": write_yolo}


def forget_datasets() -> None:
    """Remove the datasets that configs described."""
    for name in DatasetCatalog.list():
        if "source" in MetadataCatalog.get(name).as_dict():
            DatasetCatalog.remove(name)
            MetadataCatalog.remove(name)


def content_of(*names: str) -> dict:
    """One image of 50 x 80 pixels with one object of each class."""
    box = {"image_id": 1, "bbox": [1, 2, 3, 4], "area": 12, "iscrowd": 0}
    ids = range(1, len(names) + 1)
    return {
        "images": [{"id": 1, "file_name": "a.png", "height": 80, "width": 50}],
        "annotations": [{"id": i, "category_id": i, **box} for i in ids],
        "categories": [{"id": i, "name": name} for i, name in zip(ids, names)],
    }


def without_degenerate_boxes(content: dict) -> dict:
    """Leave out the boxes that the corners of VOC cannot express."""
    annotations = [x for x in content["annotations"] if min(x["bbox"][2:]) > 0]
    return {**content, "annotations": annotations}


def write_config(folder: Path, **keys: object) -> Path:
    """A config file in a folder."""
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump({"VERSION": 2, **keys}))
    return path


def below(folder: str, config: dict) -> dict:
    """Return a dataset config whose paths start one folder higher."""
    paths = ("annotations", "images", "root", "data")
    return {key: f"{folder}/{value}" if key in paths else value for key, value in config.items()}


def cfg_of(*configs: dict) -> CfgNode:
    """Return a config that describes datasets and trains on them."""
    cfg = detector_cfg()
    cfg.DATASETS.CUSTOM = list(configs)
    cfg.DATASETS.TRAIN = tuple(config["name"] for config in configs)
    return cfg
