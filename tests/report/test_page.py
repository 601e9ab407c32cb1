"""The report's page in a browser: it opens without errors, and its controls work."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from asff.analysis import evaluate
from asff.analysis.detection_metrics import (
    SCORES,
    class_precisions,
    count_at,
    precision_curves,
)
from asff.report import render_page
from asff.report.curves import training_curves
from tests.reports import jitter, make_ground_truth, random_images, run_with_report
from tests.training import CLASSES

if TYPE_CHECKING:
    from playwright.sync_api import Page

PATIENCE = 120_000  # milliseconds, of a browser on a busy machine
DESKTOP, PHONE = {"width": 1280, "height": 900}, {"width": 320, "height": 568}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, config: Path) -> Path:
    """Write a run with its report."""
    folder = tmp_path_factory.mktemp("page") / "run"
    run_with_report(folder, config)
    return folder


@pytest.fixture(scope="module")
def content(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "report.json").read_text())


@pytest.fixture(scope="module")
def tab() -> Iterator[Page]:
    """Open a tab of a browser; one for all tests, since a browser starts slowly."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    names = ("chromium", "chromium-browser", "google-chrome")
    path = next(filter(None, map(shutil.which, names)), None)
    if path is None:
        pytest.skip("there is no Chromium here (apt-get install chromium)")
    with playwright.sync_playwright() as tools:
        # Its sandbox needs rights that containers lack; the page is our own.
        browser = tools.chromium.launch(
            executable_path=path, args=["--no-sandbox"], timeout=PATIENCE
        )
        tab = browser.new_page(reduced_motion="reduce")
        tab.set_default_timeout(PATIENCE)
        yield tab
        browser.close()


@pytest.fixture
def page(tab: Page, folder: Path, request: pytest.FixtureRequest) -> Iterator[Page]:
    """Open the report on a screen of a size, by default a desktop's; no error may happen."""
    errors: list[str] = []
    addresses: list[str] = []
    listeners = {
        "console": lambda message: errors.append(message.text),
        "pageerror": lambda error: errors.append(str(error)),
        "request": lambda request: addresses.append(request.url),
    }
    for event, listener in listeners.items():
        tab.on(event, listener)
    tab.set_viewport_size(getattr(request, "param", DESKTOP))
    tab.goto((folder / "report.html").as_uri())
    yield tab
    for event, listener in listeners.items():
        tab.remove_listener(event, listener)
    assert errors == []
    assert all(x.startswith("data:") or x.endswith(".html") for x in addresses), addresses


def cells(page: Page, selector: str) -> list[list[str]]:
    """Return the texts of a table's rows."""
    rows = page.locator(f"{selector} tbody tr").all()
    return [row.locator("th, td").all_inner_texts() for row in rows]


def percent(share: float | None) -> str:
    return "–" if share is None else f"{100 * share:.1f}"


def show(page: Page, tmp_path: Path, content: dict) -> None:
    """Open a report with this content, without images."""
    file = tmp_path / "changed.html"
    file.write_text(render_page({**content, "worst_images": []}, [], []))
    page.goto(file.as_uri())


def check_score(page: Page, counts: dict) -> None:
    """Check that all tables show the counts of a score."""
    assert page.locator("#score-value").inner_text() == f"{counts['score']:.2f}"
    _, *classes = cells(page, "#classes")
    assert [row[0] for row in classes] == list(CLASSES)
    assert [row[4] for row in classes] == [percent(x) for x in counts["precision"]]
    assert [row[5] for row in classes] == [percent(x) for x in counts["recall"]]
    table = [[0] * (len(CLASSES) + 1) for _ in range(len(CLASSES) + 1)]
    for actual, detected, number in counts["confusion"]:
        table[actual][detected] = number
    shown = [[int(x or 0) for x in row[1:]] for row in cells(page, "#confusion")]
    assert shown == table
    for row in page.locator("#kinds tbody tr").all():
        by_size = counts["mistakes"][row.get_attribute("data-kind")]
        *numbers, total = (int(x) for x in row.locator("td").all_inner_texts()[:4])
        assert numbers == [sum(x) for x in by_size] and total == sum(numbers)


