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
    """The statistics of images: inputs of the network, and dataset dicts."""
    numbers, model = FusionStatistics(), model or GatedDetector()
    for image, record in images:
        numbers.add(*view_fusion(model, [image]), record)
    return numbers.to_json()


def own(found: dict, region: str) -> list[float]:
    return [found["levels"][level]["regions"][region]["self_weight"] for level in LEVELS]


def slow_numbers(views: list, records: list[dict]) -> dict:
    """By level and region, the vectors of weights, entropy and shares to be averaged."""
    found = {(level, region): [] for level in LEVELS for region in REGIONS}
    for view, record in zip(views, records):
        height, width = record["height"], record["width"]
        scale_x, scale_y = view.input_size[1] / width, view.input_size[0] / height
        for level, maps in view.maps.items():
            rows, columns = maps.activation.shape
            cells = {}
            for y in range(rows):
                for x in range(columns):
                    weights = maps.weights[:, y, x].tolist()
                    entropy = -sum(w * math.log(w) for w in weights if w) / math.log(3)
                    cells[y, x] = [*weights, entropy, *maps.shares[:, y, x].tolist()]
            taken = set()
            for annotation in record["annotations"]:
                x1, y1, w, h = annotation["bbox"]
                if w <= 0 or h <= 0:
                    continue
                x1, x2 = x1 * scale_x, (x1 + w) * scale_x
                y1, y2 = y1 * scale_y, (y1 + h) * scale_y
                centers = {cell: [(i + 0.5) * maps.stride for i in cell] for cell in cells}
                mine = [c for c, (y, x) in centers.items() if y1 <= y < y2 and x1 <= x < x2]
                assert mine  # the boxes are larger than a coarse cell's half, or it is the middle's
                taken.update(mine)
                size = "small" if w * h < 32**2 else "medium" if w * h < 96**2 else "large"
                mean = [sum(cells[cell][i] for cell in mine) / len(mine) for i in range(7)]
                found[level, size].append(mean)
            found[level, "background"] += [x for cell, x in cells.items() if cell not in taken]
            found[level, "everywhere"] += cells.values()
    return found


def test_dataset_against_slow_loops(datasets, config):
    cfg = load_config(str(config), ["MODEL.YOLOV3.FEATURE_ADAPTION", False, "INPUT.TEST_SIZE", 192])
    torch.manual_seed(0)
    model = build_model(cfg).eval()
    for fuse in model.backbone.fusion.fuse:
        nn.init.normal_(fuse.logits.weight, std=3.0)
    records, mapper = DatasetCatalog.get("shapes_val"), build_test_mapper(cfg)
    numbers, views = FusionStatistics(), []
    for record in records:
        views += view_fusion(model, [mapper(record)])
        numbers.add(views[-1], record)
    found, slow = numbers.to_json(), slow_numbers(views, records)

    assert found["images"] == len(records) == 7
    for size in ("small", "medium", "large"):
        assert found["objects"][size] == len(slow["p3", size])
    assert found["objects"]["small"] > 0 and found["objects"]["medium"] > 0
    assert found["levels"]["p4"]["regions"]["large"] is None
    for (level, region), vectors in slow.items():
        if not vectors:
            continue
        mean = [sum(column) / len(vectors) for column in zip(*vectors)]
        numbers_there = found["levels"][level]["regions"][region]
        assert list(numbers_there["weights"].values()) == pytest.approx(mean[:3], abs=1e-6)
        assert list(numbers_there["shares"].values()) == pytest.approx(mean[4:], abs=1e-6)
        assert numbers_there["entropy"] == pytest.approx(mean[3], abs=1e-6)
        assert numbers_there["self_weight"] == numbers_there["weights"][level]


def test_known_gates():
    """The object covers exactly the region where the self weights are high."""
    found = count((image_with_square((64, 0, 128, 32)), annotated([64, 0, 64, 32])))
    assert own(found, "medium") == pytest.approx([BRIGHT] * 3)
    assert own(found, "background") == pytest.approx([DARK] * 3)
    # 2 of 24 cells of 32 pixels, and as large a share of the others.
    assert own(found, "everywhere") == pytest.approx([(BRIGHT + 11 * DARK) / 12] * 3)
    dark = found["levels"]["p4"]["regions"]["background"]
    weights = (DARK, (1 - DARK) / 2, (1 - DARK) / 2)
    assert sorted(dark["weights"].values()) == pytest.approx(sorted(weights))
    entropy = -sum(w * math.log(w) for w in weights) / math.log(3)
    assert dark["entropy"] == pytest.approx(entropy, abs=1e-5)
    assert found["never_used"] == []


def test_sizes_are_those_of_boxes_in_the_image():
    """Though the network sees the image half as large."""
    image = image_with_square((0, 0, 8, 8), size=(128, 192), shown_as=(256, 384))
    boxes = [[0, 0, 32, 31.9], [0, 0, 32, 32], [0, 0, 96, 95.9], [0, 0, 96, 96], [9, 9, 200, 200]]
    assert count((image, annotated(*boxes)))["objects"] == {"small": 1, "medium": 2, "large": 2}


def test_boxes_are_scaled_to_the_input():
    image = image_with_square((64, 0, 128, 32), size=(128, 192), shown_as=(256, 96))
    found = count((image, annotated([32, 0, 32, 64])))
    assert own(found, "medium") == pytest.approx([BRIGHT] * 3)
    assert own(found, "background") == pytest.approx([DARK] * 3)


@pytest.mark.parametrize(
    "box", [[65, 1, 4, 4], [90, 1, 4, 4], [64, 0, 1, 30], [95, 31, 1, 1]], ids=str
)
def test_objects_without_the_centre_of_a_location_count_at_their_own_centre(box):
    found = count((image_with_square((64, 0, 96, 32)), annotated(box)))
    assert own(found, "small") == pytest.approx([BRIGHT] * 3)
    assert found["objects"]["small"] == 1


def test_every_object_counts_the_same():
    """A large one on dark ground does not outweigh one on bright ground."""
    image = image_with_square((0, 0, 32, 32))
    found = count((image, annotated([0, 0, 32, 32], [64, 0, 64, 64])))
    assert own(found, "medium") == pytest.approx([(BRIGHT + DARK) / 2] * 3)


def test_objects_at_and_beyond_the_border():
    image = image_with_square((160, 96, 192, 128))
    boxes = [[160, 96, 100, 100], [191.5, 127.5, 0.5, 0.5], [300, 0, 20, 20], [0, 0, 0, 20]]
    found = count((image, annotated(*boxes)))
    assert found["objects"] == {"small": 1, "medium": 0, "large": 1}
    assert own(found, "small") == own(found, "large") == pytest.approx([BRIGHT] * 3)


def test_crowds_are_neither_objects_nor_background():
    image = image_with_square((64, 0, 128, 32))
    found = count((image, annotated([64, 0, 64, 32], iscrowd=1)))
    assert sum(found["objects"].values()) == 0
    assert found["levels"]["p3"]["regions"]["medium"] is None
    assert own(found, "background") == pytest.approx([DARK] * 3)


def test_images_without_objects_or_annotations():
    image = image_with_square((64, 0, 128, 32))
    found = count((image, annotated()), (image, {}))
    assert found["images"] == 2
    assert own(found, "background") == own(found, "everywhere")


def mute(model: GatedDetector, source: str, *levels: str) -> GatedDetector:
    """Let these levels give no weight to the source."""
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
