from __future__ import annotations

import logging
from pathlib import Path

import pytest
from PIL import Image

from asff.data.datasets import CocoDataset
from asff.data.datasets.voc import VocSource
from tests.data.datasets.written import cases, refused, voc_xml, write_files

pytestmark = pytest.mark.usefixtures("own_data")


CAT = ("cat", (11, 21, 40, 60), 0)
DOG = ("dog", (1, 1, 1, 1), 1)


def read(root: Path, **keys) -> CocoDataset:
    return VocSource({"root": str(root), "classes": ["cat", "dog"], **keys}).read()


def read_classes(root: Path, **keys) -> list[str]:
    return VocSource({"root": str(root), **keys}).read_classes()


def names(dataset: CocoDataset, root: Path) -> list[str]:
    return [str(Path(image["file_name"]).relative_to(root)) for image in dataset.images]


@pytest.fixture
def vocdevkit(tmp_path):
    """Two images, in an order that only the split file has, and one of another split."""
    write_files(
        tmp_path,
        {
            "Annotations/1.xml": voc_xml([CAT, DOG], "1.jpg", (50, 80)),
            "Annotations/2.xml": voc_xml([], "2.jpg", (60, 70)),
            "Annotations/3.xml": voc_xml([("bird", (1, 1, 2, 2), 0)], "3.jpg", (60, 70)),
            "JPEGImages/1.jpg": (50, 80),
            "JPEGImages/2.jpg": (60, 70),
            "JPEGImages/3.jpg": (60, 70),
            "ImageSets/Main/trainval.txt": "2\n1\n",
            "ImageSets/Main/test.txt": "3\n",
        },
    )
    return tmp_path


def test_content(vocdevkit):
    dataset = read(vocdevkit, split="trainval")
    assert dataset.images == [
        {"id": 1, "file_name": f"{vocdevkit}/JPEGImages/2.jpg", "height": 70, "width": 60},
        {"id": 2, "file_name": f"{vocdevkit}/JPEGImages/1.jpg", "height": 80, "width": 50},
    ]
    assert dataset.categories == [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}]
    # The first pixel is 1, and the last one belongs to the box.
    first = {"bbox": [10, 20, 30, 40], "area": 1200, "category_id": 1, "iscrowd": 0}
    second = {"bbox": [0, 0, 1, 1], "area": 1, "category_id": 2, "iscrowd": 1}
    assert dataset.annotations == [
        {"id": 1, "image_id": 2, **first},
        {"id": 2, "image_id": 2, **second},
    ]


def test_classes_are_those_of_all_splits(vocdevkit):
    assert read_classes(vocdevkit, split="test") == ["bird", "cat", "dog"]


def test_stated_classes_give_the_order(vocdevkit):
    dataset = read(vocdevkit, split="trainval", classes=["dog", "cow", "cat"])
    assert [x["category_id"] for x in dataset.annotations] == [3, 1]
    with refused("3.xml", "'bird'", "cat, dog", "'classes'"):
        read(vocdevkit, split="test")


@cases(
    ("xml", "images", "keys"),
    {
        "labelImg": ("", "", {}),
        "nested": ("deep/", "deep/", {}),
        "own folders": ("xml/", "pics/", {"annotations": "xml", "images": "pics"}),
        "images beside": ("", "pics/", {"images": "pics"}),
        "without split": ("Annotations/", "JPEGImages/", {}),
        "nested VOC": ("Annotations/x/", "JPEGImages/x/", {}),
    },
)
def test_layouts(tmp_path, xml, images, keys):
    write_files(
        tmp_path,
        {
            f"{xml}b.xml": voc_xml([CAT], "b.png", (50, 80)),
            f"{xml}a.xml": voc_xml([DOG], "a.PNG", (50, 80)),
            f"{images}b.png": (50, 80),
            f"{images}a.PNG": (50, 80),
        },
    )
    dataset = read(tmp_path, **keys)
    assert names(dataset, tmp_path) == [f"{images}a.PNG", f"{images}b.png"]
    assert [x["category_id"] for x in dataset.annotations] == [2, 1]


@pytest.mark.parametrize(
    ("filename", "found"),
    [
        ("other.png", "other.png"),  # which is there
        ("renamed.png", "a.v1.Jpeg"),
        ("a.v1", "a.v1.Jpeg"),
        ("", "a.v1.Jpeg"),
        ("C:\\me\\a.png", "a.v1.Jpeg"),
        ("/elsewhere/other.png", "other.png"),
    ],
)
def test_image_by_filename_or_by_the_name_of_the_xml_file(tmp_path, filename, found):
    write_files(tmp_path, {"a.v1.Jpeg": (10, 20), "other.png": (30, 40)})
    write_files(tmp_path, {"a.v1.xml": voc_xml([], filename)})
    dataset = read(tmp_path)
    assert names(dataset, tmp_path) == [found]
    assert dataset.images[0]["width"] == (30 if found == "other.png" else 10)


@pytest.mark.parametrize("size", [None, (0, 0), (50, 0)])
def test_size_from_the_image_where_it_is_not_stated(tmp_path, size):
    write_files(tmp_path, {"a.png": (51, 81), "a.xml": voc_xml([CAT], "a.png", size)})
    (image,) = read(tmp_path).images
    assert (image["width"], image["height"]) == (51, 81)


