from __future__ import annotations

import copy
import re

import numpy as np
import pytest
import torch
from detectron2.data import DatasetMapper
from detectron2.data import transforms as T
from detectron2.structures import BoxMode
from PIL import Image

from asff.data import UnreadableImage, build_train_mapper
from asff.data.augmentation import RandomMinIoUCrop
from asff.data.mapper import SquareMapper, WrappedDatasetMapper
from tests.data.rectangles import extent, mapped_boxes, noise, write
from tests.data.test_mixup import mix_slowly
from tests.helpers import detector_cfg


def make_dict(name: str, height: int, width: int, *objects: tuple[int, list], **more) -> dict:
    """Make a dataset dict of objects: class, and x, y, width, height."""
    annotations = [
        {"bbox": box, "bbox_mode": BoxMode.XYWH_ABS, "category_id": index, "iscrowd": 0}
        for index, box in objects
    ]
    size = {"height": height, "width": width}
    return {"file_name": name, **size, "annotations": annotations, **more}


def make_mapper(*sides: int | tuple[int, int], **options) -> SquareMapper:
    """Make a mapper that finds noise of these sizes in the files "0", "1" and so on."""
    sizes = [side if isinstance(side, tuple) else (side, side) for side in sides]
    return SquareMapper(read=lambda name: noise(*sizes[int(name)], seed=int(name)), **options)


@pytest.mark.parametrize("weight", [0.3, 0.5, 0.87])
def test_mixup_against_a_slow_loop(weight):
    """The canvas of 30 x 30 pixels is not resized; boxes keep coordinates, classes and weights."""
    first = make_dict("0", 20, 30, (3, [2.0, 4, 10, 8]), (1, [0.0, 0, 30, 20]))
    second = make_dict("1", 30, 24, (2, [5.0, 6, 7, 20]))
    mapped = make_mapper((20, 30), (30, 24))(first, second, weight=weight, size=30)
    pixels = mapped["image"].permute(1, 2, 0).numpy()
    wanted = mix_slowly(noise(20, 30), noise(30, 24, seed=1), weight)
    assert np.abs(pixels - wanted).max() <= 0.5 + 1e-6
    assert mapped_boxes(mapped) == [[2, 4, 12, 12], [0, 0, 30, 20], [5, 6, 12, 26]]
    assert mapped["instances"].gt_classes.tolist() == [3, 1, 2]
    assert mapped["instances"].gt_weights.tolist() == pytest.approx([weight, weight, 1 - weight])


@pytest.mark.parametrize("objects", [[(3, [3.0, 5, 12, 5])], []], ids=["box", "none"])
def test_keys_dtypes_and_sizes(objects):
    """x times 64 / 30, y times 64 / 20."""
    given = make_dict("0", 20, 30, *objects, image_id=7, extra="kept")
    before = copy.deepcopy(given)
    mapped = make_mapper((20, 30))(given, size=64)
    assert given == before
    assert mapped.keys() == {*before, "image", "instances", "dropped_boxes"} - {"annotations"}
    kept = {"file_name": "0", "height": 20, "width": 30, "image_id": 7, "extra": "kept"}
    assert {key: mapped[key] for key in kept} == kept
    image, instances = mapped["image"], mapped["instances"]
    assert image.shape == (3, 64, 64) and image.dtype == torch.uint8 and image.is_contiguous()
    assert instances.image_size == (64, 64) and mapped["dropped_boxes"] == 0
    assert instances.get_fields().keys() == {"gt_boxes", "gt_classes", "gt_weights"}
    wanted = torch.tensor([[6.4, 16, 32, 32]])[: len(objects)]
    torch.testing.assert_close(instances.gt_boxes.tensor, wanted)
    assert instances.gt_weights.dtype == torch.float32
    assert instances.gt_classes.dtype == torch.int64
    assert instances.gt_weights.tolist() == [1] * len(objects)


def test_without_annotations_there_are_no_instances():
    """Where the dict states no size, it is that of the file."""
    mapped = make_mapper((20, 30))({"file_name": "0"}, size=64)
    assert mapped.keys() == {"file_name", "height", "width", "image"}
    assert (mapped["height"], mapped["width"]) == (20, 30)


def test_boxes_beyond_the_border_are_clipped_before_mixup():
    """Else they would reach into the other image, which is larger."""
    first = make_dict("0", 20, 20, (0, [-5.0, 10, 100, 100]), (1, [30.0, 5, 5, 5]))
    mapped = make_mapper(20, 40)(first, make_dict("1", 40, 40), weight=0.5, size=40)
    assert mapped_boxes(mapped) == [[0, 10, 20, 20]]
    assert mapped["instances"].gt_classes.tolist() == [0]


