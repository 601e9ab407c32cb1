from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest
import yaml
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import load_coco_json
from detectron2.structures import BoxMode

from asff.config_files import load_config
from asff.data import register_custom_datasets, resolve_custom_datasets
from asff.data.datasets import load_dataset
from asff.engine import argument_parser, setup
from tests.data.datasets.written import (
    WRITERS,
    below,
    cases,
    cfg_of,
    class_names,
    content_of,
    refused,
    without_degenerate_boxes,
    write_coco,
    write_config,
)
from tests.helpers import detector_cfg
from tests.training import CLASSES, run_apart, run_here

pytestmark = pytest.mark.usefixtures("own_data", "clean_loggers")


def resolved(*configs: dict, config_file: str | Path = "") -> list[dict]:
    cfg = cfg_of(*configs)
    resolve_custom_datasets(cfg, config_file)
    return cfg.DATASETS.CUSTOM


# Formats


@pytest.mark.parametrize("form", ["voc", "yolo"])
def test_all_formats_give_the_same_dicts(tmp_path, bccd, form):
    content = without_degenerate_boxes(json.loads((bccd / "train.json").read_text()))
    assert len(content["images"]) > 200 and len(content["annotations"]) > 2000
    (tmp_path / "train.json").write_text(json.dumps(content))
    expected = load_coco_json(str(tmp_path / "train.json"), "", "bccd_as_coco")
    MetadataCatalog.remove("bccd_as_coco")

    names = class_names(content)
    assert names != sorted(names)
    entry = WRITERS[form](content, bccd / "images", tmp_path / form)
    cfg = cfg_of({"name": "bccd_again", **entry, "classes": names})
    resolve_custom_datasets(cfg, write_config(tmp_path / form))
    register_custom_datasets(cfg)
    found = DatasetCatalog.get("bccd_again")

    assert MetadataCatalog.get("bccd_again").thing_classes == names
    assert [x["image_id"] for x in found] == list(range(1, len(expected) + 1))
    for ours, theirs in zip(found, expected):
        assert ours.keys() == theirs.keys()
        assert Path(ours["file_name"]).name == theirs["file_name"]
        assert (ours["height"], ours["width"]) == (theirs["height"], theirs["width"])
        assert len(ours["annotations"]) == len(theirs["annotations"])
        for a, b in zip(ours["annotations"], theirs["annotations"]):
            assert a.keys() == b.keys()
            assert a["bbox"] == pytest.approx(b["bbox"], abs=0 if form == "voc" else 1e-6)
            for key in ("iscrowd", "category_id", "bbox_mode"):
                assert a[key] == b[key]
            assert a["bbox_mode"] is BoxMode.XYWH_ABS


@pytest.mark.parametrize("form", WRITERS)
def test_metadata(tmp_path, image_folder, form):
    entry = WRITERS[form](content_of("nut", "bolt"), image_folder, tmp_path / "data")
    cfg = cfg_of({"name": "parts", **entry})
    resolve_custom_datasets(cfg, write_config(tmp_path / "data"))
    # VOC has no list of names: those that occur, sorted.
    names = ["bolt", "nut"] if form == "voc" else ["nut", "bolt"]
    assert cfg.DATASETS.CUSTOM[0]["classes"] == names
    register_custom_datasets(cfg)
    metadata = MetadataCatalog.get("parts")
    assert metadata.thing_classes == names
    assert metadata.evaluator_type == "coco"
    (dataset_dict,) = DatasetCatalog.get("parts")
    found = [names[x["category_id"]] for x in dataset_dict["annotations"]]
    assert found == ["nut", "bolt"]
    assert metadata.thing_dataset_id_to_contiguous_id == {1: 0, 2: 1}
    if form == "coco":
        assert metadata.json_file == str(tmp_path / "data" / "train.json")
        assert metadata.image_root == str(tmp_path / "data" / "images")
    else:
        dataset = load_dataset("parts")
        assert dataset.class_names == names
        assert dataset.images[0]["file_name"] == dataset_dict["file_name"]


