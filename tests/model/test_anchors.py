from __future__ import annotations

import math
from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from latentface.model import anchors
from latentface.model.anchors import (
    IGNORED,
    NEGATIVE,
    POSITIVE,
    corners,
    decode_boxes,
    decode_landmarks,
    encode_boxes,
    encode_landmarks,
    make_priors,
    match,
    priors,
)

CPU = torch.device("cpu")
STRIDES, SIZES = (8, 16, 32), ((16, 32), (64, 128), (256, 512))
CELL = torch.tensor([[8.0, 8, 16, 16], [8, 8, 32, 32]])  # the two priors of one cell


def test_priors_of_a_picture_of_640():
    found = priors(((80, 80), (40, 40), (20, 20)), STRIDES, SIZES, CPU)
    assert found.shape == (16_800, 4)
    assert found[:3].tolist() == [[4, 4, 16, 16], [4, 4, 32, 32], [12, 4, 16, 16]]
    assert found[160].tolist() == [4, 12, 16, 16]  # second row
    assert found[12_799:12_802].tolist() == [[636, 636, 32, 32], [8, 8, 64, 64], [8, 8, 128, 128]]
    assert found[-1].tolist() == [624, 624, 512, 512]


def test_priors_of_a_wide_picture_whose_sides_are_no_multiple_of_32():
    found = priors(((6, 10), (3, 5), (2, 3)), STRIDES, SIZES, CPU)  # 48 x 80 pixels
    assert len(found) == 2 * (60 + 15 + 6)
    assert found[119].tolist() == [76, 44, 32, 32]  # width first: cx = 9.5 * 8, cy = 5.5 * 8
    assert found[149].tolist() == [72, 40, 128, 128]
    assert found[-1].tolist() == [80, 48, 512, 512]


def test_priors_are_float32():
    assert make_priors(((2, 3),), (8,), ((16, 32),), CPU).dtype == torch.float32


@pytest.mark.parametrize("lengths", [(1, 2, 2), (2, 1, 2), (2, 2, 1)])
def test_every_level_has_a_shape_a_stride_and_sizes(lengths):
    shapes, strides, sizes = lengths
    with pytest.raises(ValueError, match="zip"):
        make_priors(((2, 3),) * shapes, (8,) * strides, ((16,),) * sizes, CPU)


def test_priors_are_computed_once_per_size():
    first = priors(((2, 3),), (8,), ((16,),), CPU)
    assert priors(((2, 3),), (8,), ((16,),), CPU) is first
    assert priors(((3, 2),), (8,), ((16,),), CPU) is not first


def test_priors_made_while_predicting_serve_training_too():
    with torch.inference_mode():
        made = priors(((1, 2),), (8,), ((24,),), CPU)
    offsets = torch.zeros(2, 4, requires_grad=True)
    decode_boxes(offsets, made).sum().backward()
    assert offsets.grad is not None
    assert offsets.grad.isfinite().all()


def test_corners():
    assert corners(torch.tensor([[8.0, 10, 4, 6]])).tolist() == [[6, 7, 10, 13]]
    assert corners(torch.tensor([[[8.0, 10, 4, 6]], [[0, 0, 2, 2]]])).tolist() == [[[6, 7, 10, 13]], [[-1, -1, 1, 1]]]


def test_coding_by_hand():
    boxes = torch.tensor([[4.0, 6, 20, 22], [-8, 4, 24, 12]])
    prior = CELL[:1].expand(2, 4)
    log2 = math.log(2) / 0.2
    offsets = torch.tensor([[4 / 1.6, 6 / 1.6, 0, 0], [0, 0, log2, -log2]])
    assert torch.allclose(encode_boxes(boxes, prior), offsets)
    assert torch.allclose(decode_boxes(offsets, prior), boxes)


def test_coding_of_landmarks_by_hand():
    points = torch.tensor([[12.0, 6, 8, 8, 0, 16, 8, 9.6, 24, 8]])
    offsets = torch.tensor([[2.5, -1.25, 0, 0, -5, 5, 0, 1, 10, 0]])
    assert torch.allclose(encode_landmarks(points, CELL[:1]), offsets)
    assert torch.allclose(decode_landmarks(offsets, CELL[:1]), points)


