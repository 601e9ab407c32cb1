"""The square mapper: mixup, boxes that stay with their objects, and what is dropped."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from detectron2.data import transforms as T
from detectron2.structures import BoxMode

from asff.data.augmentation import RandomMinIoUCrop
from asff.data.build import build_train_mapper
from asff.data.image_io import UnreadableImage
from asff.data.mapper import SquareMapper
from asff.data.mixup import mix_images
from tests.data.rectangles import extent, mapped_boxes, write
from tests.helpers import detector_cfg


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3)).astype(np.uint8)


def mix_slowly(image: np.ndarray, other: np.ndarray, weight: float) -> np.ndarray:
    """Pixel by pixel; (H, W, 3) of numbers that are not yet rounded."""
    height = max(image.shape[0], other.shape[0])
    width = max(image.shape[1], other.shape[1])
    mixed = np.zeros((height, width, 3))
    for y in range(height):
        for x in range(width):
            for pixels, share in ((image, weight), (other, 1 - weight)):
                if y < pixels.shape[0] and x < pixels.shape[1]:
                    mixed[y, x] += share * pixels[y, x].astype(float)
    return mixed


SIZES = [((20, 30), (30, 24)), ((20, 30), (20, 30)), ((30, 30), (7, 5)), ((1, 9), (9, 1))]


@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("weight", [0.0, 0.3, 0.5, 0.87, 1.0])
def test_mixed_pixels(sizes, weight):
    image, other = noise(*sizes[0]), noise(*sizes[1], seed=1)
    before = image.copy(), other.copy()
    mixed = mix_images(image, other, weight)
    assert mixed.dtype == np.uint8
    assert np.abs(mixed - mix_slowly(image, other, weight)).max() <= 0.5 + 1e-6
    np.testing.assert_array_equal(image, before[0])
    np.testing.assert_array_equal(other, before[1])


def record(name: str, height: int, width: int, *objects: tuple[int, list], **more) -> dict:
    """A dataset dict of objects: class, and x, y, width, height."""
    annotations = [
        {"bbox": box, "bbox_mode": BoxMode.XYWH_ABS, "category_id": index, "iscrowd": 0}
        for index, box in objects
    ]
    size = {"height": height, "width": width}
    return {"file_name": name, **size, "annotations": annotations, **more}


def reader(**images: np.ndarray):
    """In place of files: images by name."""
    return lambda name: images[name].copy()


@pytest.mark.parametrize("weight", [0.3, 0.5, 0.87])
def test_mixup_against_a_slow_loop(weight):
    """The canvas of 30 x 30 pixels is not resized; every box keeps place, class and weight."""
    images = {"a": noise(20, 30), "b": noise(30, 24, seed=1)}
    mapper = SquareMapper(read=reader(**images))
    first = record("a", 20, 30, (3, [2.0, 4, 10, 8]), (1, [0.0, 0, 30, 20]))
    second = record("b", 30, 24, (2, [5.0, 6, 7, 20]))
    mapped = mapper(first, second, weight=weight, size=30)
    pixels = mapped["image"].permute(1, 2, 0).numpy()
    assert np.abs(pixels - mix_slowly(images["a"], images["b"], weight)).max() <= 0.5 + 1e-6
    truths = mapped["instances"]
    assert mapped_boxes(mapped) == [[2, 4, 12, 12], [0, 0, 30, 20], [5, 6, 12, 26]]
    assert truths.gt_classes.tolist() == [3, 1, 2]
    assert truths.gt_weights.tolist() == pytest.approx([weight, weight, 1 - weight])


def test_mixing_an_image_with_one_without_objects():
    mapper = SquareMapper(read=reader(a=noise(32, 32), b=noise(32, 32)))
    empty, full = record("a", 32, 32), record("b", 32, 32, (1, [1.0, 2, 3, 4]))
    for first, second, weight in ((empty, full, 0.3), (full, empty, 0.7)):
        truths = mapper(first, second, weight=weight, size=32)["instances"]
        assert truths.gt_weights.tolist() == pytest.approx([0.7])


def test_what_the_mapper_returns():
    """x times 64 / 30, y times 64 / 20."""
    mapper = SquareMapper(read=reader(a=noise(20, 30)))
    given = record("a", 20, 30, (3, [3.0, 5, 12, 5]), image_id=7, extra="kept")
    before = copy.deepcopy(given)
    mapped = mapper(given, size=64)
    assert given == before
    assert mapped.keys() == {*before, "image", "instances", "dropped_boxes"} - {"annotations"}
    assert (mapped["height"], mapped["width"]) == (20, 30)  # of the file
    assert (mapped["file_name"], mapped["image_id"], mapped["extra"]) == ("a", 7, "kept")
    image, truths = mapped["image"], mapped["instances"]
    assert image.shape == (3, 64, 64) and image.dtype == torch.uint8 and image.is_contiguous()
    assert truths.image_size == (64, 64)
    assert truths.get_fields().keys() == {"gt_boxes", "gt_classes", "gt_weights"}
    assert np.allclose(mapped_boxes(mapped), [[6.4, 16, 32, 32]])
    assert truths.gt_boxes.tensor.dtype == truths.gt_weights.dtype == torch.float32
    assert truths.gt_classes.dtype == torch.int64
    assert truths.gt_weights.tolist() == [1]


def test_without_annotations_there_are_no_instances():
    """As in evaluation. Where the dict says no size, the file does."""
    mapped = SquareMapper(read=reader(a=noise(20, 30)))({"file_name": "a"}, size=64)
    assert mapped.keys() == {"file_name", "height", "width", "image"}
    assert (mapped["height"], mapped["width"]) == (20, 30)


def test_an_image_without_boxes():
    mapped = SquareMapper(read=reader(a=noise(20, 30)))(record("a", 20, 30), size=64)
    truths = mapped["instances"]
    assert truths.gt_boxes.tensor.shape == (0, 4) and mapped["dropped_boxes"] == 0
    assert truths.gt_boxes.tensor.dtype == truths.gt_weights.dtype == torch.float32
    assert truths.gt_classes.dtype == torch.int64 and len(truths) == 0


def test_boxes_of_whole_numbers():
    """30 pixels become 64: nothing is rounded."""
    mapper = SquareMapper(read=reader(a=noise(30, 30)))
    mapped = mapper(record("a", 30, 30, (0, [1, 2, 3, 4])), size=64)
    assert np.allclose(mapped_boxes(mapped), np.array([[1, 2, 4, 6]]) * 64 / 30)


def test_boxes_in_either_mode():
    mapper = SquareMapper(read=reader(a=noise(32, 32)))
    given = record("a", 32, 32, (0, [1.0, 2, 13, 14]), (0, [1.0, 2, 13, 14]))
    given["annotations"][1]["bbox_mode"] = BoxMode.XYXY_ABS
    assert mapped_boxes(mapper(given, size=32)) == [[1, 2, 14, 16], [1, 2, 13, 14]]


def test_boxes_beyond_the_border_are_clipped_before_mixup():
    """Else they would reach into the other image, which is larger."""
    mapper = SquareMapper(read=reader(a=noise(20, 20), b=noise(40, 40)))
    first = record("a", 20, 20, (0, [-5.0, 10, 100, 100]), (1, [30.0, 5, 5, 5]))
    mapped = mapper(first, record("b", 40, 40), weight=0.5, size=40)
    assert mapped_boxes(mapped) == [[0, 10, 20, 20]]
    assert mapped["instances"].gt_classes.tolist() == [0]


def test_crowds_and_boxes_without_area_are_left_out():
    """The check before training counts them: they are not what augmentation drops."""
    objects = [(k, [4.0 * k, 5, 6, 7]) for k in range(5)]
    objects[1] = (1, [4.0, 5, 0, 7])
    objects[2] = (2, [8.0, 5, 6, 0])
    given = record("a", 32, 32, *objects)
    given["annotations"][3]["iscrowd"] = 1
    del given["annotations"][4]["iscrowd"]  # COCO's, which others need not have
    mapped = SquareMapper(read=reader(a=noise(32, 32)))(given, size=32)
    assert mapped["instances"].gt_classes.tolist() == [0, 4]
    assert mapped["dropped_boxes"] == 0


def test_too_small_boxes_are_dropped_and_counted():
    """The square has 32 pixels, half the image's 64: sides of 8 become 4."""
    mapper = SquareMapper(read=reader(a=noise(64, 64)), min_box_side=4)
    boxes = [[0.0, 0, 8, 8], [9.0, 9, 7.9, 30], [9.0, 9, 30, 7.9], [20.0, 20, 8.1, 40]]
    mapped = mapper(record("a", 64, 64, *enumerate(boxes)), size=32)
    assert mapped["instances"].gt_classes.tolist() == [0, 3]
    assert mapped["dropped_boxes"] == 2


