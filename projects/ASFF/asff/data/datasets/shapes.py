"""A generated dataset with the conflict that ASFF resolves (paper 3.1): objects of very different
sizes in one image, the small ones often on the large ones.

Classes differ by shape only: side, aspect ratio, rotation, position, colour and texture have the
same distribution for all. Image i of a split is a pure function of (seed, split, i, image_size).

Shape letters: S side of the square image, V vertices, P pixels, (h, w) a crop of the image.
"""

from __future__ import annotations

import contextlib
import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from tqdm import trange

from .coco_dataset import CocoDataset

ANGLES, ARM = np.arange(64) / 32 * np.pi, np.array([(1, 0.38), (0.38, 0.38), (0.38, 1)])
OUTLINES = {  # corners of every class, y down
    "circle": np.stack([np.cos(ANGLES), np.sin(ANGLES)], axis=1),
    "triangle": np.array([(-1, 1), (1, 1), (0, -1)]),
    "hourglass": np.array([(-1, -1), (1, -1), (0.2, 0), (1, 1), (-1, 1), (-0.2, 0)]),
    "cross": np.concatenate([ARM, ARM[::-1] * (-1, 1), -ARM, ARM[::-1] * (1, -1)]),
}
CLASS_NAMES = tuple(OUTLINES)
SPLITS = ("train", "val")
VERSION = 4  # raise it with every change of the images: datasets on disk are then written anew
MIN_IMAGE_SIZE = 96
MIN_SIDE = 15.0  # pixels; below it the classes are hard to tell apart
MAX_SIDE = 0.94  # of the image's side
MIN_VISIBLE = 0.6  # of an object's pixels, which the border or later objects may hide
MAX_IOU = 0.45  # of two boxes in an image: below any usual NMS threshold
MIN_CONTRAST = 60.0  # grey values between an object's colour and what surrounds its outline
MAX_ROTATION = 0.15  # radians
SUPERSAMPLING = 4


@dataclass(frozen=True)
class Shape:
    """An object: its class in [0, 4) and its outline (V, 2) in pixels, before clipping."""

    category: int
    outline: np.ndarray


@dataclass(frozen=True)
class DrawnImage:
    """An image with its objects."""

    image: np.ndarray  # (S, S, 3) uint8 BGR
    shapes: tuple[Shape, ...]  # in the order of drawing, large to small
    owner: np.ndarray  # (S, S) int16, the index of the shape visible at a pixel, -1: background

    def annotations(self) -> list[dict[str, Any]]:
        """Return COCO's annotations of the visible pixels of every shape; categories from 1."""
        result = []
        for index, shape in enumerate(self.shapes):
            mask = (self.owner == index).astype(np.uint8)
            box = {"bbox": list(cv2.boundingRect(mask)), "area": int(mask.sum())}
            result.append({**box, "category_id": shape.category + 1, "iscrowd": 0})
        return result


def _outline(category: int, angle: float, width: float, height: float) -> np.ndarray:
    """Return an outline (V, 2) around 0, rotated by ``angle`` in radians, of a size in pixels."""
    cos, sin = np.cos(angle), np.sin(angle)
    points = OUTLINES[CLASS_NAMES[category]] @ np.array([[cos, sin], [-sin, cos]])
    low, high = points.min(axis=0), points.max(axis=0)
    # Filling the box, not a circle, gives all classes the same box sizes whatever the angle.
    return ((points - low) / (high - low) - 0.5) * (width, height)