def test_coding_of_a_batch_is_coding_of_each_picture():
    generator = torch.Generator().manual_seed(0)
    boxes = 40 * torch.rand(3, 2, 4, generator=generator)
    boxes[..., 2:] += boxes[..., :2] + 1
    points = 40 * torch.rand(3, 2, 10, generator=generator)
    for code, batch_ in (
        (encode_boxes, boxes),
        (decode_boxes, boxes / 10),
        (encode_landmarks, points),
        (decode_landmarks, points),
    ):
        coded = code(batch_, CELL)
        assert coded.shape == batch_.shape
        assert coded.tolist() == [code(picture, CELL).tolist() for picture in batch_]


def coded_number_by_number(box: list[float], points: list[float], prior: list[float]) -> tuple[list, list]:
    """SSD's formulas (Liu et al. 2016, eq. 2, with its variances) in plain Python."""
    x1, y1, x2, y2 = box
    px, py, pw, ph = prior
    box_offsets = [
        ((x1 + x2) / 2 - px) / pw / 0.1,
        ((y1 + y2) / 2 - py) / ph / 0.1,
        math.log((x2 - x1) / pw) / 0.2,
        math.log((y2 - y1) / ph) / 0.2,
    ]
    return box_offsets, [
        (points[i] - (px if i % 2 == 0 else py)) / (pw if i % 2 == 0 else ph) / 0.1 for i in range(len(points))
    ]


coordinate = st.floats(-200, 840)
sides = st.tuples(st.floats(1, 800), st.floats(1, 800))


@settings(max_examples=60, deadline=None)
@given(
    corner=st.tuples(coordinate, coordinate),
    size=sides,
    points=st.lists(coordinate, min_size=10, max_size=10),
    prior=st.tuples(st.floats(0, 640), st.floats(0, 640), st.floats(16, 512), st.floats(16, 512)),
)
def test_coding_agrees_with_plain_python(corner, size, points, prior):
    box = [*corner, corner[0] + size[0], corner[1] + size[1]]
    box_offsets, point_offsets = coded_number_by_number(box, points, list(prior))
    priors_ = torch.tensor([prior], dtype=torch.float64)
    boxes, landmarks = (torch.tensor([values], dtype=torch.float64) for values in (box, points))
    assert encode_boxes(boxes, priors_)[0].tolist() == pytest.approx(box_offsets, rel=1e-6, abs=1e-6)
    assert encode_landmarks(landmarks, priors_)[0].tolist() == pytest.approx(point_offsets, rel=1e-6, abs=1e-6)
    decoded = decode_boxes(torch.tensor([box_offsets], dtype=torch.float64), priors_)
    if max(size[0] / prior[2], size[1] / prior[3]) < math.exp(4):
        assert decoded[0].tolist() == pytest.approx(box, rel=1e-6, abs=1e-6)
    points_ = decode_landmarks(torch.tensor([point_offsets], dtype=torch.float64), priors_)
    assert points_[0].tolist() == pytest.approx(points, rel=1e-6, abs=1e-6)


@settings(max_examples=20, deadline=None)
@given(
    shapes=st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=3, max_size=3),
    sizes=st.lists(st.lists(st.integers(1, 500), min_size=1, max_size=3), min_size=3, max_size=3),
)
def test_priors_agree_with_plain_loops(shapes, sizes):
    wanted = [
        [stride * (column + 0.5), stride * (row + 0.5), size, size]
        for (rows, columns), stride, of_level in zip(shapes, (8, 16, 32), sizes, strict=True)
        for row in range(rows)
        for column in range(columns)
        for size in of_level
    ]
    made = make_priors(tuple(shapes), (8, 16, 32), tuple(map(tuple, sizes)), torch.device("cpu"))
    assert made.tolist() == wanted


