from __future__ import annotations

from collections import Counter

import cv2
import numpy as np
import pytest
import torch
from detectron2.data import DatasetMapper
from detectron2.data import transforms as T
from matplotlib.colors import hsv_to_rgb, rgb_to_hsv
from torchvision.ops import box_iou

from asff.data.augmentation import (
    FILL,
    RandomAffine,
    RandomColor,
    RandomExpand,
    RandomMinIoUCrop,
    ResizeLongestEdge,
    ResizeSquare,
)
from tests.data.rectangles import extent, noise, write

ALL = [
    RandomColor(),
    RandomExpand(),
    RandomAffine(),
    RandomAffine(rotation=40, shear=20, scale=0.3, translation=0.3),
    RandomMinIoUCrop(),
    ResizeLongestEdge(30),
    ResizeSquare(64, (cv2.INTER_LINEAR, cv2.INTER_NEAREST)),
]


def augment(augmentation, image, boxes=None, seed=0) -> tuple[np.ndarray, np.ndarray | None]:
    np.random.seed(seed)
    view = T.AugInput(image, boxes=boxes)
    T.AugmentationList([augmentation])(view)
    return view.image, view.boxes


@pytest.mark.parametrize("augmentation", ALL, ids=lambda x: type(x).__name__)
def test_results_follow_the_seed_and_leave_the_input_alone(augmentation):
    image, boxes = noise(40, 60), np.array([[5.0, 5, 25, 35], [30, 10, 50, 30]])
    results = [augment(augmentation, image, boxes.copy(), seed) for seed in (1, 2, 3, 4, 1)]
    for first, last in zip(results[0], results[-1]):
        np.testing.assert_array_equal(first, last)
    if not isinstance(augmentation, ResizeLongestEdge):  # which draws nothing
        assert len({image.tobytes() for image, _ in results[:-1]}) > 1
    np.testing.assert_array_equal(image, noise(40, 60))


def color(**options) -> RandomColor:
    """Build a colour distortion of the named kinds only."""
    return RandomColor(**{"brightness": 0, "contrast": 0, "saturation": 0, "hue": 0, **options})


@pytest.mark.parametrize(("brightness", "contrast"), [(32, 0.0), (0, 0.5), (32, 0.5)])
def test_brightness_and_contrast(brightness, contrast):
    """One clipped line a x level + b of all levels: nothing is clipped between the two steps."""
    levels, lines = np.arange(256), []
    ramp = np.repeat(levels, 3).reshape(1, 256, 3).astype(np.uint8)
    for seed in range(400):
        image, _ = augment(color(brightness=brightness, contrast=contrast), ramp, seed=seed)
        after = image[0, :, 0].astype(float)
        inside = (after > 0) & (after < 255)
        a, b = np.polyfit(levels[inside], after[inside], 1)
        assert np.abs(after - (a * levels + b).clip(0, 255)).max() <= 1
        lines.append((a, b))
    factors, shifts = np.array(lines).T
    assert np.abs(factors - 1).max() == pytest.approx(contrast, abs=0.03)
    assert np.abs(shifts).max() == pytest.approx(brightness, abs=1.5)
    # Each happens half of the time, whether or not the other does: 4 x 100 of 400 draws.
    kinds = Counter(zip(np.abs(factors - 1) > 0.005, np.abs(shifts) > 0.6))
    wanted = 400 / 2 ** ((brightness > 0) + (contrast > 0))
    assert all(abs(count - wanted) < 60 for count in kinds.values())


@pytest.mark.parametrize("image_format", ["RGB", "BGR"])
@pytest.mark.parametrize(("part", "limit", "count"), [("saturation", 0.5, 41), ("hue", 36, 73)])
def test_saturation_and_hue(part, limit, count, image_format):
    """Against matplotlib's colour model: each result is that of one value of the strength."""
    in_rgb = slice(None) if image_format == "RGB" else slice(None, None, -1)
    hsv = rgb_to_hsv(noise(8, 9) / 255)
    strengths = np.linspace(-limit, limit, count)
    wanted = []
    for strength in strengths:
        distorted = hsv.copy()
        if part == "saturation":
            distorted[..., 1] = (distorted[..., 1] * (1 + strength)).clip(max=1)
        else:
            distorted[..., 0] = (distorted[..., 0] + strength / 360) % 1
        wanted.append(255 * hsv_to_rgb(distorted))
    augmentation = color(**{part: limit}, image_format=image_format)
    found = []
    for seed in range(100):
        image, _ = augment(augmentation, noise(8, 9)[..., in_rgb].copy(), seed=seed)
        differences = [np.abs(image[..., in_rgb] - x).mean() for x in wanted]
        found.append(strengths[np.argmin(differences)])
        # Rounded to 8 bits on the way, and to the next of these strengths.
        assert min(differences) < 1.2
    assert min(found) < -0.9 * limit and max(found) > 0.9 * limit
    assert 30 <= sum(abs(x) < limit / 100 for x in found) <= 70


