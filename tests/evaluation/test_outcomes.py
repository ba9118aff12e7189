"""Found, missed and false, and why."""

from __future__ import annotations

import numpy as np
import pytest

from latentface.evaluation.average_precision import PictureResult, evaluate_pictures
from latentface.evaluation.outcomes import (
    Count,
    Outcome,
    _best,
    _falses,
    _misses,
    count_by_height,
    count_falses,
    count_misses,
    judge,
)

FACES = {  # x1 y1 x2 y2
    "found": (0, 0, 40, 40),
    "weakly found": (100, 0, 120, 20),
    "box of 0.4": (200, 0, 240, 40),
    "small": (300, 0, 310, 10),
    "alone": (400, 0, 420, 20),
    "in front": (500, 0, 540, 40),
    "behind": (500, 4, 540, 44),
    "flagged": (600, 0, 640, 40),
    "too low to count": (700, 0, 705, 5),
}
DETECTIONS = (  # x1 y1 x2 y2 score
    (500, 0, 540, 40, 0.95),  # of two faces it takes the one that it fits better; 36 / 44 of the other
    (0, 0, 40, 40, 0.9),
    (600, 0, 640, 40, 0.9),  # on the flagged face: neither right nor wrong
    (200, 0, 240, 100, 0.8),  # 1600 / 4000
    (700, 100, 730, 130, 0.7),  # nothing there
    (600, 2, 640, 42, 0.6),  # on the flagged face again
    (800, 0, 805, 5, 0.6),  # too low to count
    (100, 0, 120, 20, 0.3),
    (900, 0, 940, 40, 0.3),  # under the confidence
)


def picture() -> Outcome:
    boxes = np.array(list(FACES.values()), np.float32)
    found = np.array(DETECTIONS)
    ignore = np.array([name == "flagged" for name in FACES])
    nothing = np.zeros((len(found), 5, 2)), np.zeros((len(boxes), 5, 2))
    return judge(
        PictureResult(found[:, :4], found[:, 4], nothing[0], boxes, nothing[1], ignore), confidence=0.5, min_height=8
    )


def test_every_face_by_hand() -> None:
    outcome = picture()
    assert dict(zip(FACES, outcome.miss.tolist(), strict=True)) == {
        "found": "",
        "weakly found": "score too low",
        "box of 0.4": "box too far off",
        "small": "too small",
        "alone": "nothing there",
        "in front": "",
        "behind": "one box for two faces",
        "flagged": "",
        "too low to count": "",
    }
    names = list(FACES)
    assert [names[face] for face in np.flatnonzero(outcome.found)] == ["found", "in front"]
    assert [names[face] for face in np.flatnonzero(~outcome.counted)] == ["flagged", "too low to count"]
    assert outcome.nearest.tolist() == [1, 7, 3, -1, -1, 0, 0, 2, -1]
    np.testing.assert_allclose(outcome.overlap, [1, 1, 0.4, 0, 0, 1, 36 / 44, 1, 0])


def test_every_detection_by_hand() -> None:
    outcome = picture()
    assert outcome.false.tolist() == ["", "", "", "box too far off", "no face there", "second box", "", "", ""]
    np.testing.assert_allclose(outcome.beside, [1, 1, 1, 0.4, 0, 38 / 42, 0, 1, 0])
    assert outcome.f1 == pytest.approx(2 * 2 / (7 + 2 + 3))


def test_counts_by_height_by_hand() -> None:
    counts = count_by_height([picture(), picture()])
    assert {band: (c.faces, c.found, c.missed, c.false) for band, c in counts.items()} == {
        "all": (14, 4, 10, 6),
        "under 16": (2, 0, 2, 0),
        "16-32": (4, 0, 4, 2),
        "32-96": (8, 4, 4, 2),
        "over 96": (0, 0, 0, 2),
    }
    assert (counts["all"].recall, counts["all"].precision) == (4 / 14, 4 / 10)
    assert np.isnan(counts["over 96"].recall)
    assert np.isnan(counts["under 16"].precision)


def test_kinds_by_height_by_hand() -> None:
    misses, falses = count_misses([picture()]), count_falses([picture()])
    assert {kind: bands["all"] for kind, bands in misses.items()} == {
        "score too low": 1, "one box for two faces": 1, "box too far off": 1, "too small": 1, "nothing there": 1,
    }  # fmt: skip
    assert misses["score too low"] == {"all": 1, "under 16": 0, "16-32": 1, "32-96": 0, "over 96": 0}
    assert misses["too small"]["under 16"] == 1
    assert {kind: [b for b, n in bands.items() if n] for kind, bands in falses.items()} == {
        "second box": ["all", "32-96"],
        "box too far off": ["all", "over 96"],
        "no face there": ["all", "16-32"],
    }


def test_a_picture_without_anything() -> None:
    empty = np.zeros((0, 4)), np.zeros(0), np.zeros((0, 5, 2))
    outcome = judge(PictureResult(*empty, empty[0], empty[2], np.zeros(0, bool)), confidence=0.5)
    assert np.isnan(outcome.f1)
    assert count_by_height([outcome])["all"].faces == 0
    assert count_misses([])["too small"]["all"] == 0


