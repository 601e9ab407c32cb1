"""A small dataset that breaks no rule, for tests to change."""

from __future__ import annotations

from asff.data.datasets import CocoDataset
from asff.data.datasets.image_files import ImageFile

WIDTH, HEIGHT = 60, 40


def make_dataset(*, images: int = 2, image_root: str = "") -> CocoDataset:
    """Make a dataset whose images have one box of each of two classes."""
    categories = [{"id": 3, "name": "cell"}, {"id": 7, "name": "dust"}]
    dataset = CocoDataset([], [], categories, image_root, {"info": {"year": 2020}})
    for i in range(images):
        image = {"id": 10 + i, "file_name": f"{i}.png", "width": WIDTH, "height": HEIGHT}
        dataset.images.append(image)
        for category, box in ((3, [0, 0, 60, 40]), (7, [5.5, 6, 10, 4])):
            dataset.annotations.append(
                {
                    "id": len(dataset.annotations) + 1,
                    "image_id": 10 + i,
                    "category_id": category,
                    "bbox": box,
                    "area": box[2] * box[3],
                    "iscrowd": 0,
                }
            )
    return dataset


def sound_files(dataset: CocoDataset) -> dict[str, ImageFile]:
    """Return the status of files that break no rule."""
    names = [image["file_name"] for image in dataset.images]
    return {name: ImageFile(f"/images/{name}", size=(WIDTH, HEIGHT)) for name in names}
