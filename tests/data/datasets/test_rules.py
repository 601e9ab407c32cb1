from __future__ import annotations

import copy
import json
import math
import random
from dataclasses import replace

import pytest

from asff.data.datasets import CocoDataset, repair, usable_annotations
from asff.data.datasets.image_files import ImageFile
from asff.data.datasets.inspection import inspect
from tests.data.datasets.small import make_dataset, sound_files

Files = dict[str, ImageFile]


def examples(dataset: CocoDataset, files: Files | None = None) -> dict[str, list[str]]:
    """The examples by rule, each of which is one of all that was found."""
    findings = inspect(dataset, sound_files(dataset) if files is None else files)
    assert all(len(x.examples) == min(x.count, 3) for x in findings.values())
    return {name: finding.examples for name, finding in findings.items()}


def errors(dataset: CocoDataset, files: Files) -> list[str]:
    return [name for name, x in inspect(dataset, files).items() if x.rule.severity != "note"]


def test_faultless_dataset():
    dataset = make_dataset()
    dataset.annotations[0].update(segmentation=[[0, 0, 60, 0, 60, 40]], area=1200.5, more=1)
    # Within a pixel of the border: not worth a change.
    dataset.annotations[1]["bbox"] = [-0.5, 0, 61, 40.25]
    before, files = copy.deepcopy(dataset), sound_files(dataset)
    assert inspect(dataset, files) == {}
    assert usable_annotations(dataset, files) == (dataset.annotations, {10: (60, 40), 11: (60, 40)})
    cleaned, changes = repair(dataset, files)
    assert cleaned == before and not changes
    empty = CocoDataset([], [], [])
    assert inspect(empty, {}) == {} and usable_annotations(empty, {}) == ([], {})


# Annotations


@pytest.mark.parametrize(
    ("box", "rule"),
    [
        (None, "invalid_box"),
        ([1, 2, 3], "invalid_box"),
        ("1, 2, 3, 4", "invalid_box"),
        ([1, 2, "3", 4], "invalid_box"),
        ([1, 2, math.nan, 4], "invalid_box"),
        ([math.inf, 2, 3, 4], "invalid_box"),
        ([1, 2, 0, 4], "degenerate_box"),
        ([1, 2, 3, -4], "degenerate_box"),
        ([60, 2, 3, 4], "outside_image"),
        ([2, 40, 3, 4], "outside_image"),
        ([-3, 2, 3, 4], "outside_image"),
        ([2, -4, 3, 4], "outside_image"),
        ([-1.5, 2, 3, 4], "beyond_image"),
        ([2, -1.5, 3, 4], "beyond_image"),
        ([57, 2, 4.5, 4], "beyond_image"),
        ([2, 37, 3, 4.5], "beyond_image"),
        # Up to a pixel is rounding.
        ([-1, -1, 62, 42], None),
        ([59.5, 39.5, 0.1, 0.1], None),
    ],
)
def test_boxes(box, rule):
    dataset = make_dataset(images=1)
    dataset.annotations[0]["bbox"] = box
    files = sound_files(dataset)
    place = " in 60 x 40" if rule in ("outside_image", "beyond_image") else ""
    found = {rule: [f"0.png: annotation 1, box {box}{place}"]} if rule else {}
    assert examples(dataset) == found
    kept = rule in (None, "beyond_image")
    assert len(usable_annotations(dataset, files)[0]) == (2 if kept else 1)
    cleaned, changes = repair(dataset, files)
    assert sum(changes.values()) == len(found) and errors(cleaned, files) == []
    assert len(cleaned.annotations) == (2 if kept else 1)


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        # Of several faults the first counts.
        ({"category_id": 9, "bbox": [0, 0, 0, 0]}, "unknown_category"),
        ({"image_id": "x"}, "unknown_image"),
    ],
)
def test_what_cannot_be_used_is_dropped(change, rule):
    dataset = make_dataset()
    dataset.annotations[2].update(change)
    files = sound_files(dataset)
    assert list(examples(dataset)) == [rule]
    kept = [x for x in dataset.annotations if x["id"] != 3]
    assert usable_annotations(dataset, files)[0] == kept
    cleaned, changes = repair(dataset, files)
    assert cleaned == replace(dataset, annotations=kept)
    assert sum(changes.values()) == 1


