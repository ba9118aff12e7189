"""AP and landmark error against numbers worked out by hand, and against a slow second implementation."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from latentface.evaluation.average_precision import (
    HEIGHT_BANDS,
    Evaluation,
    PictureResult,
    average_precision,
    evaluate_pictures,
)

INFINITY = float("inf")


def picture(boxes, scores, true_boxes, ignore=None, landmarks=None, true_landmarks=None) -> PictureResult:
    """A PictureResult from lists; landmarks at 0, true landmarks unknown, nothing ignored unless given."""
    found, truths = len(boxes), len(true_boxes)
    return PictureResult(
        boxes=np.array(boxes, dtype=np.float64).reshape(-1, 4),
        scores=np.array(scores, dtype=np.float64),
        landmarks=np.zeros((found, 5, 2)) if landmarks is None else np.array(landmarks, dtype=np.float64),
        true_boxes=np.array(true_boxes, dtype=np.float64).reshape(-1, 4),
        true_landmarks=np.full((truths, 5, 2), np.nan) if true_landmarks is None else np.array(true_landmarks),
        ignore=np.zeros(truths, dtype=bool) if ignore is None else np.array(ignore, dtype=bool),
    )


def square(left: float, side: float = 20) -> list[float]:
    return [left, 0, left + side, side]


def evaluated(results, **options):
    evaluation = Evaluation(**options)
    for result in results:
        evaluation.add(result)
    return evaluation


def test_average_precision_of_a_curve_that_dips():
    # The envelope lifts the 1/3 at recall 1/2 to the 3/5 reached later.
    recall = np.array([0.25, 0.25, 0.5, 0.75, 1.0])
    precision = np.array([1.0, 0.5, 1 / 3, 0.5, 0.6])
    assert average_precision(recall, precision) == pytest.approx(0.25 * 1.0 + 0.75 * 0.6)


def test_average_precision_weighs_by_the_step_in_recall():
    assert average_precision(np.array([0.1, 1.0]), np.array([1.0, 0.5])) == pytest.approx(0.1 * 1.0 + 0.9 * 0.5)


def test_average_precision_counts_nothing_beyond_the_recall_reached():
    assert average_precision(np.array([0.4]), np.array([1.0])) == pytest.approx(0.4)
    assert average_precision(np.zeros(0), np.zeros(0)) == 0


def test_detections_of_all_pictures_are_pooled():
    first = picture([square(0), square(100)], [0.9, 0.6], [square(0)])  # right, wrong
    second = picture([square(50)], [0.3], [square(50), square(200)])  # right; one face never found
    score = evaluate_pictures([first, second])
    assert score.precision_curve.tolist() == pytest.approx([1, 1 / 2, 2 / 3])
    assert score.recall_curve.tolist() == pytest.approx([1 / 3, 1 / 3, 2 / 3])
    assert score.ap == pytest.approx(1 / 3 + 1 / 3 * 2 / 3)
    assert score.recall == pytest.approx(2 / 3)
    assert (score.truths, score.detections, score.pictures) == (3, 3, 2)


def test_second_detection_of_a_face_is_wrong():
    score = evaluate_pictures([picture([square(0), square(0)], [0.9, 0.8], [square(0)])])
    assert score.precision_curve.tolist() == [1, 0.5]


def test_iou_threshold_is_inclusive():
    half = picture([[0, 0, 20, 10]], [0.9], [square(0)])  # IoU exactly 1/2
    assert evaluate_pictures([half], iou=0.5).ap == 1
    assert evaluate_pictures([half], iou=0.51).ap == 0


def test_nearest_face_is_taken_first():
    # The first detection lies on the second face (IoU 1, and 2/3 with the first), which leaves the first face to the
    # other detection (IoU 2/3, and 3/7 with the second face).
    found = [square(0), square(8)]
    assert evaluate_pictures([picture(found, [0.9, 0.8], [square(4), square(0)])]).precision_curve.tolist() == [1, 1]


def test_taken_face_leaves_the_next_best():
    # Both detections lie on the first face: the higher score gets it, the other takes the second face (IoU 2/3).
    faces = [square(0), square(4)]
    assert evaluate_pictures([picture([square(0), square(0)], [0.8, 0.9], faces)]).precision_curve.tolist() == [1, 1]


def test_ignored_face_neither_rewards_nor_punishes():
    score = evaluate_pictures([picture([square(0), square(100)], [0.9, 0.5], [square(0), square(100)], [True, False])])
    assert (score.ap, score.truths, score.detections) == (1, 1, 1)
    missed = evaluate_pictures([picture([square(100)], [0.5], [square(0), square(100)], [True, False])])
    assert (missed.ap, missed.truths, missed.detections) == (1, 1, 1)


def test_face_that_counts_is_preferred_to_a_nearer_ignored_one():
    score = evaluate_pictures([picture([square(0)], [0.9], [square(0), square(4)], [True, False])])
    assert (score.ap, score.truths, score.detections) == (1, 1, 1)


def test_ignored_face_absorbs_one_detection_only():
    score = evaluate_pictures([picture([square(0), square(0)], [0.9, 0.8], [square(0)], [True])])
    assert (score.truths, score.detections) == (0, 1)


def test_height_range_is_half_open_and_drops_unmatched_detections_outside_it():
    faces = [square(0, 16), square(100, 32)]
    found = [square(0, 16), square(100, 32), square(200, 15), square(300, 31)]
    score = evaluate_pictures([picture(found, [0.9, 0.8, 0.7, 0.6], faces)], min_height=16, max_height=32)
    assert (score.truths, score.detections, score.ap) == (1, 2, 1)
    assert score.precision_curve.tolist() == [1, 0.5]


def test_detection_of_another_height_still_finds_its_face():
    score = evaluate_pictures([picture([[0, 0, 16, 14]], [0.9], [square(0, 16)])], min_height=16)
    assert (score.ap, score.detections) == (1, 1)


def test_by_height_puts_every_face_into_one_band():
    faces = [square(0, 15.9), square(100, 16), square(200, 32), square(400, 96), square(800, 400)]
    tallies = evaluated([picture(faces, [0.9] * 5, faces)]).bands
    scores = {band: tally.score() for band, tally in tallies.items()}
    assert {band: score.truths for band, score in scores.items()} == dict(zip(HEIGHT_BANDS, [1, 1, 1, 2], strict=True))
    assert all(score.ap == 1 and score.detections == score.truths for score in scores.values())


def test_equal_scores_keep_their_order():
    wrong_first = picture([square(100), square(0)], [0.5, 0.5], [square(0)])
    assert evaluate_pictures([wrong_first]).precision_curve.tolist() == [0, 0.5]


def test_of_many_equal_scores_the_first_takes_the_face():
    many = picture([square(100), square(0)] * 25, [0.25, 0.5] * 25, [square(0), square(100)])
    right = evaluate_pictures([many]).right.tolist()
    assert [rank for rank, found in enumerate(right) if found] == [0, 25]


def test_no_truth_gives_nan_and_no_detection_gives_zero():
    nothing_there = evaluate_pictures([picture([square(0)], [0.9], [])])
    assert np.isnan(nothing_there.ap)
    assert np.isnan(nothing_there.recall)
    assert nothing_there.detections == 1
    nothing_found = evaluate_pictures([picture([], [], [square(0)])])
    assert (nothing_found.ap, nothing_found.recall, nothing_found.detections) == (0, 0, 0)
    assert np.isnan(evaluate_pictures([]).ap)


def test_float32_boxes_score_as_float64_ones():
    one = picture([[0, 0, 20, 10]], [0.9], [square(0)])
    narrow = PictureResult(
        one.boxes.astype(np.float32),
        one.scores.astype(np.float32),
        one.landmarks,
        one.true_boxes.astype(np.float32),
        one.true_landmarks,
        one.ignore,
    )
    assert evaluate_pictures([narrow]).ap == 1


def test_landmark_error_is_the_mean_distance_over_the_side():
    true_points = np.arange(10.0).reshape(1, 5, 2)
    points = true_points + np.array([3.0, 4.0])  # every point off by 5
    points[0, 0] = true_points[0, 0]  # but the first: mean distance 4
    one = picture([[0, 0, 10, 40]], [0.9], [[0, 0, 10, 40]], landmarks=points, true_landmarks=true_points)
    assert evaluated([one, one]).landmarks().nme == pytest.approx(4 / 20)  # sqrt(10 * 40) = 20
    assert evaluated([one, one]).landmarks().faces == 2


def test_landmark_error_anywhere_in_the_picture():
    box, points = [30, 50, 40, 90], np.full((1, 5, 2), [35.0, 70.0])
    one = picture([box], [0.25], [box], landmarks=points + np.array([6, 8]), true_landmarks=points)
    assert evaluated([one], min_score=0.25).landmarks().nme == pytest.approx(10 / 20)
    assert evaluated([one], min_score=0.26).landmarks().faces == 0
    weak = picture([box], [0.02], [box], landmarks=points, true_landmarks=points)
    assert evaluated([weak]).landmarks().faces == 1


def test_landmark_errors_of_one_picture_do_not_mix():
    boxes, points = [square(0, 20), square(100, 40)], np.zeros((2, 5, 2))
    off = np.array([[[5.0, 0.0]], [[0.0, 10.0]]]) + points
    one = picture(boxes, [0.9, 0.9], boxes, landmarks=off, true_landmarks=points)
    assert evaluated([one]).landmarks().nme == pytest.approx((5 / 20 + 10 / 40) / 2)


def test_faces_of_any_height_count_by_default():
    tiny = picture([[0, 0, 0.5, 0.5]], [0.9], [[0, 0, 0.5, 0.5]])
    assert evaluate_pictures([tiny]).truths == 1
    assert evaluated([tiny]).overall.score().truths == 1
    assert evaluated([tiny], min_height=1).overall.score().truths == 0


def test_the_overlap_that_is_asked_for():
    half = picture([[0, 0, 20, 10]], [0.9], [square(0)])
    assert [evaluated([half], iou=iou).overall.score().ap for iou in (0.5, 0.51)] == [1, 0]
    assert evaluated([half]).overall.score().ap == 1
    assert evaluated([picture([[0, 0, 20, 9]], [0.9], [square(0)])]).overall.score().ap == 0


def test_curves_of_nothing():
    score = evaluate_pictures([picture([square(0)], [0.9], [])])
    assert np.isnan(score.recall_curve).all()
    assert score.recall_curve.shape == (1,)
    assert score.precision_curve.tolist() == [0]
    assert score.pictures == 1


def test_landmark_error_leaves_out_unknown_ignored_and_weak_faces():
    boxes = [square(0), square(100), square(200), square(300)]
    true_points = np.zeros((4, 5, 2))
    true_points[1, 2] = np.nan  # one point unknown
    points = np.ones((4, 5, 2)) * [[[2.0]], [[50.0]], [[60.0]], [[70.0]]]
    one = picture(boxes, [0.9, 0.9, 0.9, 0.1], boxes, [False, False, True, False], points, true_points)
    score = evaluated([one], min_score=0.2).landmarks()
    assert (score.faces, score.nme) == (1, pytest.approx(np.hypot(2, 2) / 20))


def test_landmark_error_without_a_matched_face():
    score = evaluated([picture([square(0)], [0.9], [square(100)]), picture([], [], [])]).landmarks()
    assert np.isnan(score.nme)
    assert score.faces == 0


# A second implementation: plain loops, exact fractions, one detection at a time.


def slow_iou(a, b) -> Fraction:
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    both = max(width, 0) * max(height, 0)
    return Fraction(both, (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - both)


def slow_verdicts(found, faces, low, high) -> list[tuple[int, bool]]:
    """(score, right) of the detections that count; `found` is [(box, score)], `faces` is [(box, ignore)]."""

    def inside(box):
        return low <= box[3] - box[1] < high

    free = set(range(len(faces)))
    verdicts = []
    for box, score in sorted(found, key=lambda item: -item[1]):
        near = [index for index in sorted(free) if slow_iou(box, faces[index][0]) >= Fraction(1, 2)]
        valued = [index for index in near if inside(faces[index][0]) and not faces[index][1]]
        choice = valued or near
        if choice:
            free.remove(max(choice, key=lambda index: (slow_iou(box, faces[index][0]), -index)))
        if valued or (not choice and inside(box)):
            verdicts.append((score, bool(valued)))
    return verdicts


def slow_ap(verdicts, truths: int) -> float:
    """Mean over the faces of the best precision at which each, in order of discovery, is or has been found."""
    precision, found = [], 0
    for place, (_, right) in enumerate(sorted(verdicts, key=lambda item: -item[0]), start=1):
        found += right
        precision.append((found, found / place))
    best = [max((p for f, p in precision if f >= face), default=0.0) for face in range(1, truths + 1)]
    return sum(best) / truths


boxes_on_a_grid = st.builds(
    lambda x, y, width, height: (x, y, x + width, y + height),
    st.integers(0, 3),
    st.integers(0, 3),
    st.integers(3, 8),
    st.integers(3, 8),
)
one_picture = st.tuples(
    st.lists(st.tuples(boxes_on_a_grid, st.integers(0, 5)), max_size=8),
    st.lists(st.tuples(boxes_on_a_grid, st.booleans()), max_size=5),
)


@settings(max_examples=300, deadline=None)
@given(pictures=st.lists(one_picture, max_size=4), low=st.integers(0, 4), high=st.sampled_from([5, 7, INFINITY]))
def test_agrees_with_the_slow_implementation(pictures, low, high):
    results = [
        picture([b for b, _ in found], [s for _, s in found], [b for b, _ in faces], [i for _, i in faces])
        for found, faces in pictures
    ]
    score = evaluate_pictures(results, min_height=low, max_height=high)
    verdicts = [verdict for found, faces in pictures for verdict in slow_verdicts(found, faces, low, high)]
    truths = sum(not ignore and low <= box[3] - box[1] < high for _, faces in pictures for box, ignore in faces)
    assert (score.truths, score.detections) == (truths, len(verdicts))
    if truths:
        assert score.ap == pytest.approx(slow_ap(verdicts, truths))
        assert score.recall == pytest.approx(sum(right for _, right in verdicts) / truths)
    else:
        assert np.isnan(score.ap)
