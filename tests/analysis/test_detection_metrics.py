"""AP, precision and recall, confusions and kinds of mistakes of an evaluation."""

from __future__ import annotations

from collections import Counter
from copy import deepcopy

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from asff.analysis import Evaluation, evaluate
from asff.analysis.detection_errors import CORRECT, IGNORED
from asff.analysis.detection_metrics import (
    SCORES,
    average_precisions,
    best_score,
    class_precisions,
    count_at,
    precision_curves,
    worst_images,
)
from asff.data.boxes import COCO_SIZES
from tests.reports import evaluate_image, jitter, make_ground_truth, nasty_case, random_images

CAT, DOG = 1, 2  # category ids; labels are 0 and 1
NONE = {kind: 0 for kind in ("missed", "duplicate", "classification", "localization", "background")}


def gt(box: list[float], category: int = CAT, **more) -> dict:
    return {"category_id": category, "bbox": box, **more}


def detection(box: list[float], score: float = 0.9, category: int = CAT) -> dict:
    return {"category_id": category, "bbox": box, "score": score}


def totals(counts: dict) -> dict[str, int]:
    """Return the number of mistakes of each kind."""
    return {kind: int(np.sum(table)) for kind, table in counts["mistakes"].items()}


def confusion_table(counts: dict, num_classes: int) -> np.ndarray:
    table = np.zeros((num_classes + 1, num_classes + 1), int)
    for actual, detected, number in counts["confusion"]:
        table[actual, detected] = number
    return table


@pytest.fixture(params=["generated", "bccd"])
def ground_truth(request: pytest.FixtureRequest) -> COCO:
    """Crowds, images without objects, and a class without objects; or a real dataset."""
    if request.param == "generated":
        return make_ground_truth(random_images(30, seed=3), ("cat", "dog", "emu"))
    ground_truth = COCO(str(request.getfixturevalue("bccd") / "val.json"))
    for number, annotation in enumerate(ground_truth.dataset["annotations"], start=1):
        annotation["id"] = number
    ground_truth.createIndex()
    return ground_truth


def test_ap_is_that_of_coco(ground_truth: COCO):
    """That of a class is COCO's AP of this class alone."""
    results = jitter(ground_truth)
    evaluation = evaluate(ground_truth, results)

    def judge(categories: list[int]) -> list[float | None]:
        coco = COCOeval(ground_truth, ground_truth.loadRes(deepcopy(results)), "bbox")
        coco.params.catIds = categories
        coco.evaluate()
        coco.accumulate()
        coco.summarize()
        return [pytest.approx(100 * x) if x > -1 else None for x in coco.stats[:6]]

    expected = judge(sorted(ground_truth.cats))
    assert list(average_precisions(evaluation).values()) == expected
    for category, entry in zip(sorted(ground_truth.cats), class_precisions(evaluation)):
        assert [entry["AP"], entry["AP50"]] == judge([category])[:2]
    assert 5 < average_precisions(evaluation)["AP"] < 95


@pytest.mark.parametrize("coco_api", ["hotcoco", "pycocotools"])
@pytest.mark.parametrize("seed", range(8))
def test_correct_and_ignored_detections_are_those_of_coco(seed: int, coco_api: str):
    ground_truth, results = nasty_case(seed)
    coco = COCOeval(ground_truth, ground_truth.loadRes(deepcopy(results)), "bbox")
    coco.evaluate()
    wanted = Counter()
    for image in coco.evalImgs:  # of all images, classes and sizes
        if image is None or image["aRng"] != coco.params.areaRng[0]:
            continue
        for number, match, ignored in zip(
            image["dtIds"], image["dtMatches"][0], image["dtIgnore"][0]
        ):
            found = coco.cocoDt.anns[number]
            kind = IGNORED if ignored else CORRECT if match else None
            key = found["image_id"], found["category_id"] - 1, found["score"], *found["bbox"]
            wanted[(*key, kind)] += 1
    table = evaluate(ground_truth, results, coco_api).detections
    kinds = [x if x in (CORRECT, IGNORED) else None for x in table["kind"].tolist()]
    keys = zip(*(table[x].tolist() for x in ("image", "label", "score")), *table["box"].T.tolist())
    assert Counter((*key, kind) for key, kind in zip(keys, kinds)) == wanted


def test_ap_by_hand():
    """One object of two is found: at all recalls up to a half, 51 of 101, the precision is 1."""
    evaluation = evaluate_image(
        [gt([100, 100, 50, 50]), gt([300, 300, 200, 200])], [detection([100, 100, 50, 50])]
    )
    half = pytest.approx(100 * 51 / 101)
    whole = pytest.approx(100)
    expected = {"AP": half, "AP50": half, "AP75": half, "APs": None, "APm": whole, "APl": 0.0}
    assert average_precisions(evaluation) == expected
    cat, dog = class_precisions(evaluation)
    assert cat == {"name": "cat", "objects": 2, "AP": half, "AP50": half}
    assert dog == {"name": "dog", "objects": 0, "AP": None, "AP50": None}


