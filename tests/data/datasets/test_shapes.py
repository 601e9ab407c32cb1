import json
import os
from collections import Counter

import cv2
import numpy as np
import pytest
from pycocotools.coco import COCO

from asff.data.datasets import shapes
from tests.data.datasets.written import refused
from tests.data.rectangles import extent

SMALL = {"num_train": 3, "num_val": 2, "image_size": 96}


@pytest.fixture(scope="module")
def pictures():
    return [shapes.draw_image(3, "train", i) for i in range(120)]


def snapshot(root):
    """Relative path and content of all files but those that an interrupted write left apart."""
    files = [p for p in root.rglob("*") if p.is_file() and ".shapes.partial" not in p.parts]
    return {p.relative_to(root): p.read_bytes() for p in files}


def chi_square(table):
    """Of a (rows, columns) table of counts, against rows and columns being independent."""
    table = np.array(table, dtype=float)
    expected = table.sum(1, keepdims=True) * table.sum(0) / table.sum()
    return ((table - expected) ** 2 / expected).sum()


@pytest.mark.parametrize("index", range(8))
@pytest.mark.parametrize("size", [128, 256])
def test_boxes_are_tight_around_what_painting_an_object_changes(index, size):
    picture = shapes.draw_image(5, "val", index, size)
    count = len(picture.shapes)
    # The canvas with 0, 1, ... objects, from the same random numbers.
    canvases = [
        shapes._paint(np.random.default_rng(9), picture.shapes[:k], size) for k in range(count + 1)
    ]
    changed = [np.abs(b - a).max(axis=2) > 0 for a, b in zip(canvases, canvases[1:])]
    for k, annotation in enumerate(picture.annotations()):
        x, y, w, h = annotation["bbox"]
        box = np.array([x, y, x + w, y + h])
        later = np.any([np.zeros((size, size), bool), *changed[k + 1 :]], axis=0)
        # Painting changes all it covers in part; the object owns what it covers by half or more.
        touched = extent(changed[k], least=1)
        unhidden = np.pad((changed[k] & ~later).astype(np.uint8), 1)
        inner = extent(cv2.erode(unhidden, np.ones((3, 3)))[1:-1, 1:-1], least=1)
        assert np.all(box[:2] >= touched[:2]) and np.all(box[2:] <= touched[2:])
        assert np.all(box[:2] <= inner[:2]) and np.all(box[2:] >= inner[2:])
        if not np.any(changed[k] & later):
            # They differ by a pixel at an edge, by two at a sharp corner.
            np.testing.assert_allclose(box, touched, atol=2)


def test_annotations_by_a_slow_loop():
    picture = shapes.draw_image(0, "train", 7, 96)
    for k, annotation in enumerate(picture.annotations()):
        own = [(x, y) for y in range(96) for x in range(96) if picture.owner[y, x] == k]
        left, top = min(x for x, _ in own), min(y for _, y in own)
        right, bottom = max(x for x, _ in own), max(y for _, y in own)
        assert annotation["bbox"] == [left, top, right - left + 1, bottom - top + 1]
        assert annotation["area"] == len(own)


def test_same_again_but_never_in_both_splits():
    first, second = shapes.draw_image(1, "train", 6), shapes.draw_image(1, "train", 6)
    np.testing.assert_array_equal(first.image, second.image)
    np.testing.assert_array_equal(first.owner, second.owner)
    different = [
        shapes.draw_image(*key).image for key in [(1, "val", 6), (2, "train", 6), (1, "train", 7)]
    ]
    for other in different:
        # Unrelated pictures, not one with other noise.
        assert np.abs(first.image.astype(float) - other).mean() > 15


def test_every_picture_spans_tiny_to_large(pictures):
    for picture in pictures:
        sides = [np.ptp(shape.outline, axis=0).max() for shape in picture.shapes]
        assert 7 <= len(sides) <= 11
        assert min(sides) < 42 and max(sides) > 130
        assert sides == sorted(sides, reverse=True)


def test_all_area_ranges_have_plenty(pictures):
    areas = np.array([x["area"] for picture in pictures for x in picture.annotations()])
    small, large = np.mean(areas < 32**2), np.mean(areas >= 96**2)
    assert 0.4 < small < 0.7 and 0.05 < large < 0.3 and 1 - small - large > 0.2


