from __future__ import annotations

import json
import logging

import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances
from detectron2.data.datasets.builtin_meta import COCO_CATEGORIES, _get_builtin_metadata
from detectron2.structures import Boxes, Instances

from asff.config_files import load_config
from asff.data import register_custom_datasets, resolve_custom_datasets
from asff.data.datasets import CocoDataset
from asff.engine import Trainer
from asff.evaluation import Evaluator
from tests.data.datasets.written import cfg_of, forget_datasets, voc_xml, write_files
from tests.training import run_here

pytestmark = pytest.mark.usefixtures("clean_loggers")


def detections(corners: list, classes: list[int], scores: list[float]) -> dict:
    """The output of a detector for an image of 60 x 80 pixels."""
    instances = Instances((80, 60))
    instances.pred_boxes = Boxes(torch.tensor(corners, dtype=torch.float32))
    instances.pred_classes, instances.scores = torch.tensor(classes), torch.tensor(scores)
    return {"instances": instances}


def test_difficult_objects_are_ignored(tmp_path, caplog, monkeypatch):
    """Neither a detected one nor a missed one counts: the three others are all that matters."""
    caplog.set_level(logging.INFO, "asff")
    ordinary = [("bolt", (1, 1, 20, 30)), ("bolt", (25, 40, 50, 80)), ("nut", (5, 5, 30, 9))]
    difficult = [("bolt", (30, 1, 45, 20)), ("nut", (1, 60, 20, 80))]
    objects = [(*x, 0) for x in ordinary] + [(*x, 1) for x in difficult]
    write_files(tmp_path, {"parts/a.png": (50, 80), "parts/a.xml": voc_xml(objects)})
    cfg = cfg_of({"name": "parts", "format": "voc", "root": "parts"})
    cfg.OUTPUT_DIR = str(tmp_path / "out")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    resolve_custom_datasets(cfg, "")
    register_custom_datasets(cfg)

    detected = [*ordinary, difficult[0]]
    corners = [[x0 - 1, y0 - 1, x1, y1] for _, (x0, y0, x1, y1) in detected]
    classes = [["bolt", "nut"].index(name) for name, _ in detected]
    evaluator = Trainer.build_evaluator(cfg, "parts")
    evaluator.reset()
    scores = [0.5, 0.6, 0.7, 0.9]  # a false positive would come first
    evaluator.process(DatasetCatalog.get("parts"), [detections(corners, classes, scores)])
    assert evaluator.evaluate()["bbox"]["AP"] == pytest.approx(100)
    assert "parts: 2 of 5 objects are marked as difficult" in caplog.text
    forget_datasets()


@pytest.fixture
def dev_images(tmp_path):
    """Detectron2's coco_2017_test-dev with three images, without annotations."""
    name = "coco_2017_test-dev"
    before = DatasetCatalog[name], MetadataCatalog.get(name)
    images = [
        {"id": 100 + i, "file_name": f"{i:012}.jpg", "height": 60, "width": 80} for i in range(3)
    ]
    categories = [{key: x[key] for key in ("id", "name")} for x in COCO_CATEGORIES if x["isthing"]]
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
    assert max(x["category_id"] for x in results) > 80  # ids, not class indices
    assert "Evaluation results" not in run.output


def test_the_file_to_upload_is_named(tmp_path, dev_images, caplog, monkeypatch):
    caplog.set_level(logging.INFO, "asff")
    evaluator = Evaluator(dev_images, output_dir=str(tmp_path / "out"), use_fast_impl=False)
    evaluator.reset()
    evaluator.process([{"image_id": 100}], [detections([[1, 2, 4, 6]], [79], [0.5])])
    assert evaluator.evaluate() == {}
    file = tmp_path / "out" / "coco_instances_results.json"
    # Class 79, a toothbrush, is COCO's 90; boxes are x, y, width and height.
    assert json.loads(file.read_text()) == [
        {"image_id": 100, "category_id": 90, "bbox": [1.0, 2.0, 3.0, 4.0], "score": 0.5}
    ]
    for part in (f"{dev_images} has no annotations, hence no AP", f"evaluation server: {file}"):
        assert part in caplog.messages[-1]
    # The first process alone has it.
    caplog.clear()
    monkeypatch.setattr("detectron2.utils.comm.is_main_process", lambda: False)
    assert evaluator.evaluate() == {}
    assert not caplog.messages


@pytest.mark.parametrize("ids", [[0, 1, 2], ["a", "b", "c"]], ids=["zero", "strings"])
def test_any_annotation_ids(tmp_path, ids):
    """Perfect detections of three objects; pycocotools takes the id 0 for no match at all."""
    boxes = [[1, 2, 20, 30], [30, 5, 20, 20], [40, 30, 15, 25]]
    objects = [{"image_id": 1, "category_id": 1, "bbox": box, "area": 400} for box in boxes]
    dataset = CocoDataset(
        images=[{"id": 1, "file_name": "a.png", "height": 60, "width": 80}],
        annotations=[{"id": i, "iscrowd": 0, **x} for i, x in zip(ids, objects)],
        categories=[{"id": 1, "name": "part"}],
    )
    dataset.write(tmp_path / "gt.json")
    register_coco_instances("any_ids", {}, str(tmp_path / "gt.json"), str(tmp_path))
    corners = [[x, y, x + w, y + h] for x, y, w, h in boxes]
    try:
        DatasetCatalog.get("any_ids")
        evaluator = Evaluator("any_ids", output_dir=str(tmp_path / "out"), use_fast_impl=False)
        evaluator.reset()
        evaluator.process([{"image_id": 1}], [detections(corners, [0, 0, 0], [0.9, 0.8, 0.7])])
        assert evaluator.evaluate()["bbox"]["AP"] == pytest.approx(100)
    finally:
        DatasetCatalog.remove("any_ids")
        MetadataCatalog.remove("any_ids")