@pytest.mark.parametrize("seed", range(5))
def test_counts_agree_with_average_precision(seed: int) -> None:
    """Scoring only the detections of a confidence or more finds as many faces, and as many that are none."""
    generator = np.random.default_rng(seed)
    corner = generator.uniform(0, 60, (40, 2))
    truth = np.concatenate([corner, corner + generator.uniform(8, 40, (40, 2))], axis=1)
    boxes = np.concatenate([truth + generator.normal(0, 3, truth.shape), truth[::2] + 4])
    boxes = boxes[(boxes[:, 2:] > boxes[:, :2]).all(axis=1)]
    scores, ignore = generator.random(len(boxes)), generator.random(40) < 0.2
    points = np.zeros((len(boxes), 5, 2)), np.zeros((40, 5, 2))
    whole = PictureResult(boxes, scores, points[0], truth, points[1], ignore)
    strong = scores >= 0.4
    part = PictureResult(boxes[strong], scores[strong], points[0][strong], truth, points[1], ignore)
    expected = evaluate_pictures([part], min_height=12)
    count = count_by_height([judge(whole, confidence=0.4, min_height=12)])["all"]
    assert (count.faces, count.found) == (expected.truths, int(expected.right.sum()))
    assert count.false == expected.detections - int(expected.right.sum())
    assert 0 < count.found < count.faces
    assert count.false > 0


def judged(boxes: list, scores: list, faces: list, **options) -> Outcome:
    found, truths = np.array(boxes, np.float64).reshape(-1, 4), np.array(faces, np.float64).reshape(-1, 4)
    nothing = np.zeros((len(found), 5, 2)), np.zeros((len(truths), 5, 2))
    ignore = np.zeros(len(truths), bool)
    return judge(PictureResult(found, np.array(scores), nothing[0], truths, nothing[1], ignore), **options)


def test_bounds_of_the_reasons_are_inclusive() -> None:
    """Of a miss: match, overlap, height; of a false detection: overlap."""
    match = np.array([0, -1, -1, -1, -1, -1, -1])
    overlap = np.array([0.0, 0.5, 0.49, 0.3, 0.29, 0.29, 0])
    assert _misses(match, overlap, np.array([99, 99, 99, 99, 12, 11.9, 1])).tolist() == [
        "score too low", "one box for two faces", "box too far off", "box too far off", "nothing there", "too small",
        "too small",
    ]  # fmt: skip
    assert _falses(np.array([0.5, 0.49, 0.3, 0.29, 0])).tolist() == [
        "second box", "box too far off", "box too far off", "no face there", "no face there",
    ]  # fmt: skip


def test_bounds_of_judging_are_inclusive() -> None:
    face, elsewhere = [10, 10, 20, 20], [50, 50, 60, 60]
    outcome = judged([face, elsewhere], [0.5, 0.5], [face], confidence=0.5, min_height=10)
    assert (outcome.counted.tolist(), outcome.found.tolist(), outcome.finder.tolist()) == ([True], [True], [0])
    assert outcome.false.tolist() == ["", "no face there"]
    assert outcome.f1 == pytest.approx(2 / 3)
    low = judged([face, elsewhere], [0.5, 0.5], [face], confidence=0.5, min_height=10.1)
    assert (low.counted.tolist(), low.found.tolist(), low.false.tolist()) == ([False], [False], ["", ""])
    assert judged([face], [0.49], [face], confidence=0.5).miss.tolist() == ["score too low"]
    small = judged([[0, 0, 0.5, 0.5]], [1.0], [[0, 0, 0.5, 0.5], [9, 9, 9.5, 9.5]], confidence=0.5)
    assert (small.counted.tolist(), small.found.tolist()) == ([True, True], [True, False])  # any height by default
    assert count_by_height([small])["all"].faces == 2
    assert count_misses([small])["too small"]["all"] == 1


def test_heights_belong_to_bands_that_begin_with_their_lower_bound() -> None:
    faces = [[0, 10, 9, 10 + height] for height in (15.5, 16, 31.5, 32, 95.5, 96)]
    elsewhere = [[500, 10, 509, 10 + height] for height in (16, 32, 96)]
    outcome = judged(elsewhere, [1.0] * 3, faces, confidence=0.5)
    counts = count_by_height([outcome])
    assert [(c.faces, c.found, c.false) for c in counts.values()] == [
        (6, 0, 3), (1, 0, 0), (2, 0, 1), (2, 0, 1), (1, 0, 1),
    ]  # fmt: skip
    assert list(count_misses([outcome])["nothing there"].values()) == [6, 1, 2, 2, 1]
    assert list(count_falses([outcome])["no face there"].values()) == [3, 0, 1, 1, 1]


def test_best_of_each_column() -> None:
    best, row = _best(np.array([[0.1, 0.0, 0.5], [0.3, 0.0, 0.5]]))
    assert (best.tolist(), row.tolist()) == ([0.3, 0.0, 0.5], [1, -1, 0])
    best, row = _best(np.zeros((0, 2)))
    assert (best.tolist(), row.tolist()) == ([0.0, 0.0], [-1, -1])


def test_recall_and_precision_of_counts() -> None:
    count = Count(faces=8, found=2, false=3)
    assert (count.missed, count.recall, count.precision) == (6, 0.25, 0.4)
    assert (Count(faces=1).recall, Count(false=1).precision) == (0, 0)
    assert np.isnan(Count().recall)
    assert np.isnan(Count().precision)
    assert Count() == Count(0, 0, 0)
