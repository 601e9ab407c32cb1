"""The cleaned copy of a dataset: what had to change is changed and counted, all else stays."""

from __future__ import annotations

import copy
import json
import math
import random

import pytest

from asff.data.datasets.file_status import FileStatus
from asff.data.datasets.inspection import inspect
from asff.data.datasets.repair import repair
from tests.data.datasets.contents import make_content, sound_files


def errors(content: dict, files: dict[str, FileStatus]) -> list[str]:
    """What is wrong with a dataset, but for notes."""
    return [kind.name for kind in inspect(content, files) if kind.severity != "note"]


def test_faultless_dataset_stays():
    content = make_content()
    content["annotations"][0].update(segmentation=[[0, 0, 60, 0, 60, 40]], area=1200.5, more=1)
    # Within a pixel of the border: not worth a change.
    content["annotations"][1]["bbox"] = [-0.5, 0, 61, 40.25]
    before = copy.deepcopy(content)
    cleaned, changes = repair(content, sound_files(content))
    assert cleaned == before and not changes


def test_the_given_content_stays():
    content = make_content()
    content["annotations"][0].update(bbox=[-9, 0, 60, 40], id=2)
    content["images"][0]["width"] = 1
    before = copy.deepcopy(content)
    cleaned, changes = repair(content, sound_files(content))
    assert content == before and cleaned != before


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"bbox": [1, 2, 0, 4]}, "boxes without area"),
        ({"bbox": [1, 2, math.nan, 4]}, "boxes that are not four finite numbers"),
        ({"bbox": None}, "boxes that are not four finite numbers"),
        ({"bbox": [60, 2, 3, 4]}, "boxes outside their image"),
        ({"category_id": 9}, "annotations of unknown categories"),
        ({"image_id": 99}, "annotations of unknown images"),
    ],
)
def test_what_cannot_be_used_is_dropped(change, name):
    content = make_content()
    content["annotations"][2].update(change)
    cleaned, changes = repair(content, sound_files(content))
    kept = [x for x in content["annotations"] if x["id"] != 3]
    assert cleaned == {**content, "annotations": kept}
    assert changes == {f"dropped {name}": 1}
    assert errors(cleaned, sound_files(cleaned)) == []


def test_boxes_outlive_segmentations_without_outline():
    content = make_content()
    content["annotations"][2]["segmentation"] = [[1, 1, 5, 5]]
    cleaned, changes = repair(content, sound_files(content))
    assert changes == {"removed segmentations without outline": 1}
    assert cleaned == make_content()


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
    content = make_content()
    content["annotations"][2].update(bbox=box, area=area)
    cleaned, changes = repair(content, sound_files(content))
    assert cleaned["annotations"][2] == {
        **content["annotations"][2],
        "bbox": clipped,
        "area": new_area,
    }
    assert cleaned["annotations"][3] == content["annotations"][3]
    assert changes == {"clipped boxes that reach beyond their image": 1}


def test_boxes_that_clipping_makes_equal_are_dropped():
    content = make_content()
    first = content["annotations"][2]
    content["annotations"] += [
        {**first, "id": 8, "bbox": [-5, -5, 70, 50]},  # the whole image, as the first
        {**first, "id": 9, "bbox": [1, 1, 5, 5]},
        {**first, "id": 7, "bbox": [1, 1, 5, 5]},
    ]
    cleaned, changes = repair(content, sound_files(content))
    assert [x["id"] for x in cleaned["annotations"]] == [1, 2, 3, 4, 9]
    assert changes == {
        "clipped boxes that reach beyond their image": 1,
        "dropped boxes that repeat another": 2,
    }


def test_new_ids_are_free_ones():
    content = make_content()
    for annotation, annotation_id in zip(content["annotations"], (5, 5, None, 9)):
        annotation["id"] = annotation_id
    cleaned, changes = repair(content, sound_files(content))
    assert [x["id"] for x in cleaned["annotations"]] == [5, 10, 11, 9]
    assert changes == {"renumbered annotations without an id of their own": 2}


def test_what_the_evaluation_needs_is_added():
    content = make_content()
    del content["annotations"][0]["area"], content["annotations"][0]["iscrowd"]
    content["annotations"][1]["iscrowd"] = 1
    cleaned, changes = repair(content, sound_files(content))
    assert cleaned == {
        **content,
        "annotations": [
            {**content["annotations"][0], "area": 2400, "iscrowd": 0},
            *content["annotations"][1:],
        ],
    }
    assert changes == {"completed annotations that lack 'area' or 'iscrowd'": 1}