class Crop(T.Augmentation):
    """Always the same crop."""

    def __init__(self, x: int, y: int, width: int, height: int):
        super().__init__()
        self.window = x, y, width, height

    def get_transform(self, image: np.ndarray) -> T.Transform:
        return T.CropTransform(*self.window)


@pytest.mark.parametrize(
    ("share", "kept"), [(0.0, [0, 1, 2, 3]), (0.25, [0, 1, 2]), (0.26, [0, 1]), (1.0, [0])]
)
def test_boxes_of_which_too_little_is_left_are_dropped(share, kept):
    """The crop is the upper left 20 x 20 pixels of 40."""
    mapper = SquareMapper(
        read=reader(a=noise(40, 40)), augmentations=[Crop(0, 0, 20, 20)], min_box_visible=share
    )
    boxes = [
        [5.0, 5, 15, 15],  # all of it is left
        [10.0, 5, 20, 10],  # a half
        [15.0, 15, 10, 10],  # a quarter
        [19.0, 19, 10, 10],  # a hundredth
        [20.0, 5, 10, 10],  # it only touches the border
        [30.0, 30, 5, 5],  # nothing
    ]
    mapped = mapper(record("a", 40, 40, *enumerate(boxes)), size=20)
    assert mapped["instances"].gt_classes.tolist() == kept
    assert mapped["dropped_boxes"] == 6 - len(kept)
    clipped = [[5, 5, 20, 20], [10, 5, 20, 15], [15, 15, 20, 20], [19, 19, 20, 20]]
    assert mapped_boxes(mapped) == clipped[: len(kept)]


