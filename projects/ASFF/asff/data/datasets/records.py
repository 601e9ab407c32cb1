"""From the content of a COCO file to Detectron2's dataset dicts."""

from __future__ import annotations

import logging
from collections.abc import Callable

from detectron2.structures import BoxMode

from .content import Content

MAX_SHOWN = 5  # file names in a message


def load_records(name: str, load_content: Callable[[], Content]) -> list[dict]:
    """Dataset dicts as Detectron2's ``load_coco_json`` makes them, of categories 1 to K.

    Args:
        name: of the dataset.
        load_content: of a reader of this package. Crowds are objects marked as difficult; images
            without a size could not be read, and are left out with a warning.

    Raises:
        ValueError: naming the dataset, and what is wrong with its files.
    """
    try:
        content = load_content()
    except ValueError as error:
        raise ValueError(f"dataset '{name}': {error}") from error
    records = {
        image["id"]: {
            "file_name": image["file_name"],
            "height": image["height"],
            "width": image["width"],
            "image_id": image["id"],
            "annotations": [],
        }
        for image in content["images"]
    }
    for annotation in content["annotations"]:
        records[annotation["image_id"]]["annotations"].append(
            {
                "iscrowd": annotation["iscrowd"],
                "bbox": annotation["bbox"],
                "category_id": annotation["category_id"] - 1,
                "bbox_mode": BoxMode.XYWH_ABS,
            }
        )
    crowds = sum(annotation["iscrowd"] for annotation in content["annotations"])
    if crowds:
        logging.getLogger("asff").info(
            f"{name}: {crowds} of {len(content['annotations'])} objects are marked as difficult: "
            "not trained on, ignored in evaluation."
        )
    return drop_unreadable(name, list(records.values()))


def drop_unreadable(name: str, records: list[dict]) -> list[dict]:
    """The records whose images have a size; the others are counted and named."""
    kept = [record for record in records if record["width"]]
    lost = [record for record in records if not record["width"]]
    if not kept:
        raise ValueError(
            f"dataset '{name}': none of its {len(lost)} images can be read, as "
            f"'{lost[0]['file_name']}'."
        )
    if lost:
        shown = ", ".join(record["file_name"] for record in lost[:MAX_SHOWN])
        logging.getLogger("asff").warning(
            f"{name}: {len(lost)} of {len(records)} images cannot be read and are left out, with "
            f"{sum(len(record['annotations']) for record in lost)} objects: {shown}"
            f"{', ...' if len(lost) > MAX_SHOWN else ''}."
        )
    return kept
