from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import cv2
import pytest
from PIL import Image

from tests.data.datasets.written import voc_xml, write_files
from tests.data.rectangles import noise
from tests.training import CLASSES, DEGENERATE, EMPTY, Run, run_asff

check = partial(run_asff, "check-data")


@pytest.fixture
def own(tmp_path: Path, config: Path) -> Path:
    """A config with a COCO dataset of its own, ``own``; beside it train.json and images/."""
    (tmp_path / "images").mkdir()
    content: dict = {"info": {"year": 2020}, "images": [], "annotations": []}
    content["categories"] = [{"id": i + 1, "name": name} for i, name in enumerate(CLASSES)]
    for i in range(3):
        assert cv2.imwrite(str(tmp_path / "images" / f"{i}.png"), noise(40, 60))
        content["images"].append({"id": i, "file_name": f"{i}.png", "width": 60, "height": 40})
        box = {"id": i + 1, "image_id": i, "category_id": i + 1, "bbox": [10, 10, 20, 10]}
        content["annotations"].append({**box, "area": 200, "iscrowd": 0})
    (tmp_path / "train.json").write_text(json.dumps(content))
    path = tmp_path / "own.yaml"
    path.write_text(
        f'_BASE_: "{config}"\n'
        "DATASETS:\n"
        "  CUSTOM:\n"
        '    - {name: "own", format: "coco", annotations: "train.json", images: "images"}\n'
        '  TRAIN: ("own",)\n'
        "  TEST: ()\n"
    )
    return path


def edit(path: Path, **changes: object) -> None:
    """Change the first annotation of a COCO file."""
    content = json.loads(path.read_text())
    content["annotations"][0].update(changes)
    path.write_text(json.dumps(content))


def rows(run: Run) -> list[list[str]]:
    """Return the words of each line."""
    return [line.split() for line in run.output.splitlines()]


def test_all_datasets_of_a_config(config):
    run = check("--config-file", config)
    assert run.code == 1
    for title in ("shapes_train: 12 images, 17 annotations, 4 classes", "shapes_val: 7 images, "):
        assert title in run.output
    # tests/training.py writes one box without area, and one image without boxes.
    errors = [line for line in run.output.splitlines() if line.startswith("error")]
    assert len(errors) == 1 and "degenerate (zero-area) boxes" in errors[0]
    assert (
        f"train_{DEGENERATE}.png: annotation " in errors[0] and ", box [10, 10, 0, 20]" in errors[0]
    )
    notes = [line for line in run.output.splitlines() if line.startswith("note")]
    assert f"train_{EMPTY}.png (image {EMPTY + 1})" in notes[0]
    last = run.output.splitlines()[-1]
    assert last.startswith("Errors: shapes_train 1. ") and "--dataset shapes_train --fix" in last


