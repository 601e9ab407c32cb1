"""`asff report`: output, files and refusals."""

from __future__ import annotations

import io
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from asff.data.image_io import read_image
from asff.report import render_page
from asff.report.images import MAX_BYTES, SIDE, encode_jpeg
from tests.reports import make_report, run_with_report, write_run
from tests.training import CLASSES, NUM_VAL, write_checkpoint


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory, config: Path) -> Path:
    """Write the folder of a run with its report."""
    folder = tmp_path_factory.mktemp("report") / "run"
    run = run_with_report(folder, config)
    assert re.search(
        r"shapes_val: \d+\.\d AP\. Wrote .*report\.html and .*report\.json", run.output
    )
    return folder


DATA = re.compile(r'<script id="data".*?>(.*?)</script>', re.DOTALL)


def read_data(folder: Path) -> dict:
    """Return the content of a page."""
    return json.loads(DATA.search((folder / "report.html").read_text())[1])


def test_the_page_is_one_file_that_loads_nothing(written: Path):
    text = DATA.sub("", (written / "report.html").read_text())
    # The name of a namespace, which browsers do not load.
    text = text.replace("http://www.w3.org/2000/svg", "")
    for loading in ("http://", "https://", "url(", "@import", "fetch(", "XMLHttp", "$"):
        assert loading not in re.sub(r"\$\{", "", text), loading
    markup = re.sub(r"<script.*?</script>", "", text, flags=re.DOTALL)
    addresses = re.findall(r"\b(?:src|href|srcset)=[\"']?([^\"'\s>]*)", markup)
    assert addresses and all(address.startswith(("#", "data:")) for address in addresses)


def test_the_page_has_the_numbers_of_the_json_and_the_images(written: Path):
    content = json.loads((written / "report.json").read_text())
    data = read_data(written)
    images = data.pop("image_data")
    assert data.pop("fusion_maps") == []  # there is no checkpoint
    assert data == content
    assert len(images) == len(content["worst_images"]) > 0
    assert all(image.startswith("data:image/jpeg;base64,") for image in images)


def test_content(written: Path):
    content = json.loads((written / "report.json").read_text())
    assert content["run"] == "run" and content["dataset"] == "shapes_val"
    assert content["images"] == NUM_VAL
    results = json.loads((written / "inference/shapes_val/coco_instances_results.json").read_text())
    assert content["detections"] == len(results)
    assert [entry["name"] for entry in content["classes"]] == list(CLASSES)
    assert sum(entry["objects"] for entry in content["classes"]) == content["objects"]
    assert content["environment"][1] == ["PyTorch", "2.14.1+cu130"]
    assert content["speed"]["training"] == {"iteration": 0.5, "data": 0.0}
    # Seven batches of an image each.
    assert content["speed"]["inference"]["total"] == pytest.approx(0.05)
    changed = dict(content["changed_keys"])
    assert changed["MODEL.META_ARCHITECTURE"] == "YOLOv3" and changed["INPUT.TEST_SIZE"] == "64"
    assert "SOLVER.MOMENTUM" not in changed  # a default
    assert "META_ARCHITECTURE: YOLOv3" in content["config"]
    scores = [counts["score"] for counts in content["at_scores"]]
    assert content["best_score"] in scores


def test_worst_images_come_first(written: Path):
    content = json.loads((written / "report.json").read_text())
    score = content["best_score"]

    def mistakes(image: dict) -> int:
        false = [x for x in image["detections"] if x["kind"] != "correct" and x["score"] >= score]
        return len(false) + sum(x["covered_score"] < score for x in image["objects"])

    counts = [mistakes(image) for image in content["worst_images"]]
    assert counts == sorted(counts, reverse=True) and counts[0] > counts[-1] > 0
    (at_best,) = (x for x in content["at_scores"] if x["score"] == score)
    assert sum(counts) == sum(np.sum(table) for table in at_best["mistakes"].values())