@pytest.mark.parametrize(
    ("box", "area", "clipped", "new_area"),
    [
        ([-9, -5, 20, 20], 400, [0, 0, 11, 15], 165),
        ([50, 30, 20, 20], 400, [50, 30, 10, 10], 100),
        # The area of a mask that lies inside the image is right already.
        ([50, 30, 20, 20], 64.5, [50, 30, 10, 10], 64.5),
        ([-2, 10, 100, 5], 500, [0, 10, 60, 5], 300),
    ],
)
def test_boxes_are_clipped(box, area, clipped, new_area):
    dataset = make_dataset()
    dataset.annotations[2].update(bbox=box, area=area)
    cleaned, changes = repair(dataset, sound_files(dataset))
    expected = {**dataset.annotations[2], "bbox": clipped, "area": new_area}
    assert cleaned.annotations == [*dataset.annotations[:2], expected, dataset.annotations[3]]
    assert changes == {"clipped boxes that reach beyond their image": 1}


def test_repeated_boxes():
    dataset = make_dataset()
    copies = [{**dataset.annotations[0], "id": 90 + i} for i in range(2)]
    other_class = {**copies[0], "id": 92, "category_id": 7}
    other_image = {**copies[0], "id": 93, "image_id": 11, "bbox": [1, 1, 2, 2]}
    dataset.annotations.extend([*copies, other_class, other_image])
    files = sound_files(dataset)
    assert examples(dataset) == {
        "repeated_box": [f"0.png: annotation {i}, box [0, 0, 60, 40]" for i in (90, 91)]
    }
    assert len(usable_annotations(dataset, files)[0]) == 8
    # Clipping makes this one equal to another, too.
    dataset.annotations.append({**copies[0], "id": 94, "bbox": [-5, -5, 70, 50]})
    cleaned, changes = repair(dataset, files)
    assert [x["id"] for x in cleaned.annotations] == [1, 2, 3, 4, 92, 93]
    assert list(changes.values()) == [1, 3]  # clipped, dropped


def test_ids_of_annotations():
    dataset = make_dataset()
    for annotation, annotation_id in zip(dataset.annotations, (5, 5, None, 9)):
        annotation["id"] = annotation_id
    assert examples(dataset) == {
        "repeated_id": [
            "0.png: annotation 5, box [5.5, 6, 10, 4]",
            "1.png: annotation None, box [0, 0, 60, 40]",
        ]
    }
    cleaned, changes = repair(dataset, sound_files(dataset))
    assert [x["id"] for x in cleaned.annotations] == [5, 10, 11, 9]
    assert changes == {"renumbered annotations without an id of their own": 2}


@pytest.mark.parametrize(
    ("key", "value", "fixed"),
    [
        ("area", "none", 2400),
        ("area", None, 2400),
        ("area", math.nan, 2400),
        ("iscrowd", "none", 0),
        ("iscrowd", None, 0),
        ("iscrowd", 2, 0),
    ],
)
def test_what_the_evaluation_needs(key, value, fixed):
    dataset = make_dataset()
    dataset.annotations[2][key] = value
    if value == "none":
        del dataset.annotations[2][key]
    (example,) = examples(dataset)["incomplete"]
    assert example.startswith("1.png: annotation 3, area ")
    cleaned, changes = repair(dataset, sound_files(dataset))
    expected = make_dataset().annotations
    expected[2][key] = fixed
    assert cleaned.annotations == expected
    assert changes == {"completed annotations that lack 'area' or 'iscrowd'": 1}