@pytest.fixture
def two_of_three() -> Evaluation:
    """A correct, a false and a correct detection of two objects, in descending order of scores."""
    return evaluate_image(
        [gt([100, 100, 50, 50]), gt([300, 300, 50, 50])],
        [
            detection([100, 100, 50, 50], 0.9),
            detection([600, 600, 50, 50], 0.8),
            detection([300, 300, 50, 50], 0.45),
        ],
    )


def test_precision_curves_by_hand(two_of_three: Evaluation):
    """The precision is 1 up to a recall of 0.5, then 2/3."""
    curves = precision_curves(two_of_three)
    assert curves["recall"] == [round(i / 100, 4) for i in range(101)]
    assert [curve["IoU"] for curve in curves["curves"]] == [0.5, 0.75, 0.9]
    for curve in curves["curves"]:
        cat, dog = curve["classes"]
        assert cat == [1.0] * 51 + [0.6667] * 50 and dog is None
        assert curve["mean"] == cat


@pytest.mark.parametrize(
    "score, precision, recall",
    [(0.05, 0.6667, 1.0), (0.5, 0.5, 0.5), (0.85, 1.0, 0.5), (0.95, None, 0.0)],
)
def test_precision_and_recall_by_hand(two_of_three: Evaluation, score, precision, recall):
    counts = count_at(two_of_three, score)
    assert counts["precision"] == [precision, None] and counts["recall"] == [recall, None]


SIDES = {"small": 20, "medium": 60, "large": 200}


@pytest.mark.parametrize("size", SIDES)
@pytest.mark.parametrize(
    "kind, objects, detections",
    [
        # Positions in sides of the object.
        ("missed", [(CAT, 0)], []),
        ("duplicate", [(CAT, 0)], [(CAT, 0, 0.9), (CAT, 0.1, 0.8)]),
        ("classification", [(CAT, 0)], [(DOG, 0, 0.9)]),
        ("localization", [(CAT, 0)], [(CAT, 0.5, 0.9)]),  # an IoU of 1/3
        ("background", [(CAT, 0)], [(CAT, 0, 0.9), (CAT, 2, 0.8)]),
    ],
    ids=["missed", "duplicate", "classification", "localization", "background"],
)
def test_kind_of_mistake(kind: str, objects: list, detections: list, size: str):
    side = SIDES[size]

    def box(position: float) -> list[float]:
        return [100 + position * side, 100, side, side]

    evaluation = evaluate_image(
        [gt(box(position), category) for category, position in objects],
        [detection(box(x), score, category) for category, x, score in detections],
    )
    counts = count_at(evaluation, 0.5)
    assert totals(counts) == {**NONE, kind: 1}
    label = DOG - 1 if kind == "classification" else CAT - 1  # that of the detection
    assert counts["mistakes"][kind][COCO_SIZES.index(size)][label] == 1


def test_size_is_that_of_the_annotation():
    """COCO's area is that of the mask, not of the box; a duplicate has that of its object."""
    evaluation = evaluate_image(
        [gt([100, 100, 200, 200], area=900)],
        [detection([100, 100, 200, 200], 0.9), detection([100, 100, 200, 190], 0.8)],
    )
    assert count_at(evaluation, 0.5)["mistakes"]["duplicate"] == [[1, 0], [0, 0], [0, 0]]


def test_an_object_is_missed_once_its_localization_mistake_is_below_the_threshold():
    evaluation = evaluate_image(
        [gt([100, 100, 60, 60])], [detection([130, 100, 60, 60], score=0.6)]
    )
    assert totals(count_at(evaluation, 0.6)) == {**NONE, "localization": 1}
    assert totals(count_at(evaluation, 0.65)) == {**NONE, "missed": 1}


def test_the_confusions_match_the_highest_score_first():
    """The dog of higher score is matched to the object; the cat is correct nevertheless."""
    box = [100, 100, 60, 60]
    evaluation = evaluate_image([gt(box)], [detection(box, 0.9, DOG), detection(box, 0.8, CAT)])
    counts = count_at(evaluation, 0.5)
    assert sorted(counts["confusion"]) == [[0, 1, 1], [2, 0, 1]]
    assert totals(counts) == {**NONE, "classification": 1}
    assert counts["recall"][0] == 1
    # Of two objects, the one of the highest IoU is matched.
    evaluation = evaluate_image(
        [gt([100, 100, 60, 60]), gt([110, 100, 60, 60], DOG)],
        [detection([110, 100, 60, 60])],
    )
    assert sorted(count_at(evaluation, 0.5)["confusion"]) == [[0, 2, 1], [1, 0, 1]]


@pytest.mark.parametrize("positions", [(100, 140), (140, 100)])
def test_of_equal_ious_the_last_object_is_matched_as_by_coco(positions: tuple[int, int]):
    """The first detection has an IoU of 0.5 with both; the second one is that at 140."""
    evaluation = evaluate_image(
        [gt([x, 100, 60, 60]) for x in positions],
        [detection([120, 100, 60, 60], 0.9), detection([140, 100, 60, 60], 0.8)],
    )
    taken = positions[-1] == 140
    mistakes = {"duplicate": 1, "missed": 1} if taken else {}
    assert totals(count_at(evaluation, 0.5)) == {**NONE, **mistakes}
    # Of the 101 recalls, 51 are up to a half.
    ap = 100 * 51 / 101 if taken else 100
    assert average_precisions(evaluation)["AP50"] == pytest.approx(ap)


