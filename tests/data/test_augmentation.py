"""Random geometry and colour: what may come out, and that boxes follow their objects."""

from __future__ import annotations

import colorsys
from collections import Counter

import cv2
import numpy as np
import pytest
from detectron2.data import DatasetMapper
from detectron2.data import transforms as T

from asff.data.augmentation import (
    FILL,
    RandomAffine,
    RandomColor,
    RandomExpand,
    RandomMinIoUCrop,
    ResizeLongestEdge,
    ResizeSquare,
)
from tests.data.rectangles import draw, extent, write

ALL = [
    RandomColor(),
    RandomExpand(),
    RandomAffine(),
    RandomAffine(rotation=40, shear=20, scale=0.3, translation=0.3),
    RandomMinIoUCrop(),
    ResizeLongestEdge(30),
    ResizeSquare(64, (cv2.INTER_LINEAR, cv2.INTER_NEAREST)),
]


def noise(height: int = 20, width: int = 30) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3)).astype(np.uint8)


def augment(augmentation, image, boxes=None, seed=0) -> tuple[np.ndarray, np.ndarray | None]:
    np.random.seed(seed)
    view = T.AugInput(image, boxes=boxes)
    T.AugmentationList([augmentation])(view)
    return view.image, view.boxes


class Draws:
    """In place of numpy's uniform(): values put down beforehand."""

    def __init__(self, monkeypatch, *values):
        self.values = [np.asarray(value, float) for value in values]
        monkeypatch.setattr(np.random, "uniform", self)

    def __call__(self, *args, **kwargs) -> np.ndarray:
        return self.values.pop(0)


def distort(monkeypatch, image, image_format="RGB", **draws: float) -> np.ndarray:
    """Colour distortion of which only the named parts happen, by these shares of their limits."""
    parts = ("brightness", "contrast", "saturation", "hue")
    values = [draws.get(part, 0) for part in parts]
    happens = [0.0 if part in draws else 0.9 for part in parts]
    Draws(monkeypatch, values, happens)
    color = RandomColor(image_format=image_format)
    return color.get_transform(image).apply_image(image)


@pytest.mark.parametrize("augmentation", ALL, ids=lambda x: type(x).__name__)
def test_same_seed_same_result(augmentation):
    image, boxes = noise(40, 60), np.array([[5.0, 5, 25, 35], [30, 10, 50, 30]])
    results = [augment(augmentation, image, boxes, seed) for seed in (1, 2, 3, 4, 1)]
    for first, last in zip(results[0], results[-1]):
        np.testing.assert_array_equal(first, last)
    if not isinstance(augmentation, ResizeLongestEdge):  # which draws nothing
        others = (image.tobytes() for image, _ in results[:-1])
        assert len(set(others)) > 1


@pytest.mark.parametrize("augmentation", ALL, ids=lambda x: type(x).__name__)
def test_input_is_not_changed(augmentation):
    """It may come from a cache."""
    image, boxes = noise(40, 60), np.array([[5.0, 5, 25, 35]])
    before = image.copy(), boxes.copy()
    for seed in range(10):
        augment(augmentation, image, boxes, seed)
    np.testing.assert_array_equal(image, before[0])
    np.testing.assert_array_equal(boxes, before[1])


def test_no_strength_no_change():
    color = RandomColor(brightness=0, contrast=0, saturation=0, hue=0)
    for seed in range(20):
        image, _ = augment(color, noise(), seed=seed)
        np.testing.assert_array_equal(image, noise())


@pytest.mark.parametrize("draw", [-1, -0.3, 0.55, 1])
def test_brightness(monkeypatch, draw):
    """By up to 32 of 255."""
    wanted = [max(0, min(255, level + round(32 * draw))) for level in range(256)]
    image = distort(monkeypatch, noise(), brightness=draw)
    for before, after in zip(noise().ravel().tolist(), image.ravel().tolist()):
        assert abs(after - wanted[before]) <= 1