@pytest.mark.parametrize(
    ("segmentation", "count"),
    [
        ([[1, 1, 5, 5]], 1),  # two points
        ([[1, 1, 5, 5, 7]], 1),
        ([[1, 1, 5, 5], [1, 1, 5, 1, 5, 5]], 0),
        ([], 0),  # none at all
        ({"size": [9, 9], "counts": "x"}, 0),
    ],
)
def test_segmentations_that_detectron2_drops_with_their_boxes(segmentation, count):
    dataset = make_dataset()
    dataset.annotations[3]["segmentation"] = segmentation
    assert len(examples(dataset).get("no_outline", [])) == count
    cleaned, changes = repair(dataset, sound_files(dataset))
    assert sum(changes.values()) == count
    assert cleaned == (make_dataset() if count else dataset)


# Images and categories


def test_missing_and_unreadable_files_go_with_their_annotations():
    dataset = make_dataset(images=4)
    files = sound_files(dataset)
    files["1.png"] = ImageFile("/images/1.png", missing=True)
    files["3.png"] = ImageFile("/images/3.png", damage="truncated")
    assert examples(dataset, files) == {
        "missing_file": ["1.png (image 11): /images/1.png"],
        "unreadable_file": ["3.png (image 13): truncated"],
    }
    cleaned, changes = repair(dataset, files)
    assert [x["id"] for x in cleaned.images] == [10, 12]
    assert [x["id"] for x in cleaned.annotations] == [1, 2, 5, 6]
    assert list(changes.values()) == [1, 1, 4]  # missing, unreadable, their annotations


def test_sizes_become_those_of_the_files():
    dataset = make_dataset()
    dataset.images[0].update(width=61, license=4)
    del dataset.images[1]["height"]
    files = sound_files(dataset)
    files["1.png"] = ImageFile("/images/1.png", size=(30, 40))
    assert examples(dataset, files) == {
        "wrong_size": [
            "0.png (image 10): stated 61 x 40, the file has 60 x 40",
            "1.png (image 11): stated 60 x None, the file has 30 x 40",
        ],
        # Boxes are compared with the file.
        "beyond_image": ["1.png: annotation 3, box [0, 0, 60, 40] in 30 x 40"],
    }
    cleaned, changes = repair(dataset, files)
    assert cleaned.images == [
        {"id": 10, "file_name": "0.png", "width": 60, "height": 40, "license": 4},
        {"id": 11, "file_name": "1.png", "width": 30, "height": 40},
    ]
    assert [x["bbox"] for x in cleaned.annotations] == [
        *([0, 0, 60, 40], [5.5, 6, 10, 4], [0, 0, 30, 40], [5.5, 6, 10, 4])
    ]
    assert list(changes.values()) == [2, 1]  # corrected, clipped


@pytest.mark.parametrize("size", [(None, 40), (0, 0), ("60", 40)])
def test_invalid_sizes(size):
    dataset = make_dataset(images=1)
    dataset.images[0].update(width=size[0], height=size[1])
    unopened = {"0.png": ImageFile("/images/0.png")}
    assert examples(dataset, unopened) == {
        "wrong_size": [f"0.png (image 10): stated {size[0]} x {size[1]}, not a size"]
    }
    assert usable_annotations(dataset, unopened) == ([], {})
    assert list(examples(dataset)) == ["wrong_size"]
    assert len(usable_annotations(dataset, sound_files(dataset))[0]) == 2


def test_images_that_share_an_id_are_dropped():
    """To which of them a box belongs cannot be known, and wrong labels are worse than none."""
    dataset = make_dataset(images=3)
    dataset.images[2]["id"] = 10
    assert examples(dataset)["shared_image_id"] == ["2.png (image 10): also 0.png"]
    cleaned, changes = repair(dataset, sound_files(dataset))
    assert [x["file_name"] for x in cleaned.images] == ["1.png"]
    assert [x["id"] for x in cleaned.annotations] == [3, 4]
    # Images, their annotations, and those of the id that image 12 had.
    assert list(changes.values()) == [2, 2, 2]