def test_faultless_dataset(own):
    run = check("--config-file", own, "--dataset", "own")
    assert run.code == 0
    assert [row for row in rows(run) if row[:1] == ["note"]] == [
        ["note", "classes", "without", "objects", "1", CLASSES[3], "(category", "4)"]
    ]
    assert run.output.splitlines()[-1] == f"No errors. Next: asff train --config-file {own}"
    table = {tuple(row[: len(row) // 2 + 1]): row for row in rows(run) if row}
    assert "Image sizes: all 60 x 40 pixels." in run.output
    assert "Boxes per image: 1 to 1, median 1, mean 1.0." in run.output
    for name, count in zip(CLASSES, (1, 1, 1, 0)):
        row = next(row for row in table.values() if row[0] == name)
        assert row[1:3] == [str(count)] * 2 and row[3] == ("33.3" if count else "0.0")
    full = "█" * 30
    assert ["under", "32", "small", "3", "100.0", full] in rows(run)
    assert ["32", "to", "96", "medium", "0", "0.0"] in rows(run)
    # 20 x 10 of 60 x 40 pixels are 21.3 x 16 of 64 x 64: the side of such a square is 18.5.
    assert ["16", "to", "32", "3", "100.0", full] in rows(run)
    # The nearest anchor is 16 x 30, by intersection 16 x 16 and union 341.3 + 480 - 256.
    assert ["res3", "10x13,", "16x30,", "33x23", "3", "100.0", full] in rows(run)
    iou = 256 / (64 / 3 * 16 + 480 - 256)
    other = 64 / 3 * 16 / (33 * 23)  # inside 33 x 23
    assert f"mean best IoU {max(iou, other):.3f}; 100.0% of the boxes under 0.5." in run.output


def test_the_fit_of_anchors_needs_anchors(own):
    run = check("--config-file", own, "MODEL.META_ARCHITECTURE", "RetinaNet", "INPUT.SQUARE", False)
    assert run.code == 0 and "Fit of the anchors" not in run.output


def test_images_of_several_sizes_and_none_with_boxes(own):
    path = own.parent / "train.json"
    Image.new("RGB", (30, 80)).save(own.parent / "images" / "2.png")
    content = json.loads(path.read_text())
    content["images"][2].update(width=30, height=80)
    path.write_text(json.dumps(content))
    sizes = "30 to 60 pixels wide, 40 to 80 high; 67% have 60 x 40."
    assert sizes in check("--config-file", own).output
    path.write_text(json.dumps({**content, "annotations": []}))
    run = check("--config-file", own)
    assert run.code == 0 and "There are no boxes to train on." in run.output


def test_quick_does_not_open_images(own):
    (own.parent / "images" / "0.png").write_text("no image")
    assert "images whose file cannot be read" in check("--config-file", own).output
    run = check("--config-file", own, "--quick")
    assert run.code == 0 and "No errors (images were not opened)." in run.output


def test_datasets_with_images_in_common(own):
    text = own.read_text().replace('("own",)', '("own", "twin")')
    twin = '    - {name: "twin", format: "coco", annotations: "train.json", images: "images"}\n'
    own.write_text(text.replace("  TRAIN:", f"{twin}  TRAIN:").replace("()", '("own",)'))
    run = check("--config-file", own)
    assert run.code == 0
    assert "Warning: own is in DATASETS.TRAIN and in DATASETS.TEST." in run.output
    image = (own.parent / "images" / "0.png").resolve()
    assert f"Warning: own and twin have 3 image files in common: {image}, " in run.output


def config_with_copy(config: Path, run: Run) -> Path:
    """Write a config with the YAML that was printed for the cleaned copy."""
    snippet = run.output[run.output.index("DATASETS:\n") :].split("\n\n")[0]
    again = config.with_name("again.yaml")
    again.write_text(f'_BASE_: "{config}"\n{snippet}\n')
    return again


def test_fixed_copy(own):
    source, fixed = own.parent / "train.json", own.parent / "fixed.json"
    edit(source, bbox=[50, 30, 20, 20], area=400)
    content = json.loads(source.read_text())
    content["annotations"][1]["bbox"] = [1, 1, 0, 0]
    source.write_text(json.dumps(content))
    before = source.read_bytes()
    run = check("--config-file", own, "--fix", fixed)
    assert run.code == 1
    assert "  dropped degenerate (zero-area) boxes: 1\n" in run.output
    assert run.output.splitlines()[-1] == f"Errors: own 1. Use {fixed} instead, as shown above."
    assert source.read_bytes() == before
    content["annotations"][0].update(bbox=[50, 30, 10, 10], area=100)
    del content["annotations"][1]
    assert json.loads(fixed.read_text()) == content

    run = check("--config-file", config_with_copy(own, run))
    assert run.code == 0 and "own_fixed: 3 images, 2 annotations" in run.output
    assert not [row for row in rows(run) if row and row[0] in ("error", "warning")]


def test_fixed_copy_of_another_format(own):
    """A VOC dataset becomes one in COCO's format."""
    voc = own.parent / "voc"
    for i, name in enumerate([*CLASSES, CLASSES[0]]):  # of one object in each image
        xml = voc_xml([(name, (51, 31, 70, 40), 0)], size=(60, 40))
        write_files(voc, {f"{i}.xml": xml, f"{i}.png": (60, 40)})
    (voc / "4.png").unlink()
    own.write_text(
        own.read_text().replace(
            '"coco", annotations: "train.json", images: "images"', '"voc", root: "voc"'
        )
    )
    fixed = own.parent / "fixed.json"
    run = check("--config-file", own, "--fix", fixed)
    assert run.code == 1
    content = json.loads(fixed.read_text())
    assert [Path(x["file_name"]).name for x in content["images"]] == [f"{i}.png" for i in range(4)]
    assert [x["bbox"] for x in content["annotations"]] == [[50, 30, 10, 10]] * 4
    again = config_with_copy(own, run)
    assert f'images: "{voc}"' in again.read_text()
    assert check("--config-file", again).code == 0


def test_nothing_to_fix(own):
    run = check("--config-file", own, "--fix", own.parent / "fixed.json")
    assert run.code == 0 and "nothing had to be changed" in run.output
    fixed, source = (json.loads((own.parent / x).read_text()) for x in ("fixed.json", "train.json"))
    assert fixed == source


def test_picture_beside_the_check_of_one_dataset(own, config):
    """It shows what is trained on, whichever dataset is checked."""
    picture = own.parent / "samples.png"
    run = check("--config-file", own, "--dataset", "shapes_val", "--picture", picture)
    assert run.code == 0 and str(picture) in run.output
    # Four samples of 64 pixels, eight times as large.
    assert Image.open(picture).size == (4 * 512 + 3 * 8, 512)  # a batch of 4
    (own.parent / "train.json").unlink()
    run = check("--config-file", own, "--dataset", "shapes_val", "--picture", picture)
    assert "train.json" in run.error


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--fix", "train.json"], "--fix train.json: the file exists, and is not overwritten"),
        (["--fix", "gone/out.json"], "--fix gone/out.json: there is no folder gone"),
        (["--fix", "out.json", "--quick"], "--fix has to open the images: leave --quick out"),
        (["--picture", "gone/out.jpg"], "--picture gone/out.jpg: there is no folder gone"),
        (["--picture", "out.txt"], "--picture out.txt: name a file with the suffix .jpg"),
        (["--dataset", "onw"], "--dataset names the dataset 'onw', which is not registered"),
        (["DATASETS.TRAIN", "()"], "are empty: name one by --dataset"),
        (["--quick", "INPUT.TEST_SIZE", "x"], "INPUT.TEST_SIZE is"),
        (["--fix", "out.json", "DATASETS.TEST", "('shapes_val',)"], "takes one dataset of own, sh"),
    ],
)
def test_wrong_usage(own, monkeypatch, options, message):
    monkeypatch.chdir(own.parent)
    assert message in check("--config-file", own, *options).error
    assert not Path("out.json").exists()


def test_malformed_file(own):
    (own.parent / "train.json").write_text("{}")
    message = f"{own.parent / 'train.json'} is not in COCO's format"
    assert message in check("--config-file", own).error