@pytest.mark.parametrize("draw", [-1, -0.3, 0.55, 1])
def test_contrast(monkeypatch, draw):
    """Times 0.5 to 1.5."""
    image = distort(monkeypatch, noise(), contrast=draw)
    for before, after in zip(noise().ravel().tolist(), image.ravel().tolist()):
        assert abs(after - min(255, before * (1 + draw / 2))) <= 0.5 + 1e-9


def test_brightness_and_contrast_are_one_step(monkeypatch):
    """No level is cut off in between: 200 x 1.5 - 32 is 268, 150 x 1.5 - 32 is 193."""
    image = np.full((1, 2, 3), [[[200], [150]]], np.uint8)
    image = distort(monkeypatch, image, brightness=-1, contrast=1)
    assert image[0, :, 0].tolist() == [255, 193]


@pytest.mark.parametrize(("saturation", "hue"), [(1, 0), (-1, 0), (0, 1), (0, -0.7), (0.4, 0.5)])
@pytest.mark.parametrize("image_format", ["RGB", "BGR"])
def test_saturation_and_hue(monkeypatch, saturation, hue, image_format):
    """Against Python's own colour model; saturation times 0.5 to 1.5, hue by up to 36 degrees."""
    in_rgb = slice(None) if image_format == "RGB" else slice(None, None, -1)
    parts = {"saturation": saturation, "hue": hue}
    parts = {part: draw for part, draw in parts.items() if draw}
    image = distort(monkeypatch, noise()[..., in_rgb].copy(), image_format, **parts)
    differences = []
    for before, after in zip(noise().reshape(-1, 3), image[..., in_rgb].reshape(-1, 3)):
        h, s, v = colorsys.rgb_to_hsv(*(before / 255))
        s, h = min(s * (1 + saturation / 2), 1), (h + hue * 36 / 360) % 1
        differences.append(np.abs(np.array(colorsys.hsv_to_rgb(h, s, v)) * 255 - after))
    # Rounded to 8 bits on the way, there and back: a 256th of a turn is 6 levels of 255.
    assert np.max(differences) <= 6 and np.mean(differences) < 0.6


@pytest.mark.parametrize("seed", range(10))
def test_the_same_colours_in_either_order(seed):
    rgb, _ = augment(RandomColor(), noise(), seed=seed)
    bgr, _ = augment(RandomColor(image_format="BGR"), noise()[..., ::-1].copy(), seed=seed)
    np.testing.assert_array_equal(rgb, bgr[..., ::-1])


def test_each_part_of_colour_happens_half_of_the_time(monkeypatch):
    """All 16 combinations; of 400 draws, by chance, each part in 150 to 250."""
    applied = []
    monkeypatch.setattr(cv2, "LUT", lambda image, table: applied.append(table) or image)
    levels, unturned = np.arange(256), (np.arange(256) * 255 / 256).round()  # OpenCV's way back
    seen = Counter()
    np.random.seed(0)
    for _ in range(400):
        applied.clear()
        RandomColor().get_transform(noise(1, 1)).apply_image(noise(1, 1))
        parts = []
        for table in applied:
            if table.ndim == 1:
                steps = np.diff(table[60:150].astype(int))
                parts += ["brightness"] * bool(table[0] > 0 or (table[:3] == 0).all())
                parts += ["contrast"] * bool(steps.min() < steps.max())
            else:
                parts += ["hue"] * bool((table[0, :, 0] != unturned).any())
                parts += ["saturation"] * bool((table[0, :, 1] != levels).any())
        seen[tuple(parts)] += 1
    assert len(seen) == 16
    for part in ("brightness", "contrast", "saturation", "hue"):
        assert 150 <= sum(count for parts, count in seen.items() if part in parts) <= 250


@pytest.mark.parametrize("seed", range(20))
def test_expand_keeps_pixels_and_moves_boxes(seed):
    image, box = noise(), [3, 4, 20, 15]
    expanded, boxes = augment(RandomExpand(3.0), image, np.array([box]), seed)
    assert expanded.shape[0] <= 60 and expanded.shape[1] <= 90
    (left, top), size = (boxes[0, :2] - (3, 4)).astype(int), (17, 11)
    assert (boxes[0, 2:] - boxes[0, :2]).tolist() == list(size)
    assert left >= 0 and top >= 0
    inside = np.zeros(expanded.shape[:2], bool)
    inside[top : top + 20, left : left + 30] = True
    np.testing.assert_array_equal(expanded[inside].reshape(image.shape), image)
    assert (expanded[~inside] == FILL).all()