def test_images_of_one_file_are_merged():
    dataset = make_dataset(images=3)
    files = sound_files(dataset)
    files["2.png"] = files["0.png"]  # as "./0.png" would be
    dataset.annotations[4]["bbox"] = [3, 3, 3, 3]  # the other box repeats one of the first image
    assert examples(dataset, files) == {"shared_file": ["2.png (image 12): also image 10"]}
    cleaned, changes = repair(dataset, files)
    assert cleaned.images == dataset.images[:2]
    assert cleaned.annotations == [
        *dataset.annotations[:4],
        {**dataset.annotations[4], "image_id": 10},
    ]
    assert list(changes.values()) == [1, 1]  # merged, dropped


def test_images_given_twice_are_kept_once():
    dataset = make_dataset()
    dataset.images.append(dict(dataset.images[0]))
    assert examples(dataset) == {"shared_image_id": ["0.png (image 10): also 0.png"]}
    cleaned, changes = repair(dataset, sound_files(dataset))
    assert cleaned == make_dataset()
    assert changes == {"merged images with the id of another": 1}


@pytest.mark.parametrize("key", ["id", "name"])
def test_shared_categories_are_refused(key):
    dataset = make_dataset()
    dataset.categories.append({"id": 8, "name": "dirt", key: dataset.categories[0][key]})
    found = examples(dataset)["shared_category"]
    assert len(found) == 2 and found[0] == "cell (category 3)"
    with pytest.raises(ValueError, match=r"cell \(category 3\) shares .* rename or remove"):
        repair(dataset, sound_files(dataset))


def test_a_wrong_folder_is_refused():
    dataset = make_dataset()
    files = {name: ImageFile(name, missing=True) for name in sound_files(dataset)}
    with pytest.raises(ValueError, match=r"Of 2 images none would be left.*folder"):
        repair(dataset, files)


def test_notes():
    dataset = make_dataset(images=3)
    del dataset.annotations[4:], dataset.annotations[1::2]  # boxes of one class, in two images
    dataset.annotations[1]["iscrowd"] = 1
    assert examples(dataset) == {
        "empty_class": ["dust (category 7)"],
        "empty_image": ["2.png (image 12)"],
        "crowd_box": ["1.png: annotation 3, box [0, 0, 60, 40]"],
    }
    assert errors(dataset, sound_files(dataset)) == []
    assert usable_annotations(dataset, sound_files(dataset))[0] == dataset.annotations[:1]


@pytest.mark.parametrize("seed", range(20))
def test_whatever_is_broken_the_copy_is_sound(seed):
    rng = random.Random(seed)
    dataset = make_dataset(images=12)
    files = sound_files(dataset)
    for name in rng.sample(sorted(files), 4):
        files[name] = rng.choice(
            [
                ImageFile(f"/images/{name}", missing=True),
                ImageFile(f"/images/{name}", damage="truncated"),
                ImageFile(f"/images/{name}", size=(rng.randrange(1, 80), rng.randrange(1, 80))),
                files["0.png"],
            ]
        )
    for image in rng.sample(dataset.images, 3):
        image.update(rng.choice([{"id": 13}, {"width": 7}, {"height": None}]))
    for annotation in rng.sample(dataset.annotations, 14):
        key = rng.choice(["id", "image_id", "category_id", "bbox", "area", "iscrowd"])
        box = [rng.choice([math.nan, -70, -9, 0, 12, 90, 5.5]) for _ in range(4)]
        annotation[key] = box if key == "bbox" else rng.choice([None, 0, 1, 3, 13])
    before = copy.deepcopy(dataset)
    cleaned, changes = repair(dataset, files)
    assert repr(dataset) == repr(before)  # nan differs from itself
    assert errors(cleaned, files) == []
    # Repairing leaves nothing to be repaired.
    assert repair(cleaned, files) == (cleaned, {})
    # No label is lost without being counted.
    dropped = {k: n for k, n in changes.items() if k.startswith("dropped")}
    lost = sum(n for k, n in dropped.items() if not k.startswith("dropped images"))
    assert len(dataset.annotations) - len(cleaned.annotations) == lost
    assert json.loads(json.dumps(cleaned.annotations)) == cleaned.annotations
