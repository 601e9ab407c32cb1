from __future__ import annotations

import threading

import cv2
import numpy as np
import pytest
import torch
from detectron2.config import CfgNode, get_cfg

from asff import add_asff_config
from asff.config_files import load_config
from asff.data import (
    UnreadableImage,
    build_pixel_mapper,
    build_reader,
    build_test_loader,
    build_test_mapper,
    read_ahead,
    resized_shape,
)
from tests.helpers import detector_cfg
from tests.training import NUM_VAL

SQUARE = ("INPUT.SQUARE", True, "INPUT.TEST_SIZE", 32)


def retinanet_cfg() -> CfgNode:
    """Detectron2's mapper: the shorter side to 150 pixels."""
    cfg = get_cfg()
    cfg.MODEL.META_ARCHITECTURE = "RetinaNet"
    cfg.INPUT.MIN_SIZE_TEST = 150
    add_asff_config(cfg)
    return cfg


@pytest.mark.parametrize("image_format", ["RGB", "BGR"])
def test_squares_keep_the_original_size(dataset_dict, image_format):
    """The detector maps its boxes back to it. The image is red, its left fifth blue."""
    options = ("INPUT.FORMAT", image_format, "INPUT.RANDOM_FLIP", "horizontal")
    mapped = build_test_mapper(detector_cfg(*SQUARE, *options))(dataset_dict)
    assert mapped["image"].shape == (3, 32, 32)
    assert (mapped["height"], mapped["width"]) == (50, 100)
    assert not {"instances", "annotations"} & mapped.keys() and "annotations" in dataset_dict
    blue = mapped["image"][:, 15, 5].tolist()
    assert blue == ([0, 0, 200] if image_format == "RGB" else [200, 0, 0])


@pytest.mark.parametrize(
    "cfg",
    [
        retinanet_cfg(),
        detector_cfg(*SQUARE, "INPUT.FORMAT", "RGB"),
        detector_cfg(*SQUARE, "INPUT.FORMAT", "BGR"),
    ],
    ids=["RetinaNet", "RGB", "BGR"],
)
def test_pixels_are_mapped_as_dataset_dicts(dataset_dict, cfg):
    file = dataset_dict["file_name"]
    pixels = build_reader(cfg)(file)
    np.testing.assert_array_equal(pixels, cv2.imread(file)[..., ::-1])
    mapped, wanted = build_pixel_mapper(cfg)(pixels), build_test_mapper(cfg)(dataset_dict)
    assert torch.equal(mapped["image"], wanted["image"])
    assert (mapped["height"], mapped["width"]) == (50, 100)
    assert resized_shape(cfg, 50, 100) == mapped["image"].shape[1:]


def test_resizing_may_be_off():
    cfg = retinanet_cfg()
    cfg.INPUT.MIN_SIZE_TEST = 0
    assert resized_shape(cfg, 50, 100) == (50, 100)


@pytest.mark.parametrize("cfg", [retinanet_cfg(), detector_cfg(*SQUARE)], ids=["RetinaNet", "ours"])
def test_unreadable_files_are_named(dataset_dict, cfg):
    with open(dataset_dict["file_name"], "r+b") as file:
        file.truncate(50)
    with pytest.raises(UnreadableImage, match=r"image\.png: .*truncated"):
        build_reader(cfg)(dataset_dict["file_name"])
    if cfg.INPUT.SQUARE:
        with pytest.raises(UnreadableImage, match=r"image\.png: .*truncated"):
            build_test_mapper(cfg)(dataset_dict)


def test_other_size_than_stated_is_refused(dataset_dict):
    with pytest.raises(UnreadableImage, match=r"image\.png: is 100x50 pixels.*say 100x51"):
        build_test_mapper(detector_cfg(*SQUARE))({**dataset_dict, "height": 51})


def test_formats_without_colour_are_refused():
    with pytest.raises(ValueError, match=r"INPUT\.FORMAT is 'L'.*'RGB' or 'BGR'"):
        build_pixel_mapper(detector_cfg("INPUT.FORMAT", "L"))


@pytest.mark.parametrize(("batch_size", "sizes"), [(1, [1] * NUM_VAL), (3, [3, 3, 1])])
def test_loader_passes_once(config, batch_size, sizes):
    cfg = load_config(str(config), ["TEST.IMS_PER_BATCH", batch_size])
    loader = build_test_loader(cfg, "shapes_val")
    batches = [[x["image_id"] for x in batch] for batch in loader]
    assert sum(batches, []) == list(range(1, NUM_VAL + 1))
    assert len(loader) == len(sizes) and list(map(len, batches)) == sizes


@pytest.mark.parametrize("count", [0, 2, 9])
def test_items_are_read_ahead(count):
    """In order, by threads, no more of them than asked for, and errors where they belong."""
    threads, called = set(), []

    def read(item: int) -> int:
        threads.add(threading.current_thread())
        called.append(item)
        return 6 // (item - 3)

    futures = read_ahead(read, range(6), count)
    assert called == []
    results = []
    for item, future in enumerate(futures):
        if item == 3:
            with pytest.raises(ZeroDivisionError):
                future.result()
        else:
            results.append(future.result())
        assert max(called) <= item + count
    assert results == [-2, -3, -6, 6, 3] and sorted(called) == list(range(6))
    assert threading.current_thread() not in threads


def test_reading_goes_on_while_an_item_is_used():
    started = threading.Event()
    futures = read_ahead(lambda item: started.set() if item else None, range(2), 1)
    next(futures)
    assert started.wait(timeout=10)