@settings(max_examples=60, deadline=None)
@given(
    prior=st.tuples(st.floats(0, 640), st.floats(0, 640), st.floats(16, 512), st.floats(16, 512)),
    centre=st.tuples(st.floats(-200, 840), st.floats(-200, 840)),
    ratio=st.tuples(st.floats(0.02, 54), st.floats(0.02, 54)),  # to the prior's size; beyond e^4 it is cut
    points=st.lists(st.floats(-200, 840), min_size=10, max_size=10),
)
def test_decoding_undoes_encoding(prior, centre, ratio, points):
    prior = torch.tensor([prior])
    size = prior[:, 2:] * torch.tensor([ratio])
    box = corners(torch.cat([torch.tensor([centre]), size], dim=1))
    landmarks = torch.tensor([points])
    assert torch.allclose(decode_boxes(encode_boxes(box, prior), prior), box, rtol=1e-4, atol=1e-2)
    assert torch.allclose(decode_landmarks(encode_landmarks(landmarks, prior), prior), landmarks, rtol=1e-4, atol=1e-2)


@pytest.mark.parametrize("extreme", [1e6, -1e6])
def test_extreme_offsets_stay_finite(extreme):
    assert decode_boxes(torch.full((2, 4), extreme), CELL).isfinite().all()
    assert decode_landmarks(torch.full((2, 10), extreme), CELL).isfinite().all()


def test_a_decoded_size_is_at_most_e_to_the_fourth_of_the_priors():
    x1, _, x2, _ = decode_boxes(torch.tensor([[0.0, 0, 1000, 0]]), CELL[:1])[0].tolist()
    assert x2 - x1 == pytest.approx(16 * math.exp(4))


def test_boxes_without_a_size_encode_as_if_they_had_a_thousandth_of_a_pixel():
    offsets = encode_boxes(torch.tensor([[8.0, 8, 8, 8], [20, 20, 10, 10]]), CELL)
    for row, side in zip(offsets, (16, 32), strict=True):
        assert row[2:].tolist() == pytest.approx([math.log(1e-3 / side) / 0.2] * 2)
    small = encode_boxes(torch.tensor([[7.75, 7.75, 8.25, 8.25]]), CELL[:1])
    assert small[0].tolist() == pytest.approx([0, 0, math.log(0.5 / 16) / 0.2, math.log(0.5 / 16) / 0.2])


def batch(*boxes: tuple[float, ...]) -> tuple[Tensor, Tensor, Tensor]:
    """One picture: boxes [1, M, 4], all valid, none ignored."""
    count = len(boxes)
    return torch.tensor([boxes]).reshape(1, -1, 4), torch.ones(1, count).bool(), torch.zeros(1, count).bool()


@pytest.mark.parametrize(
    ("face", "labels"),
    [
        ((0.0, 0, 16, 16), [1, 0]),  # IoU 1 and 0.25, which is below 0.35
        ((-8.0, -8, 24, 24), [0, 1]),  # 0.25 and 1
        ((-3.0, -3, 19, 19), [1, 1]),  # 256/484 and 484/1024
        ((0.0, 0, 8, 8), [1, 0]),  # 64/256 = 0.25: below 0.35, but the best prior and at least 0.2
        ((0.0, 0, 7, 7), [0, 0]),  # 49/256 < 0.2: too unlike any prior
        ((5.0, 5, 5, 5), [0, 0]),  # no size
        ((100.0, 100, 116, 116), [0, 0]),  # overlaps nothing
    ],
)
def test_one_face_and_two_priors(face, labels):
    found, index = match(CELL, *batch(face))
    assert found.tolist() == [labels]
    assert index[found == POSITIVE].eq(0).all()


def test_thresholds_are_inclusive():
    prior = torch.tensor([[10.0, 10, 20, 20]])
    face = batch((0.0, 0, 20, 7))  # IoU 140/400 = 0.35
    assert match(prior, *face, forced=1.0)[0].tolist() == [[1]]
    assert match(prior, *face, threshold=0.36, forced=0.35)[0].tolist() == [[1]]
    assert match(prior, *face, threshold=0.36, forced=0.36)[0].tolist() == [[0]]
    boxes, valid, ignore = face
    assert match(prior, boxes, valid, ~ignore)[0].tolist() == [[IGNORED]]