def test_weights_stay_with_their_boxes():
    """The crop takes one box of each image away."""
    mapper = SquareMapper(
        read=reader(a=noise(40, 40), b=noise(40, 40)),
        augmentations=[Crop(0, 0, 20, 20), T.RandomFlip(prob=1.0)],
    )
    far, near = [25.0, 25, 10, 10], [2.0, 3, 10, 10]
    first = record("a", 40, 40, (0, far), (1, near))
    second = record("b", 40, 40, (2, near), (3, far), (4, near))
    mapped = mapper(first, second, weight=0.3, size=20)
    assert mapped_boxes(mapped) == [[8, 3, 18, 13]] * 3
    assert mapped["instances"].gt_classes.tolist() == [1, 2, 4]
    assert mapped["instances"].gt_weights.tolist() == pytest.approx([0.3, 0.7, 0.7])
    assert mapped["dropped_boxes"] == 2


@pytest.mark.parametrize(("augmentations", "area"), [([], False), ([Crop(0, 0, 64, 32)], True)])
def test_large_images_are_reduced_before_augmentation(augmentations, area):
    """To twice the square, here 64 of 128 pixels: the crop would else be half of what it is."""
    image = noise(64, 128)
    mapper = SquareMapper(read=reader(a=image), augmentations=augmentations)
    pixels = mapper({"file_name": "a"}, size=32)["image"].permute(1, 2, 0).numpy()
    # By area: every pixel counts the same.
    means = image.reshape(32, 2, 32, 4, 3).mean(axis=(1, 3))
    difference = np.abs(pixels - means)
    assert bool(difference.max() <= 1) is area


def test_a_square_for_each_size():
    mapper = SquareMapper(read=reader(a=noise(20, 30)))
    for size in (32, 64, 96):
        mapped = mapper(record("a", 20, 30, (0, [0, 0, 30, 20])), size=size)
        assert mapped["image"].shape == (3, size, size)
        assert mapped_boxes(mapped) == [[0, 0, size, size]]


def test_order_of_channels(tmp_path):
    """The rectangle is red."""
    given = write(tmp_path / "x.png", 32, 32, {0: (0, 0, 32, 32)})
    for image_format, channel in (("RGB", 0), ("BGR", 2)):
        pixels = SquareMapper(image_format=image_format)(given, size=32)["image"]
        assert pixels.float().mean(dim=(1, 2)).argmax() == channel


def test_size_that_is_not_the_files(tmp_path):
    """Of the image, or of its partner; the message names the file."""
    good = write(tmp_path / "a.png", 32, 32, {0: (0, 0, 32, 32)})
    bad = {**write(tmp_path / "b.png", 32, 32, {}), "height": 40}
    for pair in ((bad,), (bad, good), (good, bad)):
        with pytest.raises(UnreadableImage) as caught:
            SquareMapper()(*pair, size=32)
        wanted = f"{bad['file_name']}: is 32x32 pixels, but its annotations say 32x40"
        assert str(caught.value) == wanted


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
    """A red and a green object; a blue one in a larger picture. Classes 0, 1 and 2."""
    return [
        write(tmp_path / "a.png", 90, 120, {0: (10, 15, 50, 60), 1: (70, 20, 110, 80)}),
        write(tmp_path / "b.png", 260, 200, {2: (30, 50, 150, 120)}),
    ]