def test_coco_classes_by_category_id(tmp_path, image_folder):
    content = content_of("nut", "bolt")
    content["categories"] = [{"id": 90, "name": "nut"}, {"id": 7, "name": "bolt"}]
    content["annotations"] = []
    entry = {"name": "parts", **write_coco(content, image_folder, tmp_path / "data")}
    config_file = write_config(tmp_path / "data")
    assert resolved(entry, config_file=config_file)[0]["classes"] == ["bolt", "nut"]
    resolved({**entry, "classes": ["bolt", "nut"]}, config_file=config_file)
    with refused("classes is nut, bolt", "train.json' has bolt, nut", "Leave the key"):
        resolved({**entry, "classes": ["nut", "bolt"]}, config_file=config_file)


def test_classes_in_a_file(tmp_path, image_folder):
    WRITERS["yolo"](content_of("nut", "bolt"), image_folder, tmp_path / "data")
    (tmp_path / "data" / "parts.names").write_text("nut\nhex bolt\n\n")
    entry = {"name": "parts", "format": "yolo", "images": "images", "classes": "parts.names"}
    (found,) = resolved(entry, config_file=write_config(tmp_path / "data"))
    assert found["classes"] == ["nut", "hex bolt"]


# Messages about what is left out


def test_unreadable_images_are_left_out_with_a_warning(tmp_path, image_folder, caplog):
    caplog.set_level(logging.INFO, "asff")
    content = content_of("nut")
    content["images"] += [
        {"id": i, "file_name": f"{i}.png", "height": 80, "width": 50} for i in range(2, 9)
    ]
    for i in range(2, 9):
        (image_folder / f"{i}.png").write_text("no image")
    content["annotations"] += [{**content["annotations"][0], "id": 2, "image_id": 8}]
    entry = {"name": "parts", **WRITERS["yolo"](content, image_folder, tmp_path / "data")}
    cfg = cfg_of(entry)
    resolve_custom_datasets(cfg, write_config(tmp_path / "data"))
    register_custom_datasets(cfg)
    assert [x["image_id"] for x in DatasetCatalog.get("parts")] == [1]
    message = caplog.messages[-1]
    assert "parts: 7 of 8 images cannot be read and are left out, with 1 objects" in message
    assert "2.png" in message and "6.png, ..." in message and "7.png" not in message
    (tmp_path / "data" / "images" / "a.png").unlink()
    with pytest.raises(ValueError, match="dataset 'parts': none of its 8 images can be read"):
        DatasetCatalog.get("parts")
    (tmp_path / "data" / "labels" / "a.txt").write_text("nut")
    with pytest.raises(ValueError, match="^dataset 'parts': .*a.txt:1: "):
        DatasetCatalog.get("parts")


# Dataset configs


GOOD = {"name": "parts", "format": "coco", "annotations": "a.json", "images": "i"}
VOC = {"name": "parts", "format": "voc", "root": "r"}


@cases(
    ("configs", "parts"),
    {
        "no list": ("parts", ["DATASETS.CUSTOM is 'parts'", "a list"]),
        "text": (["parts"], ["DATASETS.CUSTOM[0]: 'parts' is not a dataset"]),
        "no name": ([GOOD, {"format": "voc"}], ["CUSTOM[1]: the key 'name' is missing"]),
        "number": ([{**VOC, "name": 7}], ["CUSTOM[0] ('7'): name is 7", "quotes"]),
        "no format": ([{"name": "parts"}], ["CUSTOM[0] ('parts'): the key 'format'"]),
        "format": ([{**VOC, "format": "pascal"}], ["format is 'pascal'", "coco, voc, yolo"]),
        "key": ([{**VOC, "splt": "x"}], ["'splt'", "Did you mean split?", "root, split"]),
        "missing": ([{"name": "parts", "format": "voc"}], ["'root' is missing", "voc has root"]),
        "no YOLO key": (
            [{"name": "parts", "format": "yolo"}],
            ["'data' is missing", "data and split, or images and classes"],
        ),
        "both YOLO ways": (
            [{"name": "parts", "format": "yolo", "data": "d", "split": "train", "images": "i"}],
            ["no key 'images'"],
        ),
        "path": ([{**VOC, "root": ["r"]}], ["root is ['r']", "string"]),
        "year": ([{**VOC, "split": 2007}], ["split is 2007", "quotes"]),
        "no classes": ([{**VOC, "classes": []}], ["[] is not a list of class names"]),
        "class": ([{**VOC, "classes": ["a", True]}], ["class name True is not a string", "quotes"]),
        "names": ([GOOD, VOC], ["CUSTOM[1] ('parts')", "CUSTOM[0] has this name"]),
    },
)
def test_bad_configs(configs, parts):
    cfg = detector_cfg()
    cfg.DATASETS.CUSTOM = configs
    with refused(*parts):
        resolve_custom_datasets(cfg, "")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{", ["train.json is not JSON"]),
        (json.dumps(content_of("nut", "nut")), ["'nut' is there twice"]),
    ],
)
def test_bad_coco_file(parts, content, said):
    Path(parts["annotations"]).write_text(content)
    with refused("DATASETS.CUSTOM[0] ('parts')", *said):
        resolved(parts)