def test_expand_goes_to_its_limits():
    """Ratios of 1 to 4, the same for both sides, and places from edge to edge."""
    ratios, places = [], []
    for seed in range(300):
        expanded, boxes = augment(RandomExpand(), noise(), np.zeros((1, 4)), seed)
        (height, width), (left, top) = expanded.shape[:2], boxes[0, :2]
        ratios.append((height / 20, width / 30))
        if height > 40:
            places += [left / (width - 30), top / (height - 20)]
    ratios = np.array(ratios)
    assert np.abs(ratios[:, 0] - ratios[:, 1]).max() <= 1 / 20
    assert 1 <= ratios.min() < 1.1 and 3.9 < ratios.max() <= 4
    assert min(places) < 0.02 and max(places) > 0.98 and 0.45 < np.mean(places) < 0.55


def crops(min_ious, boxes, count=300, size=(90, 120), min_size=0.3):
    """Corners of the crops that many draws return; of those that do not crop, the whole image."""
    crop, image = RandomMinIoUCrop(min_ious, min_size), np.zeros((*size, 3), np.uint8)
    np.random.seed(0)
    for _ in range(count):
        transform = crop.get_transform(image, boxes)
        if isinstance(transform, T.NoOpTransform):
            yield np.array([0, 0, size[1], size[0]])
        else:
            x, y, w, h = transform.x0, transform.y0, transform.w, transform.h
            assert {type(value) for value in (x, y, w, h)} == {int}
            assert 0 <= x < x + w <= size[1] and 0 <= y < y + h <= size[0]
            yield np.array([x, y, x + w, y + h])


def iou(box, other) -> float:
    width = min(box[2], other[2]) - max(box[0], other[0])
    height = min(box[3], other[3]) - max(box[1], other[1])
    common = max(width, 0) * max(height, 0)
    areas = [(x[2] - x[0]) * (x[3] - x[1]) for x in (box, other)]
    return common / (sum(areas) - common)


def is_smaller(crop) -> bool:
    return crop.tolist() != [0, 0, 120, 90]


BOXES = np.array([[10.0, 8, 110, 85], [8, 5, 112, 82]])


@pytest.mark.parametrize("threshold", [0.1, 0.3, 0.5, 0.7])
def test_crops_overlap_every_box_enough(monkeypatch, threshold):
    """Only this threshold, and no crop where no trial succeeds."""
    monkeypatch.setattr(np.random, "permutation", lambda choices: [threshold, 1.0])
    found = [crop for crop in crops([threshold], BOXES) if is_smaller(crop)]
    assert len(found) > 50
    for crop in found:
        assert min(iou(crop, box) for box in BOXES) >= threshold - 1e-6


def test_crops_hold_the_centre_of_a_box_are_large_and_not_too_wide():
    boxes = np.array([[5.0, 5, 15, 20], [100, 70, 110, 85]])
    shares = []
    for crop in filter(is_smaller, crops([0.1], boxes, count=500)):
        centers = (boxes[:, :2] + boxes[:, 2:]) / 2
        assert any((crop[:2] < center).all() and (center < crop[2:]).all() for center in centers)
        width, height = crop[2:] - crop[:2]
        assert max(width, height) <= 2 * min(width, height)
        assert width >= 36 and height >= 27  # 0.3 of the sides
        shares += [width / 120, height / 90]
    assert len(shares) > 300
    assert min(shares) < 0.4 and max(shares) > 0.9


def test_every_threshold_has_its_turn(monkeypatch):
    """So have "any" (0) and "no crop" (1): each 100 of 700 times, by chance 60 to 140."""
    # No crop has an IoU of 0.9 with both boxes, and all crops have one of 0.