@pytest.mark.parametrize("at_a_time", [1, 2, 64])
def test_a_prior_takes_the_face_it_overlaps_most_and_the_first_of_equals(at_a_time, monkeypatch):
    monkeypatch.setattr(anchors, "TRUTHS_AT_A_TIME", at_a_time)
    faces = batch((0.0, 0, 16, 12), (0.0, 0, 16, 16), (0.0, 0, 16, 16))
    labels, face = match(CELL[:1], *faces, forced=2.0)  # nothing is forced
    assert labels.tolist() == [[1]]
    assert face.tolist() == [[1]]


@pytest.mark.parametrize("at_a_time", [1, 2, 3])
def test_index_of_a_face_beyond_the_first_part(at_a_time, monkeypatch):
    monkeypatch.setattr(anchors, "TRUTHS_AT_A_TIME", at_a_time)
    far = (500.0, 500, 516, 516)
    assert match(CELL, *batch(far, far, (0.0, 0, 16, 16)))[1][0, 0] == 2
    two = torch.tensor([[8.0, 8, 16, 16], [508, 508, 16, 16]])
    labels, face = match(two, *batch((8.0, 8, 8, 8), (0.0, 0, 8, 8), (500.0, 500, 516, 516)))
    assert (labels.tolist(), face.tolist()) == ([[1, 1]], [[1, 2]])


def test_of_two_faces_that_claim_one_prior_the_last_has_it():
    labels, face = match(CELL[:1], *batch((0.0, 0, 16, 16), (0.0, 0, 8, 8)))
    assert labels.tolist() == [[1]]
    assert face.tolist() == [[1]]


def test_a_claim_beats_a_better_overlap():
    two = torch.tensor([[8.0, 8, 16, 16], [12, 8, 16, 16]])
    labels, face = match(two, *batch((0.0, 0, 16, 16), (6.0, 0, 14, 8)))  # the second overlaps both by 64/256
    assert labels.tolist() == [[1, 1]]  # the second face claims the first prior; the second prior keeps face 0 (0.6)
    assert face.tolist() == [[1, 0]]


def test_ignored_boxes_take_priors_out_of_the_loss_and_claim_none():
    boxes, valid, ignore = batch((0.0, 0, 16, 16))
    assert match(CELL, boxes, valid, ~ignore)[0].tolist() == [[IGNORED, NEGATIVE]]
    boxes, valid, ignore = batch((0.0, 0, 8, 8))  # IoU 0.25: would claim its best prior
    assert match(CELL, boxes, valid, ~ignore)[0].tolist() == [[NEGATIVE, NEGATIVE]]


def test_a_face_wins_over_an_ignored_box():
    boxes, valid, _ = batch((0.0, 0, 16, 12), (0.0, 0, 16, 16))
    labels, face = match(CELL, boxes, valid, torch.tensor([[False, True]]))
    assert labels.tolist() == [[POSITIVE, NEGATIVE]]
    assert face[0, 0] == 0


@pytest.mark.parametrize("filling", [0.0, math.nan, 8.0])
def test_padding_rows_match_nothing(filling):
    boxes = torch.full((2, 3, 4), filling)
    boxes[0, 1] = torch.tensor([0.0, 0, 16, 16])
    boxes[1, 0] = torch.tensor([0.0, 0, 16, 16])  # looks like a face, but is padding too
    valid = torch.tensor([[False, True, False], [False, False, False]])
    labels, face = match(CELL, boxes, valid, torch.zeros(2, 3).bool())
    assert labels.tolist() == [[1, 0], [0, 0]]
    assert face[0, 0] == 1


def test_a_batch_without_faces():
    labels, _ = match(CELL, torch.zeros(2, 0, 4), torch.zeros(2, 0).bool(), torch.zeros(2, 0).bool())
    assert labels.tolist() == [[0, 0], [0, 0]]