def test_crowds_and_degenerate_boxes_are_left_out():
    """They do not count as dropped: the check before training counts them."""
    objects = [(k, [4.0 * k, 5, 6, 7]) for k in range(5)]
    objects[1], objects[2] = (1, [4.0, 5, 0, 7]), (2, [8.0, 5, 6, 0])
    given = make_dict("0", 32, 32, *objects)
    given["annotations"][3]["iscrowd"] = 1
    del given["annotations"][4]["iscrowd"]  # COCO's, which others need not have
    mapped = make_mapper(32)(given, size=32)
    assert mapped["instances"].gt_classes.tolist() == [0, 4] and mapped["dropped_boxes"] == 0


def test_too_small_boxes_are_dropped_and_counted():
    """The square has 32 pixels, half the image's 64: sides of 8 become 4."""
    boxes = [[0.0, 0, 8, 8], [9.0, 9, 7.9, 30], [9.0, 9, 30, 7.9], [20.0, 20, 8.1, 40]]
    given = make_dict("0", 64, 64, *enumerate(boxes))
    mapped = make_mapper(64, min_box_side=4)(given, size=32)
    assert mapped["instances"].gt_classes.tolist() == [0, 3] and mapped["dropped_boxes"] == 2


class Crop(T.Augmentation):
    def __init__(self, width: int, height: int):
        super().__init__()
        self.size = width, height

    def get_transform(self, image: np.ndarray) -> T.Transform:
        return T.CropTransform(0, 0, *self.size)


@pytest.mark.parametrize(
    ("share", "kept"), [(0.0, [0, 1, 2, 3]), (0.25, [0, 1, 2]), (0.26, [0, 1]), (1.0, [0])]
)
def test_boxes_of_which_too_little_remains_are_dropped(share, kept):
    """The crop is the upper left 20 x 20 pixels of 40."""
    boxes = [
        [5.0, 5, 15, 15],  # all of it remains
        [10.0, 5, 20, 10],  # a half
        [15.0, 15, 10, 10],  # a quarter
        [19.0, 19, 10, 10],  # a hundredth
        [20.0, 5, 10, 10],  # it only touches the border
        [30.0, 30, 5, 5],  # nothing
    ]
    mapper = make_mapper(40, augmentations=[Crop(20, 20)], min_box_visible=share)
    mapped = mapper(make_dict("0", 40, 40, *enumerate(boxes)), size=20)
    assert mapped["instances"].gt_classes.tolist() == kept
    assert mapped["dropped_boxes"] == 6 - len(kept)
    clipped = [[5, 5, 20, 20], [10, 5, 20, 15], [15, 15, 20, 20], [19, 19, 20, 20]]
    assert mapped_boxes(mapped) == clipped[: len(kept)]


def test_weights_stay_with_their_boxes():
    """The crop takes one box of each image away."""
    mapper = make_mapper(40, 40, augmentations=[Crop(20, 20), T.RandomFlip(prob=1.0)])
    far, near = [25.0, 25, 10, 10], [2.0, 3, 10, 10]
    first = make_dict("0", 40, 40, (0, far), (1, near))
    second = make_dict("1", 40, 40, (2, near), (3, far), (4, near))
    mapped = mapper(first, second, weight=0.3, size=20)
    assert mapped_boxes(mapped) == [[8, 3, 18, 13]] * 3
    assert mapped["instances"].gt_classes.tolist() == [1, 2, 4]
    assert mapped["instances"].gt_weights.tolist() == pytest.approx([0.3, 0.7, 0.7])
    assert mapped["dropped_boxes"] == 2


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_crops_consider_the_boxes_of_both_images(order):
    """Every crop holds the centre of the only box, whichever image it is in."""
    mapper = make_mapper(60, 60, augmentations=[RandomMinIoUCrop()])
    given = make_dict("0", 60, 60, (0, [2.0, 2, 6, 6])), make_dict("1", 60, 60)
    np.random.seed(0)
    results = [mapper(*(given[i] for i in order), weight=0.3, size=60) for _ in range(100)]
    assert all(mapped["dropped_boxes"] == 0 for mapped in results)
    weights = [mapped["instances"].gt_weights.tolist() for mapped in results]
    assert weights == [[pytest.approx(0.7 if order[0] else 0.3)]] * 100
    assert len({str(mapped_boxes(mapped)) for mapped in results}) > 30