def test_another_threshold_where_one_cannot_be_met(monkeypatch):
    """No crop has an IoU of 0.9 with both of these boxes, but some have one of 0.1."""
    monkeypatch.setattr(np.random, "permutation", lambda choices: [0.9, 0.1, 1.0])
    boxes = np.array([[0.0, 0, 60, 90], [60, 0, 120, 90]])
    assert sum(map(is_smaller, crops([0.1, 0.9], boxes, 100))) > 90


def test_crops_without_boxes():
    """An empty image is cropped freely; where boxes are not known, all of them stay."""
    found = list(crops([0.5], np.zeros((0, 4))))
    assert sum(map(is_smaller, found)) > 100
    assert not any(map(is_smaller, crops([0.5], None)))


@pytest.mark.parametrize("size", [(1, 1), (1, 50), (2, 3)])
def test_crops_of_tiny_images(size):
    image, boxes = np.zeros((*size, 3), np.uint8), np.array([[0.0, 0, size[1], size[0]]])
    for seed in range(30):
        cropped, _ = augment(RandomMinIoUCrop(), image, boxes, seed)
        assert 0 < cropped.shape[0] <= size[0] and 0 < cropped.shape[1] <= size[1]


def test_limits_of_the_affine():
    """From where three points go: turn and shear, scale and shift."""
    angles, areas, shifts = [], [], []
    augmentation = RandomAffine(rotation=10, shear=0, scale=0.2, translation=0.1)
    np.random.seed(0)
    for _ in range(500):
        transform = augmentation.get_transform(np.zeros((100, 200, 3), np.uint8))
        center, right, below = transform.apply_coords(np.array([[100, 50], [101, 50], [100, 51]]))
        shifts.append((center - (100, 50)) / (200, 100))
        x, y = right - center
        angles.append(np.degrees(np.arctan2(y, x)))
        # Without shear a right angle stays one, and both sides keep their ratio.
        np.testing.assert_allclose(below - center, (-y, x), atol=1e-9)
        areas.append(np.hypot(x, y))
    for values, low, high in ((angles, -10, 10), (areas, 0.8, 1.2), (shifts, -0.1, 0.1)):
        assert low <= np.min(values) < low + 0.02 * (high - low)
        assert high - 0.02 * (high - low) < np.max(values) <= high


def test_shear_of_the_affine():
    """Straight lines along each axis lean by up to 5 degrees, each by its own draw."""
    leans = []
    augmentation = RandomAffine(rotation=0, shear=5, scale=0, translation=0)
    np.random.seed(0)
    for _ in range(500):
        transform = augmentation.get_transform(np.zeros((100, 200, 3), np.uint8))
        center, right, below = transform.apply_coords(np.array([[100, 50], [101, 50], [100, 51]]))
        np.testing.assert_allclose(center, (100, 50))
        x, y = right - center
        leans.append((np.degrees(np.arctan2(y, x)), np.degrees(np.arctan2(*(below - center)))))
    leans = np.array(leans)
    assert 4.9 < leans.max() <= 5 and -5 <= leans.min() < -4.9
    assert abs(np.corrcoef(leans.T)[0, 1]) < 0.2


def test_affine_without_limits_is_none():
    image = noise()
    moved, boxes = augment(
        RandomAffine(rotation=0, shear=0, scale=0, translation=0), image, np.array([[1.0, 2, 3, 4]])
    )
    np.testing.assert_array_equal(moved, image)
    np.testing.assert_allclose(boxes, [[1, 2, 3, 4]])


@pytest.mark.parametrize(
    ("height", "width", "wanted"),
    [(40, 60, (40, 60)), (60, 120, (30, 60)), (90, 61, (60, 41)), (1, 600, (1, 60))],
)
def test_shrink(height, width, wanted):
    """The longer side to at most 60, and never to nothing."""
    image, boxes = augment(
        ResizeLongestEdge(60), noise(height, width), np.array([[0.0, 0, width, height]])
    )
    assert image.shape == (*wanted, 3)
    assert boxes.tolist() == [[0, 0, wanted[1], wanted[0]]]


