"""The check of a dataset: each fault is found, counted and shown, and nothing else."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path

import pytest
from PIL import Image

from asff.data.datasets.file_status import FileStatus, examine_files, missing_files, shared_files
from asff.data.datasets.inspection import Finding, Kind, inspect, usable_annotations
from tests.data.datasets.contents import HEIGHT, WIDTH, make_content, sound_files, write_image

BCCD = Path(__file__).resolve().parents[3].parent / "shared" / "data" / "bccd"


def counts(content: dict, files: dict[str, FileStatus] | None = None) -> dict[str, int]:
    findings = inspect(content, sound_files(content) if files is None else files)
    return {kind.name: finding.count for kind, finding in findings.items()}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The image files of ``make_content``."""
    for i in range(2):
        write_image(tmp_path / f"{i}.png")
    return tmp_path


def test_faultless_dataset(folder):
    content = make_content()
    files = examine_files(content, str(folder), opened=True)
    assert files == {
        "0.png": FileStatus(str(folder / "0.png"), size=(WIDTH, HEIGHT)),
        "1.png": FileStatus(str(folder / "1.png"), size=(WIDTH, HEIGHT)),
    }
    assert inspect(content, files) == {}
    assert usable_annotations(content, files) == content["annotations"]


def test_missing_and_damaged_files(folder):
    content = make_content(images=5)
    (folder / "2.png").write_bytes((folder / "0.png").read_bytes()[:-100])
    (folder / "3.png").write_text("no image")
    files = examine_files(content, str(folder), opened=True)
    found = inspect(content, files)
    assert {kind: x.count for kind, x in found.items()} == {Kind.MISSING: 1, Kind.UNREADABLE: 2}
    assert found[Kind.MISSING].examples == [f"4.png (image 14): {folder / '4.png'}"]
    for example, name in zip(found[Kind.UNREADABLE].examples, ("2.png (image 12)", "3.png")):
        assert example.startswith(name) and str(folder) not in example
    # Unopened, damage is not seen.
    assert counts(content, examine_files(content, str(folder), opened=False)) == {"MISSING": 1}


def test_file_names_may_be_absolute_or_go_through_folders(folder, tmp_path):
    content = make_content(images=2)
    content["images"][0]["file_name"] = str(folder / "0.png")
    content["images"][1]["file_name"] = "below/../1.png"
    files = examine_files(content, str(folder), opened=True)
    assert [file.path for file in files.values()] == [str(folder / f"{i}.png") for i in range(2)]
    assert inspect(content, files) == {}


def test_missing_folder(tmp_path):
    here = str(tmp_path / "here.png")
    Path(here).touch()
    gone = str(tmp_path / "gone" / "here.png")
    assert missing_files([here, gone, here]) == {gone}
    assert missing_files([]) == set()


def test_relative_paths_are_looked_for_here(tmp_path, monkeypatch):
    (tmp_path / "here.png").touch()
    monkeypatch.chdir(tmp_path)
    assert missing_files(["here.png", "gone.png"]) == {"gone.png"}


def test_turned_photographs_count_upright(tmp_path):
    """EXIF orientation 6: 60 x 40 pixels in the file are shown 40 wide and 60 high."""
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (60, 40)).save(tmp_path / "0.jpg", exif=exif)
    content = make_content(images=1)
    content["images"][0]["file_name"] = "0.jpg"
    files = examine_files(content, str(tmp_path), opened=True)
    assert files["0.jpg"].size == (40, 60)
    found = inspect(content, files)
    assert found[Kind.WRONG_SIZE].examples == [
        "0.jpg (image 10): stated 60 x 40, the file has 40 x 60"
    ]
    # Boxes are held against the file: the one of 60 x 40 leaves it by 20 pixels.
    assert found[Kind.BEYOND].examples == [
        "0.jpg: annotation 1, box [0, 0, 60, 40] in 40 x 60",
    ]
    content["images"][0].update(width=40, height=60)
    content["annotations"][0]["bbox"] = [0, 0, 40, 60]
    assert inspect(content, files) == {}