@pytest.mark.parametrize(("augmentations", "by_area"), [([], False), ([Crop(64, 32)], True)])
def test_large_images_are_reduced_before_augmentation(augmentations, by_area):
    """To twice the square, here 64 of 128 pixels, where every pixel counts the same."""
    mapper = make_mapper((64, 128), augmentations=augmentations)
    pixels = mapper({"file_name": "0"}, size=32)["image"].permute(1, 2, 0).numpy()
    means = noise(64, 128).reshape(32, 2, 32, 4, 3).mean(axis=(1, 3))
    assert bool(np.abs(pixels - means).max() <= 1) is by_area


def test_size_that_is_not_the_files(tmp_path):
    """Of the image, or of its partner; the message names the file."""
    good = write(tmp_path / "a.png", 32, 32, {0: (0, 0, 32, 32)})
    bad = {**write(tmp_path / "b.png", 32, 32, {}), "height": 40}
    for pair in ((bad,), (bad, good), (good, bad)):
        with pytest.raises(UnreadableImage, match=r"b\.png: is 32x32 pixels, but .* say 32x40"):
            SquareMapper()(*pair, size=32)


# A chain of everything, except what makes colours of one channel those of another.
CHAIN = (
    *("INPUT.SQUARE", True, "INPUT.FORMAT", "RGB", "MODEL.PIXEL_MEAN", [0.0, 0.0, 0.0]),
    *("INPUT.COLOR.PROB", 0.5, "INPUT.COLOR.BRIGHTNESS", 8.0),
    *("INPUT.COLOR.SATURATION", 0.0, "INPUT.COLOR.HUE", 0.0),
    *("INPUT.EXPAND.PROB", 0.5, "INPUT.EXPAND.MAX_RATIO", 2.0),
    *("INPUT.AFFINE.PROB", 0.7, "INPUT.AFFINE.SCALE", 0.2, "INPUT.AFFINE.TRANSLATION", 0.2),
    *("INPUT.CROP.ENABLED", True, "INPUT.CROP.TYPE", "min_iou", "INPUT.CROP.MIN_SIZE", 0.5),
    *("INPUT.RANDOM_FLIP", "horizontal+vertical", "INPUT.RANDOM_INTERPOLATION", True),
)
STRAIGHT = ("INPUT.AFFINE.ROTATION", 0.0, "INPUT.AFFINE.SHEAR", 0.0)
EVERY_BOX = ("INPUT.MIN_BOX_SIDE", 0.0, "INPUT.MIN_BOX_VISIBLE", 0.0)
SIZE = 96


@pytest.fixture
def pair(tmp_path) -> list[dict]:
    """Write a red and a green object, and a blue one in a larger image: classes 0, 1 and 2."""
    return [
        write(tmp_path / "a.png", 90, 120, {0: (10, 15, 50, 60), 1: (70, 20, 110, 80)}),
        write(tmp_path / "b.png", 260, 200, {2: (30, 50, 150, 120)}),
    ]


def run_chain(cfg, pair, seed: int) -> tuple[np.ndarray, dict[int, np.ndarray], int]:
    """Map a sample, mixed if ``seed`` is odd.

    Returns:
        Pixels (H, W, 3), boxes by class, and the number of dropped boxes.
    """
    np.random.seed(seed)
    weight = 0.35 + 0.1 * (seed % 4)
    partner = {"partner": pair[1], "weight": weight} if seed % 2 else {}
    mapped = build_train_mapper(cfg)(pair[0], **partner, size=SIZE)
    instances, dropped = mapped["instances"], mapped["dropped_boxes"]
    assert len(instances) + dropped == (3 if partner else 2)
    classes = instances.gt_classes.tolist()
    weights = (weight, weight, 1 - weight) if partner else (1, 1)
    assert instances.gt_weights.tolist() == pytest.approx([weights[k] for k in classes])
    boxes = instances.gt_boxes.tensor.numpy()
    assert (boxes >= 0).all() and (boxes <= SIZE).all()
    return mapped["image"].permute(1, 2, 0).numpy(), dict(zip(classes, boxes)), dropped