def test_small_objects_lie_on_large_ones(pictures):
    inside = []
    for picture in pictures:
        boxes = [np.array(a["bbox"]) for a in picture.annotations()]
        for k, (x, y, w, h) in enumerate(boxes):
            if max(w, h) <= 42:
                center = np.array([x + w / 2, y + h / 2])
                inside.append(
                    any(
                        np.all((center > b[:2]) & (center < b[:2] + b[2:]))
                        for b in boxes[:k]
                        if b[2] * b[3] > 4 * w * h
                    )
                )
    assert np.mean(inside) > 0.5


def test_every_object_is_visible_and_none_hides_a_duplicate(pictures):
    for picture in pictures:
        size = len(picture.image)
        boxes = [s.outline for s in picture.shapes]
        for k, shape in enumerate(picture.shapes):
            # Pixel count from the polygon's area (shoelace), not from the drawing.
            x, y = shape.outline.T
            area = 0.5 * abs(np.dot(x, np.roll(y, 1)) - np.dot(y, np.roll(x, 1)))
            assert np.count_nonzero(picture.owner == k) > 0.57 * area - 4
            for other in boxes[:k]:
                low = np.maximum(shape.outline.min(0), other.min(0))
                high = np.minimum(shape.outline.max(0), other.max(0))
                overlap = np.prod(np.maximum(high - low, 0))
                union = np.prod(np.ptp(shape.outline, axis=0)) + np.prod(np.ptp(other, axis=0))
                assert overlap / (union - overlap) < 0.5
        assert picture.owner.shape == picture.image.shape[:2] == (size, size)


def test_classes_share_sizes_and_aspects():
    """Over layouts alone, which are quick: some 2000 objects show what a few hundred can't."""
    found = []
    for seed in range(400):
        layout, _ = shapes._sample_layout(np.random.default_rng(seed), 192)
        found += [(shape.category, *np.ptp(shape.outline, axis=0)) for shape in layout]
    category, width, height = np.array(found).T
    for value in (np.maximum(width, height), width / height):
        part = np.searchsorted(np.quantile(value, [0.2, 0.4, 0.6, 0.8]), value)
        table = np.zeros((4, 5))
        np.add.at(table, (category.astype(int), part), 1)
        assert table.sum(axis=1).min() > 0.22 * table.sum()
        # 12 degrees of freedom: 32.9 is exceeded once in 1000.
        assert chi_square(table) < 32.9


def test_classes_share_colors(pictures):
    table = np.zeros((4, 2, 3))
    for picture in pictures:
        for k, shape in enumerate(picture.shapes):
            color = picture.image[picture.owner == k].mean(axis=0)
            for channel in range(3):
                table[shape.category, int(color[channel] > 128), channel] += 1
    for channel in range(3):
        # 3 degrees of freedom: 16.3 is exceeded once in 1000.
        assert chi_square(table[..., channel]) < 16.3


def test_written_dataset_is_coco(tmp_path, capsys):
    root = tmp_path / "new" / "shapes"
    assert shapes.write_shapes_dataset(root, **SMALL, seed=4) is True
    names = set()
    for split, count in (("train", 3), ("val", 2)):
        coco = COCO(str(root / f"{split}.json"))
        assert {"info", "images", "annotations", "categories"} <= set(coco.dataset)
        assert [c["name"] for c in coco.loadCats(coco.getCatIds())] == list(shapes.CLASS_NAMES)
        assert len(coco.imgs) == count
        assert min(coco.anns) == 1  # pycocotools takes the id 0 for unmatched
        for image in coco.imgs.values():
            names.add(image["file_name"])
            pixels = cv2.imread(str(root / "images" / image["file_name"]))
            assert pixels.shape == (image["height"], image["width"], 3) == (96, 96, 3)
            drawn = shapes.draw_image(4, split, image["id"] - 1, 96)
            assert np.abs(pixels - drawn.image.astype(float)).mean() < 8  # JPEG
            found = coco.loadAnns(coco.getAnnIds(image["id"]))
            keys = ("bbox", "area", "category_id", "iscrowd")
            assert [{k: a[k] for k in keys} for a in found] == drawn.annotations()
    assert {p.name for p in (root / "images").iterdir()} == names
    visible = [p.name for p in root.iterdir() if not p.name.startswith(".")]
    assert sorted(visible) == ["images", "shapes.json", "train.json", "val.json"]


