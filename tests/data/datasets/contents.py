"""A small dataset without a fault, for tests to break."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from asff.data.datasets.file_status import FileStatus

WIDTH, HEIGHT = 60, 40


def make_content(*, images: int = 2) -> dict:
    """A dataset without a fault: each image has one box of each of two classes."""
    content = {"info": {"year": 2020}, "images": [], "annotations": []}
    content["categories"] = [{"id": 3, "name": "cell"}, {"id": 7, "name": "dust"}]
    for i in range(images):
        image = {"id": 10 + i, "file_name": f"{i}.png", "width": WIDTH, "height": HEIGHT}
        content["images"].append(image)
        for category, box in ((3, [0, 0, 60, 40]), (7, [5.5, 6, 10, 4])):
            content["annotations"].append(
                {
                    "id": len(content["annotations"]) + 1,
                    "image_id": 10 + i,
                    "category_id": category,
                    "bbox": box,
                    "area": box[2] * box[3],
                    "iscrowd": 0,
                }
            )
    return content


def sound_files(content: dict) -> dict[str, FileStatus]:
    """The status that all files have where they are as they should be."""
    names = [image["file_name"] for image in content["images"]]
    return {name: FileStatus(f"/images/{name}", size=(WIDTH, HEIGHT)) for name in names}


def write_image(path: Path, width: int = WIDTH, height: int = HEIGHT) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    assert cv2.imwrite(str(path), noise)