def test_shrink_takes_means():
    image, _ = augment(ResizeLongestEdge(30), noise(40, 60))
    means = noise(40, 60).reshape(20, 2, 30, 2, 3).mean(axis=(1, 3))
    assert np.abs(image - means).max() <= 0.5


def test_squash_draws_every_interpolation(monkeypatch):
    interpolations, seen = (cv2.INTER_LINEAR, cv2.INTER_CUBIC, cv2.INTER_AREA), []
    resize = cv2.resize

    def spy(image, size, interpolation):
        seen.append(interpolation)
        return resize(image, size, interpolation=interpolation)

    monkeypatch.setattr(cv2, "resize", spy)
    for seed in range(60):
        squash, boxes = ResizeSquare(64, interpolations), np.array([[3.0, 5, 15, 10]])
        image, boxes = augment(squash, noise(), boxes, seed)
        assert image.shape == (64, 64, 3)
        # x times 64 / 30, y times 64 / 20
        np.testing.assert_allclose(boxes, [[6.4, 16, 32, 32]])
    assert set(seen) == set(interpolations)
    assert min(map(seen.count, interpolations)) >= 8  # of 60; fewer come once in 1000 seeds


@pytest.mark.parametrize(
    "augmentation",
    [x for x in ALL if not isinstance(x, RandomColor)],
    ids=lambda x: type(x).__name__,
)
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("wrapped", [False, True], ids=["alone", "RandomApply"])
def test_in_detectron2s_own_mapper(tmp_path, augmentation, seed, wrapped):
    """Boxes and masks follow their object."""
    record = write(tmp_path / "x.png", 60, 90, {1: (30, 20, 60, 40)})
    (annotation,) = record["annotations"]
    annotation["segmentation"] = [[30.0, 20, 60, 20, 60, 40, 30, 40]]
    mapper = DatasetMapper(
        is_train=True,
        augmentations=[T.RandomApply(augmentation, 1.0) if wrapped else augmentation],
        image_format="RGB",
        use_instance_mask=True,
    )
    np.random.seed(seed)
    mapped = mapper(record)
    image, instances = mapped["image"].numpy(), mapped["instances"]
    assert instances.image_size == image.shape[1:] and len(instances) == 1
    background = np.abs(image.astype(int) - np.array(FILL)[:, None, None]).max(axis=0) <= 2
    wanted = extent(np.where(background, 0, image[1]))
    turned = isinstance(augmentation, RandomAffine)
    (box,) = instances.gt_boxes.tensor.numpy()
    np.testing.assert_allclose(box, wanted, atol=2 if turned else 1)
    (polygons,) = instances.gt_masks.polygons
    corners = polygons[0].reshape(-1, 2).clip(0, image.shape[:0:-1])
    np.testing.assert_allclose([*corners.min(0), *corners.max(0)], box, atol=1e-3)


def test_colour_in_detectron2s_own_mapper(tmp_path):
    record = write(tmp_path / "x.png", 60, 90, {1: (30, 20, 60, 40)})
    mapper = DatasetMapper(is_train=True, augmentations=[RandomColor()], image_format="RGB")
    images = []
    for seed in range(8):
        np.random.seed(seed)
        mapped = mapper(record)
        images.append(mapped["image"].numpy().tobytes())
        assert mapped["instances"].gt_boxes.tensor.tolist() == [[30, 20, 60, 40]]
    assert len(set(images)) > 3


def test_crops_need_the_boxes_that_detectron2s_mapper_keeps(tmp_path):
    """So there they do nothing, as Detectron2's own, rather than cut objects off."""
    boxes = {0: (2, 2, 8, 8), 1: (80, 50, 88, 58)}
    record = write(tmp_path / "x.png", 60, 90, boxes)
    crop = T.RandomApply(RandomMinIoUCrop(), 1.0)
    mapper = DatasetMapper(is_train=True, augmentations=[crop], image_format="RGB")
    for seed in range(10):
        np.random.seed(seed)
        mapped = mapper(record)
        np.testing.assert_array_equal(
            mapped["image"].numpy().transpose(1, 2, 0), draw(60, 90, boxes)
        )
        assert len(mapped["instances"]) == 2