def _coverage(outline: np.ndarray, size: int) -> tuple[tuple[slice, slice], np.ndarray]:
    """Rasterize an outline (V, 2), which may cross the border of the image.

    Returns the crop of the image, and the covered share of its pixels: (h, w) float32 in [0, 1].
    """
    x0, y0 = np.maximum(np.floor(outline.min(axis=0)).astype(int), 0)
    x1, y1 = np.minimum(np.ceil(outline.max(axis=0)).astype(int), size)
    # fillPoly has pixel centres at whole numbers and, with shift=4, 4 fractional bits.
    points = (outline - (x0, y0)) * SUPERSAMPLING - 0.5
    fine = np.zeros(((y1 - y0) * SUPERSAMPLING, (x1 - x0) * SUPERSAMPLING), np.uint8)
    cv2.fillPoly(fine, [np.rint(points * 16).astype(np.int32)], 255, shift=4)
    alpha = cv2.resize(fine, (int(x1 - x0), int(y1 - y0)), interpolation=cv2.INTER_AREA)
    return (slice(y0, y1), slice(x0, x1)), alpha.astype(np.float32) / 255


def _box_iou(a: np.ndarray, b: np.ndarray) -> float:
    """Compute the IoU of the boxes around two outlines, (V, 2) each."""
    a0, a1, b0, b1 = a.min(axis=0), a.max(axis=0), b.min(axis=0), b.max(axis=0)
    overlap = np.prod(np.maximum(np.minimum(a1, b1) - np.maximum(a0, b0), 0))
    return overlap / (np.prod(a1 - a0) + np.prod(b1 - b0) - overlap)


def _sample_sides(rng: np.random.Generator, size: int) -> np.ndarray:
    """Draw longer sides in pixels, descending: 1 large, 2 or 3 medium, 4 to 7 small ones."""
    # Shares of the way from smallest to largest, on a log scale. At 192 pixels the bands end
    # at 37 and 110 and go on from 134: most areas fall into COCO's range of that name.
    bands = np.array([(0, 0.36), (0.36, 0.8), (0.88, 1)]) * np.log(MAX_SIDE * size / MIN_SIDE)
    counts = rng.integers(4, 8), rng.integers(2, 4), 1
    shares = [rng.uniform(*band, count) for band, count in zip(bands, counts)]
    return MIN_SIDE * np.exp(np.sort(np.concatenate(shares)))[::-1]


def _sample_xy(rng: np.random.Generator, size: int, side: float, shapes: list[Shape]) -> np.ndarray:
    """Draw a position in pixels: often near the centre of one of ``shapes``, else anywhere."""
    center = rng.uniform(0, size, 2)
    if shapes and rng.random() < 0.65:
        host = shapes[rng.integers(len(shapes))].outline
        low, high = host.min(axis=0), host.max(axis=0)
        center = rng.normal((low + high) / 2, (high - low) / 4)
    return np.clip(center, 0.42 * side, size - 0.42 * side)  # a part may lie beyond the border


def _sample_layout(rng: np.random.Generator, size: int) -> tuple[tuple[Shape, ...], np.ndarray]:
    """Draw shapes from large to small, each visible enough, and ``owner``; see DrawnImage."""
    owner = np.full((size, size), -1, np.int16)
    shapes: list[Shape] = []
    full: list[int] = []  # pixels of each shape before others cover it
    for side in _sample_sides(rng, size):
        category = int(rng.integers(len(CLASS_NAMES)))
        box = side * rng.permutation([1.0, rng.uniform(0.88, 1.0)])
        around_zero = _outline(category, rng.uniform(-MAX_ROTATION, MAX_ROTATION), *box)
        full.append(np.count_nonzero(_coverage(around_zero + size / 2, size)[1] >= 0.5))
        for _ in range(40):  # the position alone: rejection must not make size depend on class
            outline = around_zero + _sample_xy(rng, size, side, shapes)
            if any(_box_iou(outline, other.outline) > MAX_IOU for other in shapes):
                continue
            crop, alpha = _coverage(outline, size)
            trial = owner.copy()
            trial[crop][alpha >= 0.5] = len(shapes)
            visible = np.bincount(trial.ravel() + 1, minlength=len(full) + 1)[1:]
            if np.all(visible >= MIN_VISIBLE * np.array(full)):
                owner = trial
                shapes.append(Shape(category, outline))
                break
        else:
            return _sample_layout(rng, size)  # no room: start again
    return tuple(shapes), owner


