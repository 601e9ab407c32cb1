from __future__ import annotations

import json
import logging
import sys
from collections.abc import Callable, Iterator
from copy import deepcopy
from functools import partial

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances
from detectron2.data.datasets.builtin_meta import COCO_CATEGORIES, _get_builtin_metadata
from detectron2.evaluation import COCOEvaluator
from detectron2.structures import Boxes, Instances
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from asff.config_files import load_config
from asff.data import register_custom_datasets, resolve_custom_datasets
from asff.engine import Trainer, argument_parser, setup
from asff.evaluation import Evaluator, coco_classes, evaluate_coco, to_array
from tests.data.datasets.written import cfg_of, forget_datasets, voc_xml, write_files
from tests.reports import jitter, nasty_case
from tests.training import run_here

pytestmark = pytest.mark.usefixtures("clean_loggers")


def detections(corners: list, classes: list[int], scores: list[float]) -> dict:
    """The output of a detector for an image of 60 x 80 pixels."""
    instances = Instances((80, 60))
    instances.pred_boxes = Boxes(torch.tensor(corners, dtype=torch.float32).view(-1, 4))
    instances.pred_classes, instances.scores = torch.tensor(classes).long(), torch.tensor(scores)
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
    evaluator = Evaluator(dev_images, output_dir=str(tmp_path / "out"))
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


@pytest.fixture
def registered(tmp_path) -> Iterator[Callable[[dict], str]]:
    """Call it with a COCO dict to register it; it returns the name."""
    name = "tested"

    def register(content: dict) -> str:
        write_files(tmp_path, {"gt.json": json.dumps(content)})
        register_coco_instances(name, {}, str(tmp_path / "gt.json"), str(tmp_path))
        DatasetCatalog.get(name)  # fills in the classes
        return name

    yield register
    DatasetCatalog.remove(name)
    MetadataCatalog.remove(name)


@pytest.mark.parametrize("api", ["hotcoco", "pycocotools"])
@pytest.mark.parametrize("ids", [[0, 1, 2], ["a", "b", "c"]], ids=["zero", "strings"])
def test_any_annotation_ids(tmp_path, registered, ids, api):
    """Perfect detections of three objects; pycocotools takes the id 0 for no match at all."""
    boxes = [[1, 2, 20, 30], [30, 5, 20, 20], [40, 30, 15, 25]]
    objects = [{"image_id": 1, "category_id": 1, "bbox": box, "area": 400} for box in boxes]
    content = {
        "images": [{"id": 1, "file_name": "a.png", "height": 60, "width": 80}],
        "annotations": [{"id": i, "iscrowd": 0, **x} for i, x in zip(ids, objects)],
        "categories": [{"id": 1, "name": "part"}],
    }
    corners = [[x, y, x + w, y + h] for x, y, w, h in boxes]
    evaluator = Evaluator(registered(content), coco_api=api, output_dir=str(tmp_path / "out"))
    evaluator.reset()
    evaluator.process([{"image_id": 1}], [detections(corners, [0, 0, 0], [0.9, 0.8, 0.7])])
    assert evaluator.evaluate()["bbox"]["AP"] == pytest.approx(100)


def assert_same_numbers(ours: COCOeval, reference: COCOeval) -> None:
    """Compare all results of accumulate() and summarize(), to the bit."""
    for key in ("precision", "recall", "scores"):
        np.testing.assert_array_equal(ours.eval[key], reference.eval[key])
    np.testing.assert_array_equal(ours.stats, reference.stats)


@pytest.mark.parametrize("api", ["hotcoco", "pycocotools"])
@pytest.mark.parametrize("case", ["bccd", *range(24)])
def test_numbers_are_those_of_pycocotools(request, api, case):
    """Also with string ids of images, which arrays and hotcoco do not have."""
    if case == "bccd":
        ground_truth = COCO(str(request.getfixturevalue("bccd") / "val.json"))
        results = jitter(ground_truth)
    else:
        ground_truth, results = nasty_case(case)
    reference = COCOeval(ground_truth, ground_truth.loadRes(deepcopy(results)), "bbox")
    reference.evaluate()
    reference.accumulate()
    reference.summarize()

    renamed = COCO()
    renamed.dataset = deepcopy(ground_truth.dataset)
    results = deepcopy(results)
    for x in renamed.dataset["images"]:
        x["id"] = f"image {x['id']:09}"
    for x in renamed.dataset["annotations"] + results:
        x["image_id"] = f"image {x['image_id']:09}"
    renamed.createIndex()
    assert_same_numbers(evaluate_coco(renamed, to_array(renamed, results), api=api), reference)
    assert -1 < reference.stats[0] < 1


