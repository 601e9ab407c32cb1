from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest

from asff.data.datasets import CocoDataset
from asff.data.datasets.yolo import YoloSource, YoloWithoutData, parse_label
from tests.data.datasets.written import cases, refused, write_files

pytestmark = pytest.mark.usefixtures("own_data")


def read_images(path: Path, *classes: str) -> CocoDataset:
    """Read a dataset without data.yaml."""
    return YoloWithoutData({"images": str(path), "classes": list(classes)}).read()


def names(dataset: CocoDataset, root: Path) -> list[str]:
    return [str(Path(image["file_name"]).relative_to(root)) for image in dataset.images]


def objects(dataset: CocoDataset) -> list[tuple]:
    """Image id, class name, and box of each object."""
    classes = {category["id"]: category["name"] for category in dataset.categories}
    return [
        (x["image_id"], classes[x["category_id"]], *np.round(x["bbox"], 9).tolist())
        for x in dataset.annotations
    ]


ONE_IMAGE = {"images/a.png": (100, 200), "labels/a.txt": "1 0.5 0.5 0.2 0.1\n"}
DATA = "train: images\nnames: [cat, dog]\n"


def test_content(tmp_path):
    write_files(tmp_path, {**ONE_IMAGE, "data.yaml": DATA})
    config = {"data": str(tmp_path / "data.yaml"), "split": "train", "classes": ["cat", "dog"]}
    assert YoloSource(config).read_classes() == ["cat", "dog"]
    dataset = YoloSource(config).read()
    file_name = str(tmp_path / "images" / "a.png")
    assert dataset.images == [{"id": 1, "file_name": file_name, "height": 200, "width": 100}]
    assert dataset.categories == [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}]
    (annotation,) = dataset.annotations
    # Centre (50, 100), 20 pixels wide and 20 high.
    assert annotation.pop("bbox") == pytest.approx([40, 90, 20, 20])
    assert annotation.pop("area") == pytest.approx(400)
    assert annotation == {"id": 1, "image_id": 1, "category_id": 2, "iscrowd": 0}


@cases(
    ("data", "files"),
    {
        "folder": ("train: images/train", "images/train labels/train"),
        "roboflow": ("train: ../train/images", "train/images train/labels"),
        "path": ("path: set\ntrain: images", "set/images set/labels"),
        "path here": ("path: ./\ntrain: ./images/", "images labels"),
        "absolute": ("train: {root}/my/images", "my/images my/labels"),
        "last images": ("train: images/images", "images/images images/labels"),
        "nested": ("train: images", "images/deep/er labels/deep/er"),
        "beside": ("train: pictures", "pictures pictures"),
        "beside, though in images": ("train: images", "images images"),
        "list": ("train: train.txt", "images labels"),
        # Its paths start where darknet is run, a folder or more above.
        "list of darknet": ("train: data/list.txt", "data/obj data/obj"),
    },
)
def test_layouts(tmp_path, data, files):
    images, labels = files.split()
    write_files(
        tmp_path,
        {
            f"{images}/b.png": (10, 20),
            f"{images}/a.JPG": (20, 10),
            f"{images}/notes.txt": "none of it is a label\n",
            f"{labels}/b.txt": "0 0.5 0.5 1 1\n",
            f"{labels}/a.txt": "0 0.5 0.5 0.5 0.5\n",
            "train.txt": f"./{images}/a.JPG\n\n{tmp_path}/{images}/b.png\n",
            "data/list.txt": f"{images}/a.JPG\n{images}/b.png\n",
            "data.yaml": data.format(root=tmp_path) + "\nnames: {0: part}\nnc: 1",
        },
    )
    dataset = YoloSource(
        {"data": str(tmp_path / "data.yaml"), "split": "train", "classes": ["part"]}
    ).read()
    assert names(dataset, tmp_path) == [f"{images}/a.JPG", f"{images}/b.png"]
    assert objects(dataset) == [(1, "part", 5, 2.5, 10, 5), (2, "part", 0, 0, 10, 20)]