def test_boxes_are_where_their_objects_are(pair):
    """Through everything but rotation and shear: an object has a box just where it is seen."""
    cfg = detector_cfg(*CHAIN, *STRAIGHT, *EVERY_BOX)
    clipped = dropped = 0
    for seed in range(150):
        image, boxes, lost = run_chain(cfg, pair, seed)
        for channel in range(3):
            seen = extent(image[..., channel])
            if channel in boxes and seen is not None:
                # Enlarged by up to 2, and by the nearest pixel: up to 1 pixel is of the blur.
                np.testing.assert_allclose(boxes[channel], seen, atol=2, err_msg=f"seed {seed}")
                clipped += (seen[:2] == 0).any() or (seen[2:] == SIZE).any()
            elif channel in boxes:  # less than a pixel remains of it
                assert (boxes[channel][2:] - boxes[channel][:2]).min() < 1
            else:
                assert seen is None
        dropped += lost
    assert clipped > 30 and dropped > 5


def test_boxes_enclose_rotated_objects(pair):
    """Rotation and shear, by 5 degrees at most, widen a box by a tenth of its sides at most.

    Objects that are seen have no box if its sides would be less than 8 pixels.
    """
    cfg = detector_cfg(*CHAIN, "INPUT.MIN_BOX_SIDE", 8.0)
    checked = lost = 0
    for seed in range(150):
        image, boxes, _ = run_chain(cfg, pair, seed)
        for channel, box in boxes.items():
            seen = extent(image[..., channel])
            wider = np.abs(box - seen) - 0.1 * np.tile(seen[2:] - seen[:2], 2)[[1, 0, 3, 2]]
            assert (seen[:2] >= box[:2] - 2).all() and (seen[2:] <= box[2:] + 2).all()
            assert wider.max() <= 2, f"seed {seed}"
            assert (box[2:] - box[:2]).min() >= 8
            checked += 1
        lost += sum(c not in boxes and extent(image[..., c]) is not None for c in range(3))
    assert checked > 250 and lost > 5


def wrapped_mapper(*augmentations: T.Augmentation) -> WrappedDatasetMapper:
    mapper = DatasetMapper(is_train=True, augmentations=[*augmentations], image_format="RGB")
    return WrappedDatasetMapper(mapper)


def test_wrapped_mapper(tmp_path):
    """The size stays. Of two boxes the crop keeps one or none; crowds are not counted."""
    given = write(tmp_path / "x.png", 32, 64, {0: (1, 2, 9, 9), 1: (50, 20, 60, 30)})
    given["annotations"].append({**given["annotations"][0], "iscrowd": 1})
    mapped = wrapped_mapper()(given, None, weight=1.0, size=416)
    assert mapped["image"].shape == (3, 32, 64) and mapped["dropped_boxes"] == 0
    assert mapped_boxes(mapped) == [[1, 2, 9, 9], [50, 20, 60, 30]]
    for seed in range(10):
        np.random.seed(seed)
        mapped = wrapped_mapper(T.RandomCrop("absolute", (32, 20)))(given)
        assert mapped["dropped_boxes"] == 2 - len(mapped["instances"]) > 0


def assert_unreadable(path, reason: str = "", side: int = 32, **stated: int) -> None:
    given = {"file_name": str(path), "height": side, "width": side, "annotations": [], **stated}
    with pytest.raises(UnreadableImage, match=rf"^{re.escape(str(path))}: .*{reason}"):
        wrapped_mapper()(given, size=0)


@pytest.mark.parametrize("suffix", ["jpg", "png", "bmp"])
def test_wrapped_mapper_names_truncated_files(tmp_path, suffix):
    """Wherever a file ends, the error is of the same kind."""
    path = tmp_path / f"x.{suffix}"
    assert_unreadable(path, "No such file")
    Image.fromarray(noise(32, 32)).save(path)
    data = path.read_bytes()
    for length in np.linspace(0, len(data) * 3 // 4, 20).astype(int):
        path.write_bytes(data[:length])
        assert_unreadable(path)


def test_wrapped_mapper_names_other_damage(tmp_path, monkeypatch):
    """A SyntaxError of Pillow, its limit of pixels, and a size that is not the stated one."""
    path = tmp_path / "x.png"
    Image.fromarray(noise(200, 200)).save(path)
    data = bytearray(path.read_bytes())
    assert_unreadable(path, "Mismatched image shape", width=40, height=200)
    second = data.index(b"IDAT", data.index(b"IDAT") + 4)
    data[second : second + 4] = b"\0\0\0\0"  # a chunk of a PNG file without a name
    path.write_bytes(data)
    assert_unreadable(path, side=200)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 900)
    assert_unreadable(path, r"Image size \(40000 pixels\) exceeds limit", side=200)