def match_slowly(
    priors: np.ndarray, boxes: np.ndarray, valid: np.ndarray, ignore: np.ndarray
) -> tuple[list[int], list[int]]:
    """One picture, one prior and one face at a time. Corners are whole numbers, so ties are exact."""

    def iou(face: np.ndarray, prior: np.ndarray) -> np.float32:
        cx, cy, width, height = prior
        overlap_x = min(face[2], cx + width / 2) - max(face[0], cx - width / 2)
        overlap_y = min(face[3], cy + height / 2) - max(face[1], cy - height / 2)
        shared = max(overlap_x, 0) * max(overlap_y, 0)
        union = (face[2] - face[0]) * (face[3] - face[1]) + width * height - shared
        return np.float32(shared) / np.float32(union)

    faces = [i for i in range(len(boxes)) if valid[i] and not ignore[i]]
    ignored = [i for i in range(len(boxes)) if valid[i] and ignore[i]]
    labels, chosen = [], []
    for prior in priors:
        overlaps = [(iou(boxes[i], prior), -i) for i in faces]
        best, negated = max(overlaps, default=(-1, 0))
        labels.append(1 if best >= np.float32(0.35) else 0)
        chosen.append(-negated)
        if not labels[-1] and any(iou(boxes[i], prior) >= np.float32(0.35) for i in ignored):
            labels[-1] = -1
    for i in faces:
        along = [iou(boxes[i], prior) for prior in priors]
        best_prior = int(np.argmax(along))
        if along[best_prior] >= np.float32(0.2):
            labels[best_prior], chosen[best_prior] = 1, i
    return labels, chosen


def assert_agrees_with_slow_matching(table: Tensor, boxes: Tensor, valid: Tensor, ignore: Tensor) -> None:
    labels, face = match(table, boxes, valid, ignore)
    for picture in range(len(boxes)):
        expected, chosen = match_slowly(*(t.numpy() for t in (table, boxes[picture], valid[picture], ignore[picture])))
        assert labels[picture].tolist() == expected
        positive = labels[picture] == POSITIVE
        assert face[picture][positive].tolist() == np.array(chosen)[positive.numpy()].tolist()


# Whole numbers on a coarse lattice: exact copies, centres between priors and boxes of no size come up often.
lattice_box = st.tuples(
    st.integers(-2, 12), st.integers(-2, 12), st.sampled_from([0, 1, 2, 4, 8]), st.sampled_from([0, 2, 4, 8])
).map(lambda b: [4.0 * b[0], 4.0 * b[1], 4.0 * (b[0] + b[2]), 4.0 * (b[1] + b[3])])
truth = st.tuples(lattice_box, st.booleans(), st.sampled_from([False, False, True]))


@settings(max_examples=120, deadline=None)
@given(
    pictures=st.integers(0, 6).flatmap(
        lambda faces: st.lists(st.lists(truth, min_size=faces, max_size=faces), min_size=1, max_size=3)
    ),
    levels=st.sampled_from([((2, 3), (1, 2)), ((3, 2), (2, 1)), ((4, 4), (2, 2))]),
    at_a_time=st.sampled_from([1, 2, 3, 64]),
)
def test_matching_agrees_with_a_slow_loop(pictures, levels, at_a_time):
    table = priors(levels, (8, 16), ((16, 32), (24, 64)), CPU)
    count, faces = len(pictures), len(pictures[0])
    boxes = torch.tensor([[box for box, _, _ in picture] for picture in pictures]).reshape(count, faces, 4)
    valid, ignore = (
        torch.tensor([[face[i] for face in picture] for picture in pictures]).reshape(count, faces).bool()
        for i in (1, 2)
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(anchors, "TRUTHS_AT_A_TIME", at_a_time)
        assert_agrees_with_slow_matching(table, boxes, valid, ignore)


def test_more_faces_than_are_looked_at_at_a_time():
    table = priors(((8, 8), (4, 4)), (8, 16), ((16,), (32,)), CPU)
    places = list(product(range(0, 52, 4), repeat=2))  # 169 faces of 12 x 12
    boxes = torch.tensor([[x, y, x + 12, y + 12] for x, y in places], dtype=torch.float32)[None]
    generator = torch.Generator().manual_seed(0)
    valid, ignore = torch.rand(1, 169, generator=generator) < 0.8, torch.rand(1, 169, generator=generator) < 0.2
    assert len(places) > 2 * anchors.TRUTHS_AT_A_TIME
    assert_agrees_with_slow_matching(table, boxes, valid, ignore)
    assert match(table, boxes, valid, ignore)[1].max() >= 128  # faces of the third part are found