@pytest.mark.parametrize("size", [(None, 40), (0, 0), ("60", 40)])
def test_sizes_that_are_none(size):
    content = make_content(images=1)
    content["images"][0].update(width=size[0], height=size[1])
    unopened = {"0.png": FileStatus("/images/0.png")}
    found = inspect(content, unopened)
    assert list(found) == [Kind.WRONG_SIZE]
    assert found[Kind.WRONG_SIZE].examples == [
        f"0.png (image 10): stated {size[0]} x {size[1]}, no size"
    ]
    assert usable_annotations(content, unopened) == []
    assert counts(content) == {"WRONG_SIZE": 1}
    assert len(usable_annotations(content, sound_files(content))) == 2


@pytest.mark.parametrize(
    ("box", "kind"),
    [
        (None, Kind.NO_BOX),
        ([], Kind.NO_BOX),
        ([1, 2, 3], Kind.NO_BOX),
        ([1, 2, 3, 4, 5], Kind.NO_BOX),
        ("1, 2, 3, 4", Kind.NO_BOX),
        ([1, 2, "3", 4], Kind.NO_BOX),
        ([1, 2, math.nan, 4], Kind.NO_BOX),
        ([math.inf, 2, 3, 4], Kind.NO_BOX),
        ([1, 2, 0, 4], Kind.NO_AREA),
        ([1, 2, 3, -4], Kind.NO_AREA),
        ([60, 2, 3, 4], Kind.OUTSIDE),
        ([2, 40, 3, 4], Kind.OUTSIDE),
        ([-3, 2, 3, 4], Kind.OUTSIDE),
        ([2, -4, 3, 4], Kind.OUTSIDE),
        ([-1.5, 2, 3, 4], Kind.BEYOND),
        ([2, -1.5, 3, 4], Kind.BEYOND),
        ([57, 2, 4.5, 4], Kind.BEYOND),
        ([2, 37, 3, 4.5], Kind.BEYOND),
        # Up to a pixel is rounding.
        ([-1, -1, 62, 42], None),
        ([59.5, 39.5, 0.1, 0.1], None),
    ],
)
def test_boxes(box, kind):
    content = make_content(images=1)
    content["annotations"][0]["bbox"] = box
    found = inspect(content, sound_files(content))
    assert list(found) == ([] if kind is None else [kind])
    if kind is not None:
        assert found[kind].count == 1
        assert found[kind].examples[0].startswith(f"0.png: annotation 1, box {box}")
    usable = usable_annotations(content, sound_files(content))
    assert len(usable) == (2 if kind in (None, Kind.BEYOND) else 1)


def test_unknown_images_and_categories():
    content = make_content()
    content["annotations"][0].update(image_id="x")
    content["annotations"][1].update(category_id=9, bbox=[0, 0, 0, 0])
    found = inspect(content, sound_files(content))
    # Of several faults of an annotation the first counts.
    assert {kind: x.examples for kind, x in found.items()} == {
        Kind.UNKNOWN_IMAGE: ["image 'x': annotation 1, box [0, 0, 60, 40]"],
        Kind.UNKNOWN_CATEGORY: ["0.png: annotation 2, category 9"],
    }
    assert len(usable_annotations(content, sound_files(content))) == 2


def test_repeated_ids():
    content = make_content(images=3)
    content["images"][1]["id"] = 10
    content["annotations"][2]["image_id"] = content["annotations"][3]["image_id"] = 12
    content["annotations"][2]["bbox"] = content["annotations"][3]["bbox"] = [1, 1, 2, 2]
    content["annotations"][1]["id"] = 1
    del content["annotations"][2]["id"]
    found = inspect(content, sound_files(content))
    assert {kind: x.examples for kind, x in found.items()} == {
        Kind.IMAGE_ID: ["1.png (image 10): also 0.png"],
        Kind.ANNOTATION_ID: [
            "1.png: annotation 1, box [5.5, 6, 10, 4]",
            "2.png: annotation None, box [1, 1, 2, 2]",
        ],
    }


def test_one_file_of_two_images():
    content = make_content(images=3)
    files = sound_files(content)
    files["2.png"] = files["0.png"]  # as "./0.png" would be
    found = inspect(content, files)
    assert {kind: x.examples for kind, x in found.items()} == {
        Kind.SAME_FILE: ["2.png (image 12): also image 10"]
    }


@pytest.mark.parametrize("key", ["id", "name"])
def test_repeated_categories(key):
    content = make_content()
    content["categories"].append({**content["categories"][0], "id": 8, "name": "dirt"})
    content["categories"][2][key] = content["categories"][0][key]
    found = inspect(content, sound_files(content))
    examples = found[Kind.CATEGORY].examples
    assert len(examples) == 2 and examples[0] == "cell (category 3)"