def test_splits_of_several_folders_and_lists(tmp_path):
    write_files(
        tmp_path,
        {
            "two/images/b.png": (10, 10),
            "two/labels/b.txt": "0 0.5 0.5 1 1",
            "one/images/c.png": (10, 10),
            "lists/more.txt": "z.png\n../one/images/c.png\n",
            "lists/z.png": (10, 10),
            "data.yaml": "val: [two/images, lists/more.txt]\nnames: [part]",
        },
    )
    dataset = YoloSource(
        {"data": str(tmp_path / "data.yaml"), "split": "val", "classes": ["part"]}
    ).read()
    # A list keeps its order.
    assert names(dataset, tmp_path) == ["two/images/b.png", "lists/z.png", "one/images/c.png"]


@pytest.mark.parametrize("images", ["images", "train.txt"])
@pytest.mark.parametrize("labels", [None, "other"])
def test_without_data_yaml(tmp_path, images, labels):
    write_files(
        tmp_path,
        {
            "images/a.png": (10, 10),
            f"{labels or 'labels'}/a.txt": "1 0.5 0.5 1 1",
            "train.txt": "images/a.png",
        },
    )
    config = {"images": str(tmp_path / images), "classes": ["cat", "dog"]}
    if labels:
        config["labels"] = str(tmp_path / labels)
    assert objects(YoloWithoutData(config).read()) == [(1, "dog", 0, 0, 10, 10)]


def test_stated_classes_give_the_order(tmp_path):
    write_files(tmp_path, {**ONE_IMAGE, "data.yaml": DATA})
    config = {"data": str(tmp_path / "data.yaml"), "split": "train"}
    dataset = YoloSource({**config, "classes": ["dog", "cow", "cat"]}).read()
    assert [x["category_id"] for x in dataset.annotations] == [1]
    assert objects(dataset)[0][1] == "dog"
    with refused("data.yaml", "'cat'", "dog, cow", "'classes'"):
        YoloSource({**config, "classes": ["dog", "cow"]}).read()


def test_labels_without_image_and_images_without_objects_are_counted(tmp_path, caplog):
    caplog.set_level(logging.INFO, "asff")
    write_files(tmp_path, {**ONE_IMAGE, "images/b.png": (10, 10), "images/c.png": (10, 10)})
    write_files(tmp_path, {f"labels/{name}.txt": "0 0.5 0.5 1 1" for name in "de"})
    write_files(tmp_path, {"labels/c.txt": "\n", "labels/classes.txt": "cat\ndog"})
    write_files(tmp_path, {"list.txt": "images/a.png"})
    dataset = read_images(tmp_path / "images", "cat", "dog")
    assert len(dataset.images) == 3 and len(dataset.annotations) == 1
    found = "\n".join(caplog.messages)
    assert "2 of 3 images have no label file" in found
    assert f"2 label files have no image and are not used, as '{tmp_path}/labels/d.txt'." in found
    caplog.clear()
    read_images(tmp_path / "list.txt", "cat", "dog")  # a list may leave images out
    assert not caplog.messages


def test_unreadable_image_keeps_its_objects(tmp_path):
    """For those who check the data; training leaves it out."""
    write_files(
        tmp_path, {**ONE_IMAGE, "images/b.png": "no image", "labels/b.txt": "0 0.5 0.5 1 1"}
    )
    dataset = read_images(tmp_path / "images", "cat", "dog")
    assert [(x["width"], x["height"]) for x in dataset.images] == [(100, 200), (0, 0)]
    assert objects(dataset)[1] == (2, "cat", 0, 0, 0, 0)