def test_expand_goes_to_its_limits():
    """Ratios of 1 to 4, the same for both sides, and positions from edge to edge."""
    ratios, positions = [], []
    for seed in range(300):
        expanded, boxes = augment(RandomExpand(), noise(20, 30), np.zeros((1, 4)), seed)
        (height, width), (left, top) = expanded.shape[:2], boxes[0, :2]
        ratios.append((height / 20, width / 30))
        if height > 40:
            positions += [left / (width - 30), top / (height - 20)]
    ratios = np.array(ratios)
    assert np.abs(ratios[:, 0] - ratios[:, 1]).max() <= 1 / 20
    assert 1 <= ratios.min() < 1.1 and 3.9 < ratios.max() <= 4
    assert min(positions) < 0.02 and max(positions) > 0.98 and 0.45 < np.mean(positions) < 0.55


BOXES = np.array([[10.0, 8, 110, 85], [8, 5, 112, 82]])


def draw_crops(min_ious, boxes, count: int) -> np.ndarray:
    """Draw transforms of 90 x 120 pixels; return the corners of those that crop."""
    crop, image = RandomMinIoUCrop(min_ious), np.zeros((90, 120, 3), np.uint8)
    np.random.seed(0)
    transforms = [crop.get_transform(image, boxes) for _ in range(count)]
    transforms = [t for t in transforms if isinstance(t, T.CropTransform)]
    crops = np.array([(t.x0, t.y0, t.x0 + t.w, t.y0 + t.h) for t in transforms]).reshape(-1, 4)
    assert (crops >= 0).all() and (crops <= (120, 90, 120, 90)).all()
    return crops


@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.7])
def test_crops_overlap_every_box_enough(threshold):
    """Of the three equally likely thresholds 1 (no crop), 0 (any crop) and this one."""

    def share(min_ious: list[float]) -> float:
        crops = torch.from_numpy(draw_crops(min_ious, BOXES, 900)).double()
        ious = box_iou(crops, torch.from_numpy(BOXES)).amin(dim=1)
        return (ious >= threshold).double().mean().item()

    # 600 crops: four standard errors are 0.08.
    assert share([threshold]) == pytest.approx(0.5 + 0.5 * share([]), abs=0.08)


def test_crops_hold_the_centre_of_a_box_are_large_and_not_too_wide():
    boxes = np.array([[5.0, 5, 15, 20], [100, 70, 110, 85]])
    centers = (boxes[:, :2] + boxes[:, 2:]) / 2
    crops = draw_crops([0.1], boxes, 500)
    inside = (crops[:, None, :2] < centers) & (centers < crops[:, None, 2:])
    assert inside.all(axis=2).any(axis=1).all()
    sides = crops[:, 2:] - crops[:, :2]
    assert (sides.max(axis=1) <= 2 * sides.min(axis=1)).all()
    shares = sides / (120, 90)
    assert len(crops) > 150 and 0.3 <= shares.min() < 0.4 and shares.max() > 0.9


@pytest.mark.parametrize(
    ("min_ious", "boxes", "low", "high"),
    [
        # Every crop of an empty image fits; "no crop" is one of seven thresholds.
        ((0.1, 0.3, 0.5, 0.7, 0.9), np.zeros((0, 4)), 60, 140),
        # No crop has an IoU of 0.9 with both boxes: the other two thresholds are equally likely.
        ([0.9], np.array([[0.0, 0, 60, 90], [60, 0, 120, 90]]), 300, 400),
        ([0.5], None, 700, 700),  # boxes that are not known must not be cut
    ],
    ids=["empty", "impossible", "unknown"],
)
def test_number_of_draws_without_a_crop(min_ious, boxes, low, high):
    assert low <= 700 - len(draw_crops(min_ious, boxes, 700)) <= high


@pytest.mark.parametrize("size", [(1, 1), (1, 50), (2, 3)])
def test_crops_of_tiny_images(size):
    image, boxes = np.zeros((*size, 3), np.uint8), np.array([[0.0, 0, size[1], size[0]]])
    for seed in range(30):
        cropped, _ = augment(RandomMinIoUCrop(), image, boxes, seed)
        assert 0 < cropped.shape[0] <= size[0] and 0 < cropped.shape[1] <= size[1]