def at_score(content: dict, score: float) -> dict:
    (counts,) = (x for x in content["at_scores"] if x["score"] == score)
    return counts


def test_score(page: Page, content: dict):
    check_score(page, at_score(content, content["best_score"]))
    page.locator("#score").press("End")
    check_score(page, at_score(content, 0.95))
    page.locator("#score").press("Home")
    page.locator("#score").press("ArrowRight")
    check_score(page, at_score(content, 0.1))
    page.locator("#best").click()
    check_score(page, at_score(content, content["best_score"]))
    expected = ["–" if x is None else f"{x:.1f}" for x in content["AP"].values()]
    assert page.locator("#metrics dd").all_inner_texts() == expected
    assert cells(page, "#classes")[0][2] == expected[0]


def test_means_are_of_the_classes_with_objects(page: Page, content: dict, tmp_path: Path):
    """False detections of a class without objects do not lower the mean precision, as in AP."""
    first, *others = content["classes"]
    counts = at_score(content, content["best_score"])
    changed = {"precision": [0.0, 0.25, 0.5, 0.75], "recall": [None, 0.2, 0.4, None]}
    content = {
        **content,
        "classes": [{**first, "objects": 0}, *others],
        "at_scores": [{**counts, **changed, "score": score} for score in SCORES],
    }
    show(page, tmp_path, content)
    assert cells(page, "#classes")[0][4:] == ["50.0", "30.0"]


def test_class(page: Page, content: dict):
    page.locator("#class").select_option(label=CLASSES[1])
    assert CLASSES[1] in page.locator("#precision-recall h3").inner_text()
    counts = at_score(content, content["best_score"])
    totals = {
        row.get_attribute("data-kind"): int(row.locator("td").nth(3).inner_text())
        for row in page.locator("#kinds tbody tr").all()
    }
    assert totals == {
        kind: sum(size[1] for size in sizes) for kind, sizes in counts["mistakes"].items()
    }
    # By keyboard, in the table; pressed again, it selects all classes.
    button = page.locator("#classes button[data-label='2']")
    button.press("Enter")
    assert page.locator("#class").input_value() == "2"
    button.press("Enter")
    assert "mean of classes" in page.locator("#precision-recall h3").inner_text()
    objects = [entry["objects"] for entry in content["classes"]]
    head = page.locator("#classes button[data-column='objects']")
    for descending in (True, False):
        head.click()
        shown = [int(row[1]) for row in cells(page, "#classes")[1:]]
        assert shown == sorted(objects, reverse=descending)


def test_images(page: Page, content: dict):
    images, score = content["worst_images"], content["best_score"]

    def check(image: dict) -> int:
        """Check that the image is shown with its boxes, and return the number of its mistakes."""
        assert image["file_name"] in page.locator("#caption").inner_text()
        shown = [x for x in image["detections"] if x["score"] >= score]
        wrong = sum(x["kind"] != "correct" for x in shown)
        wrong += sum(x["covered_score"] < score for x in image["objects"])
        assert page.locator("#viewed .box").count() == len(shown) + len(image["objects"])
        assert page.locator("#list li").count() == wrong
        return wrong

    numbers = [int(x) for x in page.locator("#thumbs button").all_inner_texts()]
    check(images[0])
    # A box lies on the screen where it is in the image.
    position = page.evaluate(
        """() => {
            const box = document.querySelector('#viewed .box.object, #viewed .box.missed');
            const [inner, outer] = [box, box.parentElement].map((x) => x.getBoundingClientRect());
            return [inner.x - outer.x, inner.y - outer.y, inner.width, inner.height, outer.width];
        }"""
    )
    scale = position.pop() / images[0]["width"]
    boxes = [[side * scale for side in x["box"]] for x in images[0]["objects"]]
    assert any(position == pytest.approx(box, abs=1) for box in boxes), (position, boxes)
    page.locator("#thumbs button").nth(1).click()
    assert check(images[1]) == numbers[1]
    page.locator("#thumbs button").nth(1).press("ArrowRight")
    assert check(images[2]) == numbers[2]
    page.locator("#thumbs button").nth(0).click()
    assert page.evaluate("document.querySelector('#viewed img').naturalWidth") > 0
    # Focus on a mistake shows it alone.
    page.locator("#list button").first.focus()
    assert page.locator("#viewed .box.selected").count() == 1
    assert page.locator("#viewed .box:not(.faded)").count() == 1
    page.locator("[data-layer='object']").uncheck()
    assert page.locator("#viewed .box.object").count() == 0