def test_name_of_another_dataset(parts):
    cfg = cfg_of({**parts, "name": "coco_2017_train"})
    resolve_custom_datasets(cfg, "")
    with pytest.raises(ValueError, match=r"CUSTOM\[0\] \('coco_2017_train'\).*Choose another"):
        register_custom_datasets(cfg)
    assert MetadataCatalog.get("coco_2017_train").json_file.endswith("instances_train2017.json")


# Paths


def test_first_place_that_exists_counts(tmp_path, parts, monkeypatch):
    """The config's folder, those of its bases in order, $DETECTRON2_DATASETS."""
    for folder in ("own", "first", "second", "second/deep", "data"):
        (tmp_path / folder).mkdir()
    (tmp_path / "second" / "deep" / "base.yaml").write_text("VERSION: 2\n")
    (tmp_path / "second" / "base.yaml").write_text("_BASE_: deep/base.yaml\n")
    (tmp_path / "first" / "base.yaml").write_text("VERSION: 2\n")
    config_file = tmp_path / "own" / "config.yaml"
    bases = ["../first/base.yaml", str(tmp_path / "second" / "base.yaml")]
    config_file.write_text(yaml.safe_dump({"_BASE_": bases}))
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path / "data"))
    entry = {**parts, "annotations": "x.json"}
    places = [tmp_path / x / "x.json" for x in ("own", "first", "second", "second/deep", "data")]
    with pytest.raises(ValueError) as error:
        resolved(entry, config_file=config_file)
    message = str(error.value)
    assert "DATASETS.CUSTOM[0] ('parts'): annotations is 'x.json', which does not" in message
    assert message.endswith(f"Looked for: {', '.join(map(str, places))}.")
    for place in reversed(places):
        place.write_text(json.dumps(content_of("nut")))
        assert resolved(entry, config_file=config_file)[0]["annotations"] == str(place)


def test_paths_without_config_file_and_from_home(tmp_path, parts, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "parts"))
    (found,) = resolved({**parts, "annotations": "~/train.json", "images": "parts/images"})
    assert found == {**parts, "classes": ["bolt", "nut"]}


def test_only_what_is_used_must_be_there(parts):
    """Evaluation needs no training set; its dataset config stays for the next training."""
    absent = {"name": "absent", "format": "voc", "root": "nowhere"}
    listed = {"name": "listed", "format": "yolo", "images": "nowhere", "classes": "nowhere.txt"}
    cfg = cfg_of(absent, parts, listed)
    cfg.DATASETS.TEST = ("parts",)
    resolve_custom_datasets(cfg, "", cfg.DATASETS.TEST)
    assert cfg.DATASETS.CUSTOM[::2] == [absent, listed]
    assert cfg.DATASETS.CUSTOM[1]["classes"] == ["bolt", "nut"]
    register_custom_datasets(cfg)
    assert MetadataCatalog.get("parts").thing_classes == ["bolt", "nut"]
    with pytest.raises(ValueError, match=r"CUSTOM\[0\] \('absent'\): root is 'nowhere'"):
        resolve_custom_datasets(cfg, "")


def test_images_that_are_no_folder(parts):
    with pytest.raises(ValueError, match="train.json', which is not a folder"):
        resolved({**parts, "images": parts["annotations"]})