def draw_affines(**limits: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Draw 500 transforms of 200 x 100 pixels.

    Returns:
        (500, 2) each: where the centre goes, and the vectors from it that were (1, 0) and (0, 1).
    """
    augmentation = RandomAffine(
        **{"rotation": 0, "shear": 0, "scale": 0, "translation": 0} | limits
    )
    np.random.seed(0)
    points = np.array([[100, 50], [101, 50], [100, 51]])
    transforms = [augmentation.get_transform(np.zeros((100, 200, 3))) for _ in range(500)]
    center, right, below = np.moveaxis([t.apply_coords(points) for t in transforms], 1, 0)
    return center, right - center, below - center


def assert_fills(values: np.ndarray, low: float, high: float) -> None:
    margin = 0.02 * (high - low)
    assert low - 1e-9 <= values.min() < low + margin and high - margin < values.max() <= high + 1e-9


def test_affine_rotates_scales_and_translates():
    center, right, below = draw_affines(rotation=10, scale=0.2, translation=0.1)
    # Without shear a right angle stays one, and both sides keep their ratio.
    np.testing.assert_allclose(below, right[:, ::-1] * (-1, 1), atol=1e-9)
    assert_fills(np.degrees(np.arctan2(right[:, 1], right[:, 0])), -10, 10)
    assert_fills(np.hypot(*right.T), 0.8, 1.2)
    assert_fills((center - (100, 50)) / (200, 100), -0.1, 0.1)


def test_affine_shears():
    """Straight lines along each axis lean by up to 5 degrees, each by its own draw."""
    center, right, below = draw_affines(shear=5)
    np.testing.assert_allclose(center, np.full_like(center, (100, 50)))
    leans = np.degrees([np.arctan2(right[:, 1], right[:, 0]), np.arctan2(below[:, 0], below[:, 1])])
    assert_fills(leans, -5, 5)
    assert abs(np.corrcoef(leans)[0, 1]) < 0.2


@pytest.mark.parametrize(
    ("height", "width", "wanted"),
    [(40, 60, (40, 60)), (60, 120, (30, 60)), (90, 61, (60, 41)), (1, 600, (1, 60))],
)
def test_resize_longest_edge(height, width, wanted):
    """To at most 60, and never to nothing."""
    boxes = np.array([[0.0, 0, width, height]])
    image, boxes = augment(ResizeLongestEdge(60), noise(height, width), boxes)
    assert image.shape == (*wanted, 3)
    assert boxes.tolist() == [[0, 0, wanted[1], wanted[0]]]


def test_resize_square_draws_every_interpolation():
    interpolations = (cv2.INTER_LINEAR, cv2.INTER_CUBIC, cv2.INTER_NEAREST)
    wanted = [
        cv2.resize(noise(20, 30), (64, 64), interpolation=x).tobytes() for x in interpolations
    ]
    seen = Counter()
    for seed in range(60):
        boxes = np.array([[3.0, 5, 15, 10]])
        image, boxes = augment(ResizeSquare(64, interpolations), noise(20, 30), boxes, seed)
        seen[wanted.index(image.tobytes())] += 1
        # x times 64 / 30, y times 64 / 20
        np.testing.assert_allclose(boxes, [[6.4, 16, 32, 32]])
    assert len(seen) == 3 and min(seen.values()) >= 8  # fewer come once in 1000 seeds


@pytest.mark.parametrize("augmentation", ALL, ids=lambda x: type(x).__name__)
def test_in_detectron2s_own_mapper(tmp_path, augmentation):
    dataset_dict = write(tmp_path / "x.png", 60, 90, {1: (30, 20, 60, 40)})
    (annotation,) = dataset_dict["annotations"]
    annotation["segmentation"] = [[30.0, 20, 60, 20, 60, 40, 30, 40]]
    mapper = DatasetMapper(
        is_train=True,
        augmentations=[augmentation],
        image_format="RGB",
        use_instance_mask=True,
    )
    for seed in range(4):
        np.random.seed(seed)
        mapped = mapper(dataset_dict)
        image, instances = mapped["image"].numpy(), mapped["instances"]
        assert instances.image_size == image.shape[1:] and len(instances) == 1
        background = np.abs(image.astype(int) - np.array(FILL)[:, None, None]).max(axis=0) <= 2
        (box,) = instances.gt_boxes.tensor.numpy()
        atol = 2 if isinstance(augmentation, RandomAffine) else 1
        np.testing.assert_allclose(box, extent(np.where(background, 0, image[1])), atol=atol)
        (polygons,) = instances.gt_masks.polygons
        corners = polygons[0].reshape(-1, 2).clip(0, image.shape[:0:-1])
        np.testing.assert_allclose([*corners.min(0), *corners.max(0)], box, atol=1e-3)