@pytest.mark.parametrize(
    "change", [{"area": None}, {"area": math.nan}, {"iscrowd": None}, {"iscrowd": 2}]
)
def test_what_the_evaluation_needs(change):
    content = make_content()
    content["annotations"][3].update(change)
    found = inspect(content, sound_files(content))
    assert Kind.INCOMPLETE in found and found[Kind.INCOMPLETE].count == 1
    (key, value), *_ = change.items()
    assert (
        f"1.png: annotation 4, area {content['annotations'][3]['area']}"
        in (found[Kind.INCOMPLETE].examples[0])
    )
    del content["annotations"][3][key]
    assert inspect(content, sound_files(content))[Kind.INCOMPLETE].count == 1


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
    content = make_content()
    content["annotations"][3]["segmentation"] = segmentation
    found = inspect(content, sound_files(content))
    assert found.get(Kind.NO_OUTLINE, Finding()).count == count


def test_repeated_boxes():
    content = make_content()
    copies = [{**content["annotations"][0], "id": 90 + i} for i in range(2)]
    other_class = {**copies[0], "id": 92, "category_id": 7}
    other_image = {**copies[0], "id": 93, "image_id": 11, "bbox": [1, 1, 2, 2]}
    content["annotations"] += [*copies, other_class, other_image]
    found = inspect(content, sound_files(content))
    assert {kind: x.examples for kind, x in found.items()} == {
        Kind.SAME_BOX: [f"0.png: annotation {i}, box [0, 0, 60, 40]" for i in (90, 91)]
    }


def test_notes():
    content = make_content(images=3)
    content["annotations"] = content["annotations"][:4:2]  # boxes of one class, in two images
    content["annotations"][1]["iscrowd"] = 1
    found = inspect(content, sound_files(content))
    assert {kind: x.examples for kind, x in found.items()} == {
        Kind.CROWD: ["1.png: annotation 3, box [0, 0, 60, 40]"],
        Kind.EMPTY_IMAGE: ["2.png (image 12)"],
        Kind.EMPTY_CLASS: ["dust (category 7)"],
    }
    assert {kind.severity for kind in found} == {"note"}
    assert usable_annotations(content, sound_files(content)) == content["annotations"][:1]


def test_examples_are_few_but_all_are_counted():
    content = make_content(images=30)
    for annotation in content["annotations"]:
        annotation["bbox"] = [1, 1, 0, 0]
    found = inspect(content, sound_files(content))
    assert found[Kind.NO_AREA].count == 60
    assert [x.split(",")[0] for x in found[Kind.NO_AREA].examples] == [
        "0.png: annotation 1",
        "0.png: annotation 2",
        "1.png: annotation 3",
    ]


def test_empty_dataset():
    content = {"images": [], "annotations": [], "categories": []}
    assert examine_files(content, "/nowhere", opened=True) == {}
    assert inspect(content, {}) == {} and usable_annotations(content, {}) == []


def test_files_of_two_datasets(tmp_path):
    for name in ("a.png", "b.png"):
        (tmp_path / name).touch()
    os.symlink(tmp_path / "b.png", tmp_path / "link.png")
    first = {x: FileStatus(str(tmp_path / x)) for x in ("a.png", "link.png", "1.png")}
    second = {x: FileStatus(str(tmp_path / x)) for x in ("b.png", "2.png")}
    assert shared_files(first, second) == [os.path.realpath(tmp_path / "b.png")]
    assert shared_files(second, {}) == []


@pytest.mark.skipif(not BCCD.is_dir(), reason=f"there is no {BCCD}")
@pytest.mark.parametrize(
    ("split", "examples"),
    [
        # Two boxes have no width and no height.
        ("train", ["BloodImage_00343.jpg: annotation 2288, box [181.0, 329.0, 0.0, 0.0]"]),
        ("val", ["BloodImage_00338.jpg: annotation 887, box [504.0, 337.0, 0.0, 0.0]"]),
        ("test", []),
    ],
)
def test_blood_cells(split, examples):
    content = json.loads((BCCD / f"{split}.json").read_text())
    found = inspect(content, examine_files(content, str(BCCD / "images"), opened=True))
    assert {kind: x.examples for kind, x in found.items()} == (
        {Kind.NO_AREA: examples} if examples else {}
    )
