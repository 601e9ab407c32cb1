"""From a YAML to training and evaluation: datasets that a config describes, and test-dev."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest
import torch
import yaml
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances
from detectron2.data.datasets.builtin_meta import COCO_CATEGORIES, _get_builtin_metadata
from detectron2.structures import Boxes, Instances

from asff.data import register_custom_datasets, resolve_custom_datasets
from asff.engine import Trainer, argument_parser, setup
from asff.engine.setup import load_config
from asff.evaluation import Evaluator
from tests.data.datasets.written import (
    WRITERS,
    below,
    cfg_of,
    content_of,
    voc_xml,
    without_degenerate_boxes,
    write_coco,
    write_config,
    write_files,
)
from tests.training import CLASSES, run_apart, run_here

pytestmark = pytest.mark.usefixtures("own_data", "clean_loggers")


def set_up(config: Path, folder: Path, **keys: object) -> CfgNode:
    """setup() of the tiny config, changed by ``keys``."""
    path = write_config(folder, _BASE_=str(config), **keys)
    return setup(argument_parser().parse_args(["--config-file", str(path)]))


def test_class_count_follows_the_data(config, tmp_path, parts):
    datasets = {"CUSTOM": [parts], "TRAIN": ["parts"], "TEST": ["parts"]}
    default = {"YOLOV3": {"NUM_CLASSES": 80}}
    cfg = set_up(config, tmp_path, DATASETS=datasets, MODEL=default)
    assert cfg.MODEL.YOLOV3.NUM_CLASSES == 2
    assert cfg.is_frozen()
    # The tiny config states another one.
    with pytest.raises(ValueError, match=f"NUM_CLASSES is {len(CLASSES)}, but .* Set .* to 2"):
        set_up(config, tmp_path, DATASETS=datasets)


def test_datasets_with_different_classes_are_refused(config, tmp_path, image_folder):
    entries = []
    for name, classes in {"one": ("bolt", "nut"), "two": ("nut", "bolt")}.items():
        entry = write_coco(content_of(*classes), image_folder, tmp_path / name)
        entries.append({"name": name, **below(name, entry)})
    with pytest.raises(ValueError) as error:
        set_up(config, tmp_path, DATASETS={"CUSTOM": entries, "TRAIN": ["one"], "TEST": ["two"]})
    for part in ("'one' has the classes bolt, nut", "'two' has nut, bolt", "classes: [bolt, nut]"):
        assert part in str(error.value)


def write_shapes(folder: Path, form: str, config: Path, datasets: Path) -> Path:
    """The tiny dataset in a format, and beside it a config that describes it."""
    entries = []
    for split in ("train", "val"):
        content = json.loads((datasets / "shapes" / f"{split}.json").read_text())
        images = datasets / "shapes" / "images"
        entry = WRITERS[form](without_degenerate_boxes(content), images, folder / split)
        entries.append({"name": f"parts_{split}", **below(split, entry), "classes": CLASSES})
    names = {"CUSTOM": entries, "TRAIN": ["parts_train"], "TEST": ["parts_val"]}
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
    assert "Evaluation results for bbox" in run.output


def test_difficult_objects_are_ignored_in_evaluation(tmp_path, caplog):
    """Neither a detected one nor a missed one counts: the three others are all that matters."""
    caplog.set_level(logging.INFO, "asff")
    ordinary = [("bolt", (1, 1, 20, 30)), ("bolt", (25, 40, 50, 80)), ("nut", (5, 5, 30, 9))]
    difficult = [("bolt", (30, 1, 45, 20)), ("nut", (1, 60, 20, 80))]
    objects = [(*x, 0) for x in ordinary] + [(*x, 1) for x in difficult]
    write_files(tmp_path, {"parts/a.png": (50, 80), "parts/a.xml": voc_xml(objects)})
    cfg = cfg_of({"name": "parts", "format": "voc", "root": "parts"})
    cfg.OUTPUT_DIR = str(tmp_path / "out")
    resolve_custom_datasets(cfg, "")
    register_custom_datasets(cfg)

    detected = [*ordinary, difficult[0]]
    instances = Instances((80, 50))
    corners = [[x0 - 1, y0 - 1, x1, y1] for _, (x0, y0, x1, y1) in detected]
    instances.pred_boxes = Boxes(torch.tensor(corners, dtype=torch.float32))
    instances.pred_classes = torch.tensor([["bolt", "nut"].index(name) for name, _ in detected])
    instances.scores = torch.tensor([0.5, 0.6, 0.7, 0.9])  # a false positive would come first
    evaluator = Trainer.build_evaluator(cfg, "parts")
    evaluator.reset()
    (record,) = DatasetCatalog.get("parts")
    evaluator.process([record], [{"instances": instances}])
    assert evaluator.evaluate()["bbox"]["AP"] == pytest.approx(100)
    assert "parts: 2 of 5 objects are marked as difficult" in caplog.text


@pytest.fixture
def dev_images(tmp_path):
    """Detectron2's coco_2017_test-dev with three images: no truths, and COCO's gaps in the ids."""
    name = "coco_2017_test-dev"
    before = DatasetCatalog[name], MetadataCatalog.get(name)
    images = [
        {"id": 100 + i, "file_name": f"{i:012}.jpg", "height": 60, "width": 80} for i in range(3)
    ]
    keys = ("id", "name", "supercategory")
    things = [{"supercategory": "", **x} for x in COCO_CATEGORIES if x["isthing"]]
    categories = [{key: x[key] for key in keys} for x in things]
    content = {"info": {}, "licenses": [], "images": images, "categories": categories}
    json_file = "coco/annotations/image_info_test-dev2017.json"
    write_files(tmp_path, {json_file: json.dumps(content)})
    write_files(tmp_path, {f"coco/test2017/{x['file_name']}": (80, 60) for x in images})
    DatasetCatalog.remove(name)
    MetadataCatalog.remove(name)
    places = (str(tmp_path / json_file), str(tmp_path / "coco" / "test2017"))
    register_coco_instances(name, _get_builtin_metadata("coco"), *places)
    yield name
    DatasetCatalog[name], MetadataCatalog[name] = before


def test_test_dev_writes_what_the_server_takes(config, tmp_path, dev_images):
    options = ["MODEL.YOLOV3.NUM_CLASSES", 80, "MODEL.YOLOV3.SCORE_THRESH_TEST", 0.0]
    model = Trainer.build_model(load_config(str(config), options))
    torch.save({"model": model.state_dict()}, tmp_path / "weights.pth")
    options += ["MODEL.WEIGHTS", tmp_path / "weights.pth", "DATASETS.TEST", f"('{dev_images}',)"]
    output = tmp_path / "out"
    run = run_here("--config-file", config, "--eval-only", *options, "OUTPUT_DIR", output)
    assert run.code == 0, run.output
    results = json.loads(
        (output / "inference" / dev_images / "coco_instances_results.json").read_text()
    )
    assert {x["image_id"] for x in results} == {100, 101, 102}
    categories = {x["category_id"] for x in results}
    assert categories <= {x["id"] for x in COCO_CATEGORIES if x["isthing"]}
    assert max(categories) > 80  # ids, not class indices
    assert set(results[0]) == {"image_id", "category_id", "bbox", "score"}
    assert "Evaluation results" not in run.output


def test_evaluator_names_the_file_to_upload(tmp_path, dev_images, caplog, monkeypatch):
    caplog.set_level(logging.INFO, "asff")
    evaluator = Evaluator(dev_images, output_dir=str(tmp_path / "out"), use_fast_impl=False)
    evaluator.reset()
    instances = Instances((60, 80))
    instances.pred_boxes = Boxes(torch.tensor([[1.0, 2.0, 4.0, 6.0]]))
    instances.pred_classes, instances.scores = torch.tensor([79]), torch.tensor([0.5])
    evaluator.process([{"image_id": 100}], [{"instances": instances}])
    assert evaluator.evaluate() == {}
    file = tmp_path / "out" / "coco_instances_results.json"
    # Class 79, a toothbrush, is COCO's 90; boxes are x, y, width and height.
    assert json.loads(file.read_text()) == [
        {"image_id": 100, "category_id": 90, "bbox": [1.0, 2.0, 3.0, 4.0], "score": 0.5}
    ]
    assert caplog.messages[-1] == (
        f"{dev_images} has no annotations, hence no AP. Its detections, to be uploaded to the "
        f"evaluation server: {file}"
    )
    # The first process alone has it.
    caplog.clear()
    monkeypatch.setattr("detectron2.utils.comm.is_main_process", lambda: False)
    assert evaluator.evaluate() == {}
    assert not caplog.messages


@pytest.mark.parametrize("ids", [[0, 1, 2], ["a", "b", "c"]], ids=["zero", "texts"])
def test_evaluator_takes_any_annotation_ids(tmp_path, own_data, ids):
    """Perfect detections of three truths; pycocotools takes the id 0 for no match at all."""
    boxes = [[1, 2, 20, 30], [30, 5, 20, 20], [40, 30, 15, 25]]
    content = {
        "images": [{"id": 1, "file_name": "a.png", "height": 60, "width": 80}],
        "annotations": [
            {"id": i, "image_id": 1, "category_id": 1, "bbox": box, "area": 400, "iscrowd": 0}
            for i, box in zip(ids, boxes)
        ],
        "categories": [{"id": 1, "name": "part"}],
    }
    path = tmp_path / "truth.json"
    path.write_text(json.dumps(content))
    register_coco_instances("any_ids", {}, str(path), str(tmp_path))
    try:
        DatasetCatalog.get("any_ids")
        evaluator = Evaluator("any_ids", output_dir=str(tmp_path / "out"), use_fast_impl=False)
        evaluator.reset()
        instances = Instances((60, 80))
        corners = [[x, y, x + w, y + h] for x, y, w, h in boxes]
        instances.pred_boxes = Boxes(torch.tensor(corners, dtype=torch.float32))
        instances.pred_classes = torch.zeros(3, dtype=torch.int64)
        instances.scores = torch.tensor([0.9, 0.8, 0.7])
        evaluator.process([{"image_id": 1}], [{"instances": instances}])
        assert evaluator.evaluate()["bbox"]["AP"] == pytest.approx(100)
    finally:
        DatasetCatalog.remove("any_ids")
        MetadataCatalog.remove("any_ids")