def whole_chain(cfg, pair, seed: int) -> tuple[np.ndarray, dict[int, np.ndarray], dict]:
    """Pixels (H, W, 3), and boxes by class, of a draw: every other one is mixed."""
    np.random.seed(seed)
    weight = 0.35 + 0.1 * (seed % 4)
    partner = {"partner": pair[1], "weight": weight} if seed % 2 else {}
    mapped = build_train_mapper(cfg)(pair[0], **partner, size=SIZE)
    assert mapped["image"].shape == (3, SIZE, SIZE)
    truths = mapped["instances"]
    assert len(truths) + mapped["dropped_boxes"] == (3 if partner else 2)
    classes = truths.gt_classes.tolist()
    assert len(set(classes)) == len(classes)
    weights = (weight, weight, 1 - weight) if partner else (1, 1)
    assert truths.gt_weights.tolist() == pytest.approx([weights[k] for k in classes])
    boxes = truths.gt_boxes.tensor.numpy()
    assert (boxes >= 0).all() and (boxes <= SIZE).all()
    return mapped["image"].permute(1, 2, 0).numpy(), dict(zip(classes, boxes)), mapped


def test_boxes_are_where_their_objects_are(pair):
    """Through everything but rotation and shear: an object has a box just where it is seen."""
    cfg = detector_cfg(*CHAIN, *STRAIGHT, *EVERY_BOX)
    clipped = dropped = 0
    for seed in range(150):
        image, boxes, mapped = whole_chain(cfg, pair, seed)
        for channel in range(3):
            seen = extent(image[..., channel])
            if channel in boxes and seen is not None:
                # Upscaled by up to 2, and by the nearest pixel: up to 1 pixel is of the blur.
                np.testing.assert_allclose(boxes[channel], seen, atol=2, err_msg=f"seed {seed}")
                clipped += (seen[:2] == 0).any() or (seen[2:] == SIZE).any()
            elif channel in boxes:  # less than a pixel is left of it
                assert (boxes[channel][2:] - boxes[channel][:2]).min() < 1
            else:
                assert seen is None
        dropped += mapped["dropped_boxes"]
    assert clipped > 30 and dropped > 5


def test_boxes_enclose_turned_objects(pair):
    """Rotation and shear, by 5 degrees at most, widen a box by a tenth of its sides at most."""
    cfg = detector_cfg(*CHAIN, "INPUT.MIN_BOX_SIDE", 8.0)
    checked = 0
    for seed in range(150):
        image, boxes, _ = whole_chain(cfg, pair, seed)
        for channel, box in boxes.items():
            seen = extent(image[..., channel])
            wider = np.abs(box - seen) - 0.1 * np.tile(seen[2:] - seen[:2], 2)[[1, 0, 3, 2]]
            assert (seen[:2] >= box[:2] - 2).all() and (seen[2:] <= box[2:] + 2).all()
            assert wider.max() <= 2, f"seed {seed}"
            checked += 1
    assert checked > 250


def test_limits_of_boxes_from_the_config(pair):
    """Every kept box has the least side and share; some that are seen have not."""
    cfg = detector_cfg(*CHAIN, *STRAIGHT, "INPUT.MIN_BOX_SIDE", 12.0)
    lost = 0
    for seed in range(100):
        image, boxes, _ = whole_chain(cfg, pair, seed)
        for box in boxes.values():
            assert (box[2:] - box[:2]).min() >= 12
        seen = {channel for channel in range(3) if extent(image[..., channel]) is not None}
        lost += len(seen - set(boxes))
    assert lost > 5


def test_same_numpy_seed_same_example(pair):
    cfg = detector_cfg(*CHAIN)
    for seed in range(5):
        image, boxes, _ = whole_chain(cfg, pair, seed)
        again, other, _ = whole_chain(cfg, pair, seed)
        np.testing.assert_array_equal(image, again)
        assert boxes.keys() == other.keys()


def test_crops_know_the_boxes_of_both_images():
    """Without them a crop would cut where the partner's objects are."""
    seen = []

    class Spy(RandomMinIoUCrop):
        def get_transform(self, image: np.ndarray, boxes: np.ndarray) -> T.Transform:
            seen.append(boxes.tolist())
            return super().get_transform(image, boxes)

    mapper = SquareMapper(read=reader(a=noise(32, 32), b=noise(32, 32)), augmentations=[Spy()])
    first, second = (record(n, 32, 32, (0, [k, 2.0, 8, 8])) for k, n in enumerate("ab", 1))
    mapper(first, second, weight=0.5, size=32)
    assert seen == [[[1, 2, 9, 10], [2, 2, 10, 10]]]