def test_images_without_a_readable_file_go_with_their_annotations():
    content = make_content(images=4)
    files = sound_files(content)
    files["1.png"] = FileStatus("/images/1.png", missing=True)
    files["3.png"] = FileStatus("/images/3.png", damage="truncated")
    cleaned, changes = repair(content, files)
    assert [x["id"] for x in cleaned["images"]] == [10, 12]
    assert [x["id"] for x in cleaned["annotations"]] == [1, 2, 5, 6]
    assert changes == {
        "dropped images whose file does not exist": 1,
        "dropped images whose file cannot be read": 1,
        "dropped annotations of dropped images": 4,
    }


def test_sizes_become_those_of_the_files():
    content = make_content()
    content["images"][0].update(width=61, license=4)
    del content["images"][1]["height"]
    files = sound_files(content)
    files["1.png"] = FileStatus("/images/1.png", size=(30, 40))
    cleaned, changes = repair(content, files)
    assert cleaned["images"] == [
        {"id": 10, "file_name": "0.png", "width": 60, "height": 40, "license": 4},
        {"id": 11, "file_name": "1.png", "width": 30, "height": 40},
    ]
    # Boxes keep their place; what then lies beyond the image is cut.
    assert [x["bbox"] for x in cleaned["annotations"]] == [
        *([0, 0, 60, 40], [5.5, 6, 10, 4], [0, 0, 30, 40], [5.5, 6, 10, 4])
    ]
    assert changes == {
        "corrected images of another size than stated": 2,
        "clipped boxes that reach beyond their image": 1,
    }


def test_images_of_one_file_are_merged():
    content = make_content(images=3)
    files = sound_files(content)
    files["2.png"] = files["0.png"]
    content["annotations"][4]["bbox"] = [3, 3, 3, 3]  # the other box repeats one of the first image
    cleaned, changes = repair(content, files)
    assert cleaned["images"] == content["images"][:2]
    assert cleaned["annotations"] == [
        *content["annotations"][:4],
        {**content["annotations"][4], "image_id": 10},
    ]
    assert changes == {
        "merged images with the file of another": 1,
        "dropped boxes that repeat another": 1,
    }


def test_images_given_twice_are_kept_once():
    content = make_content()
    content["images"].append(dict(content["images"][0]))
    cleaned, changes = repair(content, sound_files(content))
    assert cleaned == make_content()
    assert changes == {"merged images with the file of another": 1}


def test_images_that_share_an_id_are_dropped():
    """To which of them a box belongs cannot be known, and wrong labels are worse than none."""
    content = make_content(images=3)
    content["images"][2]["id"] = 10
    cleaned, changes = repair(content, sound_files(content))
    assert [x["file_name"] for x in cleaned["images"]] == ["1.png"]
    assert [x["id"] for x in cleaned["annotations"]] == [3, 4]
    assert changes == {
        "dropped images with the id of another": 2,
        "dropped annotations of dropped images": 2,
        "dropped annotations of unknown images": 2,  # of the id that image 12 had
    }


def test_shared_categories_are_refused():
    content = make_content()
    content["categories"][1]["name"] = "cell"
    with pytest.raises(ValueError) as error:
        repair(content, sound_files(content))
    for part in ("cell (category 3), cell (category 7)", "rename or remove them by hand"):
        assert part in str(error.value)


def test_a_wrong_folder_is_refused():
    content = make_content()
    files = {name: FileStatus(name, missing=True) for name in sound_files(content)}
    with pytest.raises(ValueError, match="Of 2 images none would be left.*folder"):
        repair(content, files)


@pytest.mark.parametrize("seed", range(20))
def test_whatever_is_broken_the_copy_is_sound(seed):
    rng = random.Random(seed)
    content = make_content(images=12)
    files = sound_files(content)
    for name in rng.sample(sorted(files), 4):
        files[name] = rng.choice(
            [
                FileStatus(f"/images/{name}", missing=True),
                FileStatus(f"/images/{name}", damage="truncated"),
                FileStatus(f"/images/{name}", size=(rng.randrange(1, 80), rng.randrange(1, 80))),
                files["0.png"],
            ]
        )
    for image in rng.sample(content["images"], 3):
        image.update(rng.choice([{"id": 13}, {"width": 7}, {"height": None}]))
    for annotation in rng.sample(content["annotations"], 14):
        key = rng.choice(["id", "image_id", "category_id", "bbox", "area", "iscrowd"])
        box = [rng.choice([math.nan, -70, -9, 0, 12, 90, 5.5]) for _ in range(4)]
        annotation[key] = box if key == "bbox" else rng.choice([None, 0, 1, 3, 13])
    cleaned, changes = repair(content, files)
    assert errors(cleaned, files) == []
    # Cleaning leaves nothing to be cleaned.
    assert repair(cleaned, files) == (cleaned, {})
    # No label is lost without being counted.
    dropped = {k: n for k, n in changes.items() if k.startswith("dropped")}
    lost = sum(n for k, n in dropped.items() if not k.startswith("dropped images"))
    assert len(content["annotations"]) - len(cleaned["annotations"]) == lost
    assert json.loads(json.dumps(cleaned)) == cleaned