def test_curves(page: Page):
    """Arrow keys read values, and a logarithmic scale spreads the small ones."""
    chart = page.locator("#curves .chart").first
    plot = chart.locator(".plot")
    assert "total 1.13" in chart.locator(".legend").inner_text()  # 9 / 8
    plot.press("ArrowRight")
    plot.press("ArrowRight")
    legend = chart.locator(".legend").inner_text()
    assert "total 4.5" in legend and "box 2.5" in legend and "iteration 2" in legend
    ends = "() => document.querySelector('#curves polyline').getAttribute('points')"
    before = page.evaluate(ends)
    chart.get_by_label("log scale").check()
    assert page.evaluate(ends) != before
    assert page.locator("#curves .chart").count() == 4


@pytest.mark.parametrize("page", [DESKTOP, PHONE], ids=["desktop", "phone"], indirect=True)
def test_numbers_of_coco_and_long_names_fit(page: Page, content: dict, tmp_path: Path):
    counts = at_score(content, content["best_score"])
    sizes = {kind: [[87_654] * len(CLASSES)] * 3 for kind in counts["mistakes"]}
    steps = [{"iteration": 90_000 * i, "total_loss": 2e5, "lr": 0.0025} for i in range(4)]
    content = {
        **content,
        "classes": [{**entry, "name": "traffic light " * 9} for entry in content["classes"]],
        "at_scores": [{**counts, "score": score, "mistakes": sizes} for score in SCORES],
        "training": training_curves(steps, "shapes_val"),
        "config": "KEY: value\n" * 99,
    }
    show(page, tmp_path, content)
    assert page.evaluate("document.documentElement.scrollWidth") == page.viewport_size["width"]
    heads = "[...document.querySelectorAll('#confusion thead th')].map((x) => x.clientHeight)"
    assert max(page.evaluate(heads)) < 200
    cut = page.evaluate(
        """() => [...document.querySelectorAll('.plot text')].filter((text) => {
            const box = text.getBoundingClientRect(), svg = text.ownerSVGElement;
            const plot = svg.getBoundingClientRect();
            const seen = getComputedStyle(svg).overflow === "visible"
                || (box.left >= plot.left && box.right <= plot.right);
            return !seen || box.left < 0 || box.right > innerWidth;
        }).map((text) => text.textContent)"""
    )
    assert cut == []


def test_confusions_of_many_classes_are_listed(page: Page, content: dict, tmp_path: Path):
    names = [f"class {i}" for i in range(25)]
    ground_truth = make_ground_truth(random_images(20, seed=5), names)
    evaluation = evaluate(ground_truth, jitter(ground_truth, seed=5))
    content = {
        **content,
        "classes": class_precisions(evaluation),
        "precision_curves": precision_curves(evaluation),
        "at_scores": [count_at(evaluation, score) for score in SCORES],
    }
    show(page, tmp_path, content)
    page.locator("#score").press("Home")
    rows = [(first, second, int(number)) for first, second, number in cells(page, "#confusion")]
    all_names = [*names, "background"]
    wrong = [
        (all_names[actual], all_names[detected], number)
        for actual, detected, number in content["at_scores"][0]["confusion"]
        if actual != detected
    ]
    assert sorted(rows) == sorted(wrong) and len(rows) > 3
    assert [number for *_, number in rows] == sorted((x[2] for x in wrong), reverse=True)
    page.locator("#class").select_option(label="class 1")
    assert all("class 1" in row[:2] for row in cells(page, "#confusion"))
    assert page.locator("#images").is_hidden()