def _texture(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Draw noise, a gradient and stripes: (height, width, 1) float32, mostly within [-1, 1]."""
    shares = rng.dirichlet(np.full(6, 0.7)).astype(np.float32)
    angle, phase = rng.uniform(0, 2 * np.pi, 2)
    x = np.linspace(-np.cos(angle), np.cos(angle), width, dtype=np.float32)
    y = np.linspace(-np.sin(angle), np.sin(angle), height, dtype=np.float32)
    ramp = x + y[:, None]
    waves = np.float32(rng.uniform(4, 40))
    field = shares[4] * ramp + shares[5] * np.sin(waves * ramp + np.float32(phase))
    for octave in range(4):
        noise = rng.uniform(-1.7, 1.7, (3 * 2**octave, 3 * 2**octave)).astype(np.float32)
        field += shares[octave] * cv2.resize(noise, (width, height), interpolation=cv2.INTER_CUBIC)
    return field[..., None]


def _pick_color(rng: np.random.Generator, around: np.ndarray) -> np.ndarray:
    """Draw a BGR colour (3,) that stands out from the pixels ``around`` (P, 3)."""
    colors = rng.uniform(15, 240, (24, 3)).astype(np.float32)
    difference = colors[:, None] - around[:: max(1, len(around) // 128)]
    # Half brightness, half colour: blur and JPEG reduce a contrast of colour alone most.
    brightness = np.abs(difference @ np.array([0.114, 0.587, 0.299], np.float32))
    contrast = (brightness + np.sqrt((difference**2).mean(axis=2))) / 2
    least = np.quantile(contrast, 0.15, axis=1)
    return colors[np.argmax(np.minimum(least, MIN_CONTRAST))]


def _paint(rng: np.random.Generator, shapes: tuple[Shape, ...], size: int) -> np.ndarray:
    """Paint the background, then the shapes in order: (S, S, 3) float32 BGR, 0 to 255."""
    # Muted, so that most colours of objects stand out.
    grey, tint = rng.uniform(85, 170, (2, 1)), rng.uniform(-20, 20, (2, 3))
    first, second = (grey + tint).astype(np.float32)
    # On a background of very different colours no object could stand out everywhere.
    span = (second - first) * np.float32(min(1, 70 / float(np.abs(second - first).max())))
    canvas = first + span * _texture(rng, size, size)
    canvas += np.float32(rng.uniform(0, 18)) * _texture(rng, size, size)
    for shape in shapes:
        crop, alpha = _coverage(shape.outline, size)
        under = canvas[crop]
        edge = (alpha > 0) & (alpha < 1)
        # Vertical and horizontal sides between pixels cover none in part.
        color = _pick_color(rng, under[edge if edge.any() else alpha > 0])
        surface = color + np.float32(rng.uniform(0, 10)) * _texture(rng, *alpha.shape)
        canvas[crop] = under + alpha[..., None] * (surface - under)
    return canvas


def draw_image(seed: int, split: str, index: int, image_size: int = 192) -> DrawnImage:
    """Draw an image, the same at every call; "train" and "val" share none.

    Args:
        seed, index: whole numbers from 0.
        image_size: S in pixels.
    """
    sequence = np.random.SeedSequence(seed, spawn_key=(SPLITS.index(split), index))
    layout, paint, camera = (np.random.default_rng(child) for child in sequence.spawn(3))
    shapes, owner = _sample_layout(layout, image_size)
    canvas = cv2.GaussianBlur(_paint(paint, shapes, image_size), (5, 5), camera.uniform(0.2, 0.7))
    canvas += camera.uniform(1, 5) * camera.standard_normal(canvas.shape, dtype=np.float32)
    return DrawnImage(np.clip(np.rint(canvas), 0, 255).astype(np.uint8), shapes, owner)


def _write_split(folder: Path, split: str, settings: dict[str, int]) -> None:
    size = settings["image_size"]
    images, annotations = [], []
    for index in trange(settings[f"num_{split}"], desc=f"drawing {split}", disable=None):
        drawn = draw_image(settings["seed"], split, index, size)
        name = f"{split}_{index:06d}.jpg"
        jpeg = cv2.imencode(".jpg", drawn.image, [cv2.IMWRITE_JPEG_QUALITY, 92])[1]
        (folder / "images" / name).write_bytes(jpeg.tobytes())  # cv2.imwrite may hide a full disk
        images.append({"id": index + 1, "file_name": name, "height": size, "width": size})
        for annotation in drawn.annotations():
            annotations.append({"id": len(annotations) + 1, "image_id": index + 1, **annotation})
    categories = [{"id": i, "name": name} for i, name in enumerate(CLASS_NAMES, start=1)]
    info = {"description": f"Generated shapes, {split}", **settings}
    dataset = CocoDataset(images, annotations, categories, other={"info": info})
    dataset.write(folder / f"{split}.json")


def _is_complete(root: Path, settings: dict[str, int]) -> bool:
    try:
        stamp = json.loads((root / "shapes.json").read_text())
    except (OSError, ValueError):
        return False
    images = len(list((root / "images").glob("*.jpg")))
    files = images == settings["num_train"] + settings["num_val"]
    return stamp == settings and files and all((root / f"{s}.json").is_file() for s in SPLITS)


def _rewrite(root: Path, settings: dict[str, int]) -> None:
    """Write into a folder beside, then swap; the stamp, removed first, is written last."""
    staging, stamp = root / ".shapes.partial", root / "shapes.json"
    names = ["images", "train.json", "val.json"]
    foreign = [name for name in names if (root / name).exists()]
    if foreign and not stamp.exists() and not staging.exists():
        found = f"{root} has {', '.join(foreign)}, not written by write_shapes_dataset"
        raise FileExistsError(f"{found}: give an empty or a new folder as root.")
    shutil.rmtree(staging, ignore_errors=True)
    (staging / "images").mkdir(parents=True)
    for split in SPLITS:
        _write_split(staging, split, settings)
    stamp.unlink(missing_ok=True)
    shutil.rmtree(root / "images", ignore_errors=True)
    for name in names:
        (staging / name).replace(root / name)
    (staging / "shapes.json").write_text(json.dumps(settings))
    (staging / "shapes.json").replace(stamp)
    staging.rmdir()


def write_shapes_dataset(
    root: str | Path,
    *,
    num_train: int = 1600,
    num_val: int = 200,
    image_size: int = 192,
    seed: int = 0,
) -> bool:
    """Write ``root/{train,val}.json`` (COCO's format) and ``root/images/*.jpg``, once.

    A complete dataset with equal settings stays; an incomplete or different one is written anew.

    Args:
        root: a folder, made if missing.
        num_train, num_val: numbers of images, at least 1 each.
        image_size: S in pixels, at least 96; below 200 few areas are "large" to COCO.
        seed: from 0.

    Returns:
        True if it wrote, False if it was complete already.

    Raises:
        ValueError: an argument out of range.
        FileExistsError: root is a file, or has images or annotations that others wrote.
    """
    settings = {"num_train": num_train, "num_val": num_val, "image_size": image_size, "seed": seed}
    for (name, value), least in zip(settings.items(), (1, 1, MIN_IMAGE_SIZE, 0)):
        if not isinstance(value, (int, np.integer)) or value < least:
            raise ValueError(f"{name} is {value!r}: give a whole number of at least {least}.")
    settings = {name: int(value) for name, value in settings.items()} | {"version": VERSION}
    root = Path(root)
    if _is_complete(root, settings):
        return False
    root.mkdir(parents=True, exist_ok=True)
    with open(root / ".shapes.lock", "w") as lock:  # processes started together write once
        with contextlib.suppress(ImportError):  # Windows has no fcntl
            import fcntl

            fcntl.flock(lock, fcntl.LOCK_EX)
        if _is_complete(root, settings):
            return False
        _rewrite(root, settings)
    return True
