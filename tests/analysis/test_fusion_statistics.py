"""Fusion statistics of a dataset, against slow loops over locations and known gates."""

from __future__ import annotations

import math

import pytest
import torch
from detectron2.data import DatasetCatalog
from detectron2.modeling import build_model
from detectron2.structures import BoxMode
from torch import nn

from asff.analysis import FusionStatistics, view_fusion
from asff.analysis.fusion_statistics import REGIONS
from asff.config_files import load_config
from asff.data import build_test_mapper
from tests.analysis.gates import BRIGHT, DARK, GatedDetector, image_with_square

pytestmark = pytest.mark.usefixtures("one_thread")

LEVELS = ["p5", "p4", "p3"]


def annotated(*boxes: list[float], **fields: object) -> dict:
    mode = {"bbox_mode": BoxMode.XYWH_ABS, "category_id": 0, **fields}
    return {"annotations": [{"bbox": list(box), **mode} for box in boxes]}


def count(*images: tuple[dict, dict], model: nn.Module | None = None) -> dict:
    """Return the statistics of images: inputs of the network, and dataset dicts."""
    statistics, model = FusionStatistics(), model or GatedDetector()
    for image, dataset_dict in images:
        statistics.add(*view_fusion(model, [image]), dataset_dict)
    return statistics.to_json()


def self_weights(found: dict, region: str) -> list[float]:
    return [found["levels"][level]["regions"][region]["self_weight"] for level in LEVELS]


def slow_numbers(views: list, dataset_dicts: list[dict]) -> dict:
    """Return by level and region the vectors of weights, entropy and shares to be averaged."""
    found = {(level, region): [] for level in LEVELS for region in REGIONS}
    for view, dataset_dict in zip(views, dataset_dicts):
        height, width = dataset_dict["height"], dataset_dict["width"]
        scale_x, scale_y = view.input_size[1] / width, view.input_size[0] / height
        for level, maps in view.maps.items():
            rows, columns = maps.activation.shape
            locations = {}
            for y in range(rows):
                for x in range(columns):
                    weights = maps.weights[:, y, x].tolist()
                    entropy = -sum(w * math.log(w) for w in weights if w) / math.log(3)
                    locations[y, x] = [*weights, entropy, *maps.shares[:, y, x].tolist()]
            covered = set()
            for annotation in dataset_dict["annotations"]:
                x1, y1, w, h = annotation["bbox"]
                if w <= 0 or h <= 0:
                    continue
                x1, x2 = x1 * scale_x, (x1 + w) * scale_x
                y1, y2 = y1 * scale_y, (y1 + h) * scale_y
                centers = {each: [(i + 0.5) * maps.stride for i in each] for each in locations}
                inside = [each for each, (y, x) in centers.items() if y1 <= y < y2 and x1 <= x < x2]
                assert inside  # no box is so small that it contains no centre
                covered.update(inside)
                size = "small" if w * h < 32**2 else "medium" if w * h < 96**2 else "large"
                vectors = [locations[each] for each in inside]
                found[level, size].append([sum(x) / len(vectors) for x in zip(*vectors)])
            outside = [x for each, x in locations.items() if each not in covered]
            found[level, "background"] += outside
            found[level, "everywhere"] += locations.values()
    return found


def test_dataset_against_slow_loops(datasets, config):
    cfg = load_config(str(config), ["MODEL.YOLOV3.FEATURE_ADAPTION", False, "INPUT.TEST_SIZE", 192])
    torch.manual_seed(0)
    model = build_model(cfg).eval()
    for fuse in model.backbone.fusion.fuse:
        nn.init.normal_(fuse.logits.weight, std=3.0)
    dataset_dicts, mapper = DatasetCatalog.get("shapes_val"), build_test_mapper(cfg)
    statistics, views = FusionStatistics(), []
    for dataset_dict in dataset_dicts:
        views += view_fusion(model, [mapper(dataset_dict)])
        statistics.add(views[-1], dataset_dict)
    found, slow = statistics.to_json(), slow_numbers(views, dataset_dicts)

    assert found["images"] == len(dataset_dicts) == 7
    for size in ("small", "medium", "large"):
        assert found["objects"][size] == len(slow["p3", size])
    assert found["objects"]["small"] > 0 and found["objects"]["medium"] > 0
    assert found["levels"]["p4"]["regions"]["large"] is None
    for (level, region), vectors in slow.items():
        if not vectors:
            continue
        mean = [sum(column) / len(vectors) for column in zip(*vectors)]
        means = found["levels"][level]["regions"][region]
        numbers = [*means["weights"].values(), means["entropy"], *means["shares"].values()]
        assert numbers == pytest.approx(mean, abs=1e-6)
        assert means["self_weight"] == means["weights"][level]