def test_jpegs_are_small():
    noise = np.random.default_rng(0).integers(0, 256, (1500, 2000, 3), dtype=np.uint8)
    data = encode_jpeg(noise)
    assert len(data) <= MAX_BYTES
    with Image.open(io.BytesIO(data)) as image:
        assert image.size == (SIDE, SIDE * 3 // 4)


def test_fusion_maps_of_the_last_checkpoint(tmp_path: Path, config: Path):
    write_run(tmp_path / "run", config)
    write_checkpoint(config, tmp_path / "run")
    run = make_report(tmp_path / "run", "--output", tmp_path)
    assert run.code == 0, run.output
    assert not (tmp_path / "run" / "report.html").exists()
    data = read_data(tmp_path)
    names = [image["file_name"] for image in data["worst_images"]]
    assert [x["caption"] for x in data["fusion_maps"]] == names[:3]
    assert all(x["image"].startswith("data:image/webp;base64,") for x in data["fusion_maps"])
    assert len({x["image"] for x in data["fusion_maps"]}) == 3


def test_a_model_without_asff_has_no_fusion_maps(tmp_path: Path, config: Path):
    plain = tmp_path / "plain.yaml"
    plain.write_text(config.read_text().replace("YOLOV3:", "YOLOV3:\n    FUSION: {NAME: none}"))
    write_run(tmp_path / "run", plain)
    write_checkpoint(plain, tmp_path / "run")
    run = make_report(tmp_path / "run")
    assert run.code == 0 and "No fusion maps: The model does not fuse" in run.output
    assert read_data(tmp_path / "run")["fusion_maps"] == []


def test_class_names_are_text(written: Path):
    """Names may contain markup, even the end of the element that contains the numbers."""
    name = "</script><img src=x onerror=alert(1)>&$title"
    content = json.loads((written / "report.json").read_text())
    content["classes"][0]["name"] = name
    content["run"] = "<b>"
    page = render_page(content, [], [])
    assert json.loads(DATA.search(page)[1])["classes"][0]["name"] == name
    assert "<img src=x" not in page and "<b>" not in page


def test_unreadable_images_are_left_out(
    tmp_path: Path, written: Path, datasets: Path, monkeypatch: pytest.MonkeyPatch
):
    before = json.loads((written / "report.json").read_text())["worst_images"]
    worst = before[0]["file_name"]
    monkeypatch.setattr(
        "asff.report.images.read_image",
        lambda path: read_image(f"{path}.gone" if worst in path else path),
    )
    run = make_report(written, "--output", tmp_path)
    assert run.code == 0 and "Left out:" in run.output and f"{worst}.gone" in run.output
    after = json.loads((tmp_path / "report.json").read_text())["worst_images"]
    assert after == before[1:]


def rename_dataset(run: Path) -> None:
    (run / "inference" / "shapes_val").rename(run / "inference" / "bccd_val")


@pytest.mark.parametrize(
    "change, options, message",
    [
        (lambda run: shutil.rmtree(run / "inference"), (), "has no evaluation .*--eval-only"),
        (lambda run: (run / "config.yaml").unlink(), (), "has no config.yaml"),
        (shutil.rmtree, (), "there is no such folder"),
        (
            lambda run: (run / "config.yaml").write_text("MODEL: {WEIHGTS: x}"),
            (),
            "config.yaml.*MODEL.WEIGHTS",
        ),
        (rename_dataset, (), "'bccd_val'.*DETECTRON2_DATASETS"),
        (None, ("--dataset", "shapes_train"), "shapes_train was not evaluated.*shapes_val"),
        (None, ("--output", "nowhere"), "--output nowhere: there is no such folder"),
        (None, ("--output", __file__), "--output .*test_report.py: there is no such folder"),
    ],
    ids="no evaluation, no run, no folder, config, dataset not there, not evaluated, "
    "no output folder, output is a file".split(", "),
)
def test_refusals(tmp_path: Path, config: Path, change, options, message):
    write_run(tmp_path / "run", config)
    if change is not None:
        change(tmp_path / "run")
    run = make_report(tmp_path / "run", *options)
    assert run.code == 2 and "Traceback" not in run.output
    assert re.search(f"^asff report: error: .*{message}", run.error)