def draw_outputs(kind: str, content: dict) -> list[dict]:
    """The outputs of a detector of boxes, masks or keypoints: objects and shifted copies."""
    generator = torch.Generator().manual_seed(0)
    outputs = []
    for image in content["images"]:
        objects = [x for x in content["annotations"] if x["image_id"] == image["id"]]
        boxes = torch.tensor([x["bbox"] for x in objects]).view(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        boxes = torch.cat([boxes, boxes + 3 * torch.rand(boxes.shape, generator=generator)])
        labels = [{7: 0, 9: 1}[x["category_id"]] for x in objects] * 2
        scores = torch.rand(len(boxes), generator=generator).tolist()
        output = detections(boxes.tolist(), labels, scores)
        instances = output["instances"]
        if kind == "masks":
            ys, xs = torch.arange(80)[:, None], torch.arange(60)
            x0, y0, x1, y1 = boxes[:, :, None, None].unbind(1)
            instances.pred_masks = (xs >= x0) & (xs < x1) & (ys >= y0) & (ys < y1)
        if kind == "keypoints":
            points = torch.tensor([x["keypoints"] for x in objects]).view(-1, 17, 3).repeat(2, 1, 1)
            instances.pred_keypoints = points + torch.rand(points.shape, generator=generator)
        outputs.append(output)
    return outputs


@pytest.mark.parametrize("api", ["hotcoco", "pycocotools"])
@pytest.mark.parametrize(
    "kind, img_ids", [("boxes", None), ("boxes", [10]), ("masks", None), ("keypoints", None)]
)
def test_results_and_file_are_those_of_coco_evaluator(tmp_path, registered, kind, img_ids, api):
    generator = torch.Generator().manual_seed(1)
    annotations = []
    for number, image in enumerate([10, 10, 10, 30, 30], start=1):
        x, y, w, h = (4 + 25 * torch.rand(4, generator=generator)).tolist()
        corners = [x, y, x + w, y, x + w, y + h, x, y + h]
        points = torch.rand(17, 2, generator=generator) * 30
        keypoints = torch.cat([points, torch.full((17, 1), 2.0)], dim=1).flatten().tolist()
        annotations.append(
            {
                **{"id": number, "image_id": image, "category_id": 7 + number % 2 * 2},
                **{"bbox": [x, y, w, h], "area": w * h, "iscrowd": 0, "segmentation": [corners]},
                **{"keypoints": keypoints, "num_keypoints": 17},
            }
        )
    content = {
        "images": [{"id": i, "file_name": f"{i}", "height": 80, "width": 60} for i in (30, 10, 20)],
        "annotations": annotations,
        "categories": [{"id": 9, "name": "nut"}, {"id": 7, "name": "bolt"}],
    }
    name = registered(content)
    results, files = [], []
    for index, make in enumerate(
        (partial(COCOEvaluator, use_fast_impl=False), partial(Evaluator, coco_api=api))
    ):
        evaluator = make(name, output_dir=str(tmp_path / str(index)))
        evaluator.reset()
        for x, output in zip(content["images"], draw_outputs(kind, content)):
            evaluator.process([{"image_id": x["id"]}], [output])
        results.append(evaluator.evaluate(img_ids))
        files.append((tmp_path / str(index) / "coco_instances_results.json").read_text())
    np.testing.assert_equal(results[1], results[0])
    tasks = {"boxes": ["bbox"], "masks": ["bbox", "segm"], "keypoints": ["bbox", "keypoints"]}
    assert list(results[0]) == tasks[kind]
    assert files[0] == files[1] and len(json.loads(files[0])) == 10


def test_processes_gather_one_tensor_each(tmp_path, registered, monkeypatch):
    """Two processes with an image each give the numbers of one with both."""
    content = {
        "images": [{"id": i, "file_name": f"{i}", "height": 80, "width": 60} for i in (1, 2)],
        "annotations": [
            {"id": i, "image_id": i, "category_id": 1, "iscrowd": 0, "bbox": box, "area": 200}
            for i, box in ((1, [1, 2, 10, 20]), (2, [30, 5, 20, 10]))
        ],
        "categories": [{"id": 1, "name": "part"}],
    }
    name = registered(content)
    outputs = [
        detections([[1, 2, 11, 22], [5, 5, 30, 30]], [0, 0], [0.6, 0.5]),
        detections([[5, 5, 30, 30], [30, 5, 50, 15]], [0, 0], [0.9, 0.4]),
    ]
    evaluators = [Evaluator(name, output_dir=str(tmp_path)) for _ in range(3)]
    for evaluator, images in zip(evaluators, ([0, 1], [0], [1])):
        evaluator.reset()
        for i in images:
            evaluator.process([{"image_id": i + 1}], [outputs[i]])
    wanted = evaluators[0].evaluate()
    gathered = []
    monkeypatch.setattr(
        "detectron2.utils.comm.gather", lambda data, dst: gathered.append(data) or gathered
    )
    evaluators[2].evaluate()
    assert [list(x) for x in gathered[0]] == [["instances"]]
    assert gathered[0][0]["instances"].shape == (2, 7)
    np.testing.assert_equal(evaluators[1].evaluate(), wanted)
    assert 0 < wanted["bbox"]["AP"] < 100


def test_api_without_hotcoco(monkeypatch):
    monkeypatch.setitem(sys.modules, "hotcoco", None)
    assert coco_classes("auto") == coco_classes("pycocotools") == (COCO, COCOeval)
    with pytest.raises(ValueError, match="TEST.COCO_API is 'hotcoco', which cannot be imported"):
        coco_classes("hotcoco")


def test_api(config):
    hotcoco = pytest.importorskip("hotcoco")
    assert coco_classes("auto") == coco_classes("hotcoco") == (hotcoco.COCO, hotcoco.COCOeval)
    args = ["--config-file", str(config), "--num-gpus", "0", "TEST.COCO_API", "cocoapi"]
    with pytest.raises(ValueError, match="TEST.COCO_API is 'cocoapi'.*auto, hotcoco, pycocotools"):
        setup(argument_parser().parse_args(args))