def test_stated_size_opens_no_image(tmp_path, monkeypatch):
    write_files(tmp_path, {"a.png": (51, 81), "a.xml": voc_xml([CAT], "a.png", (50, 80))})
    monkeypatch.setattr(Image, "open", lambda path: pytest.fail(f"{path} was opened"))
    (image,) = read(tmp_path).images
    assert (image["width"], image["height"]) == (50, 80)


def test_missing_image_stays_in_the_dataset(tmp_path):
    """For those who check the data; where its size is not stated, training leaves it out."""
    write_files(tmp_path, {"a.xml": voc_xml([CAT], "a.png", (50, 80)), "b.xml": voc_xml([CAT])})
    dataset = read(tmp_path)
    assert names(dataset, tmp_path) == ["a.png", "b.jpg"]
    assert [x["width"] for x in dataset.images] == [50, 0]
    assert len(dataset.annotations) == 2


def test_images_without_xml_file_are_counted(tmp_path, caplog):
    caplog.set_level(logging.INFO, "asff")
    write_files(tmp_path, {"a.png": (50, 80), "b.png": (50, 80), "c.png": (50, 80)})
    write_files(tmp_path, {"a.xml": voc_xml([CAT], "a.png", (50, 80))})
    assert len(read(tmp_path).images) == 1
    assert caplog.messages == [f"{tmp_path}: 2 images have no XML file and are left out."]
    write_files(tmp_path, {"ImageSets/Main/train.txt": "a"})
    read(tmp_path, split="train")  # which leaves images out by itself
    assert len(caplog.messages) == 1


def test_values_that_other_programs_write(tmp_path):
    """Fractions of pixels, blanks, no <difficult>, and parts with boxes of their own."""
    xml = """<?xml version="1.0" encoding="utf-8"?>
    <annotation><object><name> cat </name><part><name>head</name>
    <bndbox><xmin>1</xmin><ymin>1</ymin><xmax>2</xmax><ymax>2</ymax></bndbox></part>
    <bndbox><xmin> 1.5 </xmin><ymin>2</ymin><xmax>3</xmax><ymax>4.25</ymax></bndbox></object>
    </annotation>"""
    write_files(tmp_path, {"a.png": (50, 80), "a.xml": xml})
    (annotation,) = read(tmp_path).annotations
    assert annotation["bbox"] == [0.5, 1, 2.5, 3.25] and annotation["iscrowd"] == 0


BOX = "<xmin>1</xmin><ymin>2</ymin><xmax>3</xmax><ymax>4</ymax>"


def one_object(inside: str) -> str:
    return f"<annotation><object>{inside}</object></annotation>"


def one_cat(box: str, more: str = "") -> str:
    return one_object(f"<name>cat</name>{more}<bndbox>{box}</bndbox>")


@cases(
    ("xml", "parts"),
    {
        "cut off": ("<annotation><object>", ["not valid XML", "line 1"]),
        "entity": (
            '<!DOCTYPE x [<!ENTITY a "cat">]><annotation><filename>&a;</filename></annotation>',
            ["declares XML entities", "remove its <!DOCTYPE>"],
        ),
        "other": ("<html></html>", ["<html>", "<annotation>"]),
        "size": (
            "<annotation><size><width>a</width><height>4</height></size></annotation>",
            ["<size> is a x 4", "whole numbers"],
        ),
        "no name": (one_object(f"<bndbox>{BOX}</bndbox>"), ["object 1 has no <name>"]),
        "no box": (one_object("<name>cat</name>"), ["object 1 ('cat') has no <bndbox><xmin>"]),
        "no side": (one_cat(BOX.replace("xmax", "max")), ["has no <bndbox><xmax>"]),
        "word": (one_cat(BOX.replace("3", "x")), ["<xmax> is 'x'", "a number"]),
        "reversed": (one_cat(BOX.replace("3", "0")), ["('cat')", "xmin 1,", "xmax 0,"]),
        "difficult": (
            one_cat(BOX, "<difficult>very</difficult>"),
            ["<difficult> is 'very'", "0 or 1"],
        ),
    },
)
def test_bad_xml(tmp_path, xml, parts):
    write_files(tmp_path, {"good.xml": voc_xml([CAT]), "z.xml": xml})
    for read_it in (read, read_classes):
        with refused(f"{tmp_path}/z.xml", *parts):
            read_it(tmp_path)


@pytest.mark.parametrize(
    ("split", "parts"),
    [
        ("train", ["split is 'train'", "ImageSets/Main/train.txt", "there: bad, test, trainval."]),
        ("1\n\n7\n", ["bad.txt:3: '7'", "Annotations/7.xml"]),
        ("1 -1\n", ["bad.txt:1: '1 -1'"]),
        ("\n", ["bad.txt is empty"]),
    ],
)
def test_bad_split(vocdevkit, split, parts):
    write_files(vocdevkit, {"ImageSets/Main/bad.txt": split})
    with refused(*parts):
        read(vocdevkit, split=split if split == "train" else "bad")


@pytest.mark.parametrize("key", ["annotations", "images"])
def test_stated_folder_is_missing(vocdevkit, key):
    with pytest.raises(ValueError, match=f"{key} is 'x', but there is no folder '{vocdevkit}/x'"):
        read(vocdevkit, **{key: "x"})


def test_no_xml_files_or_no_objects(tmp_path):
    with pytest.raises(ValueError, match=f"no XML file in '{tmp_path}'"):
        read(tmp_path)
    write_files(tmp_path, {"a.xml": voc_xml([])})
    with pytest.raises(ValueError, match="have no objects: state .* 'classes'"):
        read_classes(tmp_path)