def test_second_call_does_nothing_and_other_settings_write_anew(tmp_path):
    assert shapes.write_shapes_dataset(tmp_path, **SMALL)
    first = snapshot(tmp_path)
    assert not shapes.write_shapes_dataset(str(tmp_path), **SMALL)
    assert snapshot(tmp_path) == first

    assert shapes.write_shapes_dataset(tmp_path, **{**SMALL, "num_train": 2})
    second = snapshot(tmp_path)
    # A picture doesn't depend on how many there are, and none of the former is left over.
    pictures = {path for path in first if path.suffix == ".jpg"}
    kept = {path for path in second if path.suffix == ".jpg"}
    assert len(kept) == 4 and kept < pictures and all(first[p] == second[p] for p in kept)

    (tmp_path / "images" / "val_000001.jpg").unlink()
    assert shapes.write_shapes_dataset(tmp_path, **{**SMALL, "num_train": 2})
    assert snapshot(tmp_path) == second


def interrupt_at(monkeypatch, owner, name, call):
    """Let call number ``call`` of ``owner.name`` stop the program, as Ctrl-C would."""
    original = getattr(owner, name)
    calls = Counter()

    def stop(*args, **kwargs):
        calls["made"] += 1
        if calls["made"] == call:
            raise KeyboardInterrupt
        return original(*args, **kwargs)

    monkeypatch.setattr(owner, name, stop)


@pytest.mark.parametrize("then", ["new", "old"])
@pytest.mark.parametrize(
    ("name", "call"),
    [("write_bytes", 3), ("write_text", 2), ("replace", 1), ("replace", 3), ("replace", 4)],
)
def test_interrupted_write_never_looks_complete(tmp_path, monkeypatch, name, call, then):
    """Interrupted while it wrote "new" over "old": whichever is asked for next comes out whole."""
    settings = {"old": {**SMALL, "seed": 9}, "new": SMALL}
    root, complete = tmp_path / "root", tmp_path / "complete"
    shapes.write_shapes_dataset(root, **settings["old"])
    shapes.write_shapes_dataset(complete, **settings[then])
    with monkeypatch.context() as patch:
        interrupt_at(patch, shapes.Path, name, call)
        with pytest.raises(KeyboardInterrupt):
            shapes.write_shapes_dataset(root, **settings["new"])
    shapes.write_shapes_dataset(root, **settings[then])
    assert snapshot(root) == snapshot(complete)


def test_leaves_the_data_of_others_alone(tmp_path):
    (tmp_path / "train.json").write_text("mine")
    with pytest.raises(FileExistsError, match=r"train\.json.*folder as root"):
        shapes.write_shapes_dataset(tmp_path, **SMALL)
    assert (tmp_path / "train.json").read_text() == "mine"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_two_processes_write_once(tmp_path):
    children = []
    for _ in range(2):
        pid = os.fork()
        if pid == 0:
            code = 2
            try:
                code = int(shapes.write_shapes_dataset(tmp_path, **SMALL))
            finally:
                os._exit(code)
        children.append(pid)
    codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children]
    assert sorted(codes) == [0, 1]
    assert len(json.loads((tmp_path / "train.json").read_text())["images"]) == 3


@pytest.mark.parametrize(
    ("name", "value", "least"),
    [
        ("num_train", 0, 1),
        ("num_val", -2, 1),
        ("image_size", 64, 96),
        ("image_size", 256.0, 96),
        ("seed", -1, 0),
        ("seed", "7", 0),
    ],
)
def test_bad_arguments(tmp_path, name, value, least):
    with refused(name, repr(value), f"at least {least}"):
        shapes.write_shapes_dataset(tmp_path / "root", **{**SMALL, name: value})
    assert not (tmp_path / "root").exists()