@pytest.mark.parametrize(
    "shown_as, box",
    [(None, [64, 0, 64, 32]), ((256, 96), [32, 0, 32, 64])],
    ids=["same size", "other size"],
)
def test_known_gates(shown_as, box):
    """The object covers exactly the region where the self weights are high."""
    image = image_with_square((64, 0, 128, 32), shown_as=shown_as)
    found = count((image, annotated(box)))
    assert self_weights(found, "medium") == pytest.approx([BRIGHT] * 3)
    assert self_weights(found, "background") == pytest.approx([DARK] * 3)
    # 2 of 24 locations of stride 32, and the same share of the others.
    assert self_weights(found, "everywhere") == pytest.approx([(BRIGHT + 11 * DARK) / 12] * 3)
    dark = found["levels"]["p4"]["regions"]["background"]
    weights = (DARK, (1 - DARK) / 2, (1 - DARK) / 2)
    assert sorted(dark["weights"].values()) == pytest.approx(sorted(weights))
    entropy = -sum(w * math.log(w) for w in weights) / math.log(3)
    assert dark["entropy"] == pytest.approx(entropy, abs=1e-5)
    assert found["never_used"] == []


def test_sizes_are_those_of_boxes_in_the_image():
    """The network gets the image at half its size."""
    image = image_with_square((0, 0, 8, 8), size=(128, 192), shown_as=(256, 384))
    boxes = [[0, 0, 32, 31.9], [0, 0, 32, 32], [0, 0, 96, 95.9], [0, 0, 96, 96], [9, 9, 200, 200]]
    assert count((image, annotated(*boxes)))["objects"] == {"small": 1, "medium": 2, "large": 2}


@pytest.mark.parametrize(
    "box", [[65, 1, 4, 4], [90, 1, 4, 4], [64, 0, 1, 30], [95, 31, 1, 1]], ids=str
)
def test_objects_that_contain_no_centre_of_a_location(box):
    found = count((image_with_square((64, 0, 96, 32)), annotated(box)))
    assert self_weights(found, "small") == pytest.approx([BRIGHT] * 3)
    assert found["objects"]["small"] == 1


def test_objects_at_and_beyond_the_border():
    image = image_with_square((160, 96, 192, 128))
    boxes = [[160, 96, 100, 100], [191.5, 127.5, 0.5, 0.5], [300, 0, 20, 20], [0, 0, 0, 20]]
    found = count((image, annotated(*boxes)))
    assert found["objects"] == {"small": 1, "medium": 0, "large": 1}
    for size in ("small", "large"):
        assert self_weights(found, size) == pytest.approx([BRIGHT] * 3)


def test_images_without_objects():
    """A crowd is neither an object nor background."""
    image = image_with_square((64, 0, 128, 32))
    found = count((image, annotated([64, 0, 64, 32], iscrowd=1)))
    assert sum(found["objects"].values()) == 0
    assert found["levels"]["p3"]["regions"]["medium"] is None
    assert self_weights(found, "background") == pytest.approx([DARK] * 3)
    found = count((image, annotated()), (image, {}))
    assert found["images"] == 2
    assert self_weights(found, "background") == self_weights(found, "everywhere")


def mute(model: GatedDetector, source: str, *levels: str) -> GatedDetector:
    """Set the weight that these levels give to the source to 0."""
    for level in levels:
        bias = model.backbone.fusion.fuse[LEVELS.index(level)].logits.bias
        bias.data[LEVELS.index(source)] = -40.0
    return model


@pytest.mark.parametrize("users", [(), *((level,) for level in LEVELS)], ids=str)
def test_levels_that_are_never_used(users):
    """A level is used if any level, even itself alone, gives weight to it."""
    assert FusionStatistics().to_json()["never_used"] == []
    model = mute(GatedDetector(), "p4", *(level for level in LEVELS if level not in users))
    found = count((image_with_square((64, 0, 128, 32)), annotated([64, 0, 64, 32])), model=model)
    assert found["never_used"] == ([] if users else ["p4"])