def test_dumped_config_works_from_anywhere(tmp_path, image_folder, monkeypatch):
    content = content_of("bolt", "nut")
    configs = [
        {"name": form, **below(form, write(content, image_folder, tmp_path / "data" / form))}
        for form, write in WRITERS.items()
    ]
    datasets = {"CUSTOM": configs, "TRAIN": list(WRITERS)}
    config_file = write_config(tmp_path / "data", DATASETS=datasets)
    cfg = load_config(str(config_file))
    resolve_custom_datasets(cfg, config_file)
    (tmp_path / "output").mkdir()
    dumped = tmp_path / "output" / "config.yaml"
    dumped.write_text(cfg.dump())
    monkeypatch.chdir("/")
    again = load_config(str(dumped))
    resolve_custom_datasets(again, dumped)
    assert again.DATASETS.CUSTOM == cfg.DATASETS.CUSTOM
    register_custom_datasets(again)
    for form in WRITERS:
        (dataset_dict,) = DatasetCatalog.get(form)
        assert Path(dataset_dict["file_name"]).is_file() and len(dataset_dict["annotations"]) == 2


# Processes


def test_registering_again_replaces(parts, tmp_path):
    cfg = cfg_of(parts)
    resolve_custom_datasets(cfg, "")
    register_custom_datasets(cfg)
    before = MetadataCatalog.get("parts").as_dict()
    register_custom_datasets(cfg)
    assert MetadataCatalog.get("parts").as_dict() == before
    cfg.DATASETS.CUSTOM[0]["classes"] = ["screw"]
    register_custom_datasets(cfg)
    assert MetadataCatalog.get("parts").thing_classes == ["screw"]


# From a YAML to training and evaluation


def test_datasets_with_different_classes_are_refused(config, tmp_path, image_folder):
    configs = []
    for name, classes in {"one": ("bolt", "nut"), "two": ("nut", "bolt")}.items():
        entry = write_coco(content_of(*classes), image_folder, tmp_path / name)
        configs.append({"name": name, **below(name, entry)})
    names = {"CUSTOM": configs, "TRAIN": ["one"], "TEST": ["two"]}
    path = write_config(tmp_path, _BASE_=str(config), DATASETS=names)
    with refused("'one' has the classes bolt, nut", "'two' has nut, bolt", "classes: [bolt, nut]"):
        setup(argument_parser().parse_args(["--config-file", str(path)]))


def write_shapes(folder: Path, form: str, config: Path, datasets: Path) -> Path:
    """The tiny dataset in a format, and beside it a config that describes it."""
    configs = []
    for split in ("train", "val"):
        content = json.loads((datasets / "shapes" / f"{split}.json").read_text())
        images = datasets / "shapes" / "images"
        entry = WRITERS[form](without_degenerate_boxes(content), images, folder / split)
        configs.append({"name": f"parts_{split}", **below(split, entry), "classes": CLASSES})
    names = {"CUSTOM": configs, "TRAIN": ["parts_train"], "TEST": ["parts_val"]}
    more = {"MODEL": {"YOLOV3": {"NUM_CLASSES": 80}}, "SOLVER": {"MAX_ITER": 2}}
    return write_config(folder, _BASE_=str(config), DATASETS=names, **more)


@pytest.mark.parametrize("form", WRITERS)
def test_trains_and_evaluates_from_yaml_alone(config, datasets, tmp_path, form):
    path = write_shapes(tmp_path, form, config, datasets)
    output = tmp_path / "out"
    # All boxes, however bad: what is in the results has gone through the whole evaluation.
    options = ("MODEL.YOLOV3.SCORE_THRESH_TEST", 0.0, "OUTPUT_DIR", output)
    run = run_here("--config-file", path, *options)
    assert run.code == 0, run.output
    classes = ", ".join(CLASSES)
    line = f"MODEL.YOLOV3.NUM_CLASSES: {len(CLASSES)}, as parts_train has ({classes})."
    assert run.output.count(line) == 1
    assert "Evaluation results for bbox" in run.output
    results = output / "inference" / "parts_val" / "coco_instances_results.json"
    found = {x["category_id"] for x in json.loads(results.read_text())}
    assert found and found <= set(range(1, len(CLASSES) + 1))
    dumped = yaml.safe_load((output / "config.yaml").read_text())
    assert dumped["MODEL"]["YOLOV3"]["NUM_CLASSES"] == len(CLASSES)


@pytest.mark.slow
def test_two_processes_train_from_yaml(config, datasets, tmp_path):
    path = write_shapes(tmp_path, "voc", config, datasets)
    options = ("--config-file", path, "--num-gpus", 2, "--dist-url", "auto")
    run = run_apart(*options, "OUTPUT_DIR", tmp_path / "out")
    assert run.code == 0, run.output
    assert (tmp_path / "out/inference/parts_val/coco_instances_results.json").is_file()