def test_crowds_count_neither_way():
    crowd = gt([100, 100, 400, 400], iscrowd=1)
    inside = [120, 120, 60, 60]
    evaluation = evaluate_image([crowd], [detection(inside), detection(inside, 0.8, DOG)])
    counts = count_at(evaluation, 0.5)
    # There is no crowd of dogs.
    assert totals(counts) == {**NONE, "background": 1}
    assert counts["confusion"] == [[2, 1, 1]]
    assert counts["precision"] == [None, 0.0] and counts["recall"] == [None, None]


def test_sums_of_confusions_and_mistakes(ground_truth: COCO):
    """They are the numbers of objects and of detections, in a plain loop."""
    results = jitter(ground_truth)
    evaluation = evaluate(ground_truth, results)
    labels = {category: label for label, category in enumerate(sorted(ground_truth.cats))}
    objects = [x for x in ground_truth.dataset["annotations"] if not x["iscrowd"]]
    num_objects = Counter(labels[x["category_id"]] for x in objects)
    ignored = evaluation.detections[evaluation.detections["kind"] == IGNORED]
    has_crowds = len(objects) < len(ground_truth.dataset["annotations"])
    assert bool(len(ignored)) == has_crowds
    for score in SCORES:
        counts = count_at(evaluation, score)
        table = confusion_table(counts, len(labels))
        shown = Counter(labels[x["category_id"]] for x in results if x["score"] >= score)
        shown.subtract(Counter(ignored["label"][ignored["score"] >= score].tolist()))
        for label in labels.values():
            assert table[label].sum() == num_objects[label]
            assert table[:, label].sum() == shown[label]
        recalls = enumerate(counts["recall"])
        hits = sum(round(r * num_objects[i]) for i, r in recalls if r is not None)
        kinds = totals(counts)
        assert kinds["missed"] <= len(objects) - hits
        assert sum(kinds.values()) - kinds["missed"] == shown.total() - hits


def test_a_threshold_is_as_if_there_were_no_other_detections():
    ground = make_ground_truth(random_images(20, seed=2))
    results = jitter(ground, seed=2)
    evaluation = evaluate(ground, results)
    for score in (0.05, 0.3, 0.55, 0.8):
        cut = evaluate(ground, [x for x in results if x["score"] >= score])
        assert count_at(evaluation, score) == count_at(cut, score)
        assert worst_images(evaluation, score) == worst_images(cut, score)


def test_best_score_and_worst_images():
    """At 0.35 and 0.4 both objects are found, and one of three detections is wrong: F1 = 4/5."""
    images = [[], [gt([100, 100, 50, 50])], [gt([100, 100, 50, 50])]]
    results = [
        {"image_id": 0, **detection([600, 600, 50, 50], 0.3)},
        {"image_id": 0, **detection([100, 600, 50, 50], 0.3)},
        {"image_id": 1, **detection([100, 100, 50, 50], 0.42)},
        {"image_id": 2, **detection([100, 100, 50, 50], 0.9)},
        {"image_id": 2, **detection([600, 600, 50, 50], 0.5)},
    ]
    evaluation = evaluate(make_ground_truth(images), results)
    assert best_score(evaluation) == 0.35  # the lowest of those that are as good
    assert worst_images(evaluation, 0.35) == [2]
    assert worst_images(evaluation, 0.05) == [0, 2]
    assert worst_images(evaluation, 0.45) == [1, 2]


def test_without_detections():
    evaluation = evaluate_image([gt([100, 100, 50, 50])], [])
    assert average_precisions(evaluation)["AP"] == 0
    assert totals(count_at(evaluation, 0.05)) == {**NONE, "missed": 1}
    assert count_at(evaluation, 0.05)["confusion"] == [[0, 2, 1]]
    assert best_score(evaluation) == SCORES[0]


def test_without_objects():
    evaluation = evaluate(make_ground_truth([[], []]), [{"image_id": 1, **detection([1, 1, 9, 9])}])
    assert set(average_precisions(evaluation).values()) == {None}
    assert [curve["mean"] for curve in precision_curves(evaluation)["curves"]] == [None] * 3
    assert totals(count_at(evaluation, 0.5)) == {**NONE, "background": 1}
    nothing = evaluate(make_ground_truth([[], []]), [])
    assert totals(count_at(nothing, 0.5)) == NONE and worst_images(nothing, 0.5) == []


def test_refusals():
    ground = make_ground_truth([[gt([1, 1, 9, 9])]])
    result = {"image_id": 0, **detection([1, 1, 9, 9])}
    for key, value in (("image_id", 7), ("category_id", 9)):
        with pytest.raises(ValueError, match=f"{key} {value}, which the dataset does not have"):
            evaluate(ground, [{**result, key: value}])
    del ground.dataset["annotations"]
    with pytest.raises(ValueError, match="no annotations"):
        evaluate(ground, [])