@pytest.mark.parametrize(
    ("line", "box"),
    [
        ("0 0.5 0.25 1 0.5", (0.5, 0.25, 1, 0.5)),
        ("0\t5e-1  .25 1. 0.5  ", (0.5, 0.25, 1, 0.5)),
        # A triangle and a line of four points: the boxes around them.
        ("0 0.25 0.5 0.75 0.5 0.5 0.875", (0.5, 0.6875, 0.5, 0.375)),
        ("0 0.1 0.2 0.1 0.3 0.1 0.4 0.1 0.5", (0.1, 0.35, 0, 0.3)),
        # Reaching a little beyond the image stays as it is.
        ("0 0.99 0.5 0.25 1.01", (0.99, 0.5, 0.25, 1.01)),
        ("0 -0.01 0.5 0.25 0", (-0.01, 0.5, 0.25, 0)),
    ],
)
def test_lines(line, box):
    index, found = parse_label(line, "a.txt:1", 1)
    assert index == 0 and tuple(found) == pytest.approx(box)


@cases(
    ("line", "parts"),
    {
        "word": ("cat 0.5 0.5 1 1", ["'cat'", "whole number from 0 to 1"]),
        "too large": ("2 0.5 0.5 1 1", ["'2'", "from 0 to 1"]),
        "too few": ("0 0.5 0.5 1", ["3 values", "4 (", "3 or more points"]),
        "two points": ("0", ["0 values"]),
        "odd outline": ("0 .1 .2 .3 .4 .5 .6 .7", ["7 values"]),
        "no number": ("0 0.5 x 1 1", ["'x'", "from 0 to 1"]),
        "nan": ("0 nan 0.5 1 1", ["'nan'"]),
        "pixels": ("0 120 80 30 20", ["'120'", "Divide pixels"]),
        "beyond": ("0 0.5 0.5 1.6 1", ["'1.6'"]),
        "negative width": ("0 0.5 0.5 -0.1 1", ["-0.1 and 1", "negative"]),
        "outline in pixels": ("0 0 0 10 0 10 10", ["'10'", "Divide pixels"]),
    },
)
def test_bad_lines(tmp_path, line, parts):
    """The message starts with file and line, as editors can jump to it."""
    write_files(tmp_path, {**ONE_IMAGE, "labels/a.txt": f"0 0.5 0.5 1 1\n\n{line}\n"})
    with pytest.raises(ValueError) as error:
        read_images(tmp_path / "images", "cat", "dog")
    assert str(error.value).startswith(f"{tmp_path}/labels/a.txt:3: ")
    for part in parts:
        assert part in str(error.value)


@cases(
    ("data", "parts"),
    {
        "no YAML": ("names: [a\n", ["data.yaml is not valid YAML"]),
        "no mapping": ("- train\n", ["data.yaml holds no KEY: VALUE pairs"]),
        "no names": ("train: images", ["data.yaml: 'names' must list"]),
        "one name": ("train: images\nnames: part", ["'names' must list"]),
        "gap": ("train: images\nnames: {0: a, 2: b}", ["numbers 0, 2", "0 to 1"]),
        "nc": ("train: images\nnames: [a]\nnc: 2", ["'nc' is 2", "1 names"]),
        "no split": ("val: images\ntest:\nnames: [a, b]", ["split is 'train'", "there: val."]),
        "no folder": ("train: pics\nnames: [a, b]", ["train is 'pics'", "{root}/pics' does not"]),
        "no path": ("path: x\ntrain: images\nnames: [a, b]", ["'images'", "{root}/x/images'"]),
        "empty folder": ("train: labels\nnames: [a, b]", ["no images in {root}/labels"]),
    },
)
def test_bad_data_yaml(tmp_path, data, parts):
    write_files(tmp_path, {**ONE_IMAGE, "data.yaml": data})
    config = {"data": str(tmp_path / "data.yaml"), "split": "train"}
    with pytest.raises(ValueError) as error:
        YoloSource({**config, "classes": YoloSource(config).read_classes()}).read()
    for part in parts:
        assert part.format(root=tmp_path) in str(error.value)


def test_no_label_file_at_all(tmp_path):
    write_files(tmp_path, {"images/a.png": (10, 10), "images/b.png": (10, 10)})
    with refused("none of the 2 images", f"{tmp_path}/labels/a.txt", f"{tmp_path}/images/a.txt"):
        read_images(tmp_path / "images", "a")
