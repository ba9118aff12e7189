from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from latentface.boxes import clip, iou_matrix, xywh_to_xyxy, xyxy_to_xywh
from latentface.model.anchors import batched_iou

corner = st.integers(-40, 40)
box = st.tuples(corner, corner, st.integers(0, 30), st.integers(0, 30)).map(
    lambda b: (b[0], b[1], b[0] + b[2], b[1] + b[3])
)
some_boxes = st.lists(box, max_size=6).map(lambda boxes: np.array(boxes, np.float32).reshape(-1, 4))


def iou_by_counting(first: np.ndarray, second: np.ndarray) -> float:
    """Corners are whole numbers: the unit squares of each box can be counted."""
    squares = [
        {(x, y) for x in range(int(b[0]), int(b[2])) for y in range(int(b[1]), int(b[3]))} for b in (first, second)
    ]
    union = squares[0] | squares[1]
    return len(squares[0] & squares[1]) / len(union) if union else 0.0


def test_the_two_ways_to_write_a_box():
    xywh = np.array([[10.0, 20.0, 30.0, 40.0], [0.5, 0.0, 0.0, 2.0]])
    xyxy = np.array([[10.0, 20.0, 40.0, 60.0], [0.5, 0.0, 0.5, 2.0]])
    assert np.array_equal(xywh_to_xyxy(xywh), xyxy)
    assert np.array_equal(xyxy_to_xywh(xyxy), xywh)


@given(some_boxes)
def test_the_two_ways_undo_each_other(boxes):
    assert np.array_equal(xywh_to_xyxy(xyxy_to_xywh(boxes)), boxes)


def test_clip_keeps_what_lies_inside():
    boxes = np.array([[-5, -6, 7, 8], [90, 40, 130, 70], [10, 10, 20, 20], [120, 10, 140, 20]], np.float32)
    inside = np.array([[0, 0, 7, 8], [90, 40, 100, 50], [10, 10, 20, 20], [100, 10, 100, 20]], np.float32)
    assert np.array_equal(clip(boxes, width=100, height=50), inside)


def test_more_columns_are_left_out():
    rows = np.array([[10.0, 20.0, 30.0, 40.0, 0.9]])
    assert xywh_to_xyxy(rows).tolist() == [[10, 20, 40, 60]]
    assert xyxy_to_xywh(rows).tolist() == [[10, 20, 20, 20]]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_clipped_boxes_keep_their_type(dtype):
    assert clip(np.zeros((1, 4), dtype), width=100.5, height=50).dtype == dtype


def test_clip_leaves_its_argument_alone():
    boxes = np.array([[-5.0, 0, 7, 8]])
    clip(boxes, width=6, height=6)
    assert boxes.tolist() == [[-5, 0, 7, 8]]


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ((0, 0, 10, 10), (0, 0, 10, 10), 1.0),
        ((0, 0, 10, 10), (5, 0, 15, 10), 50 / 150),
        ((0, 0, 10, 10), (2, 2, 4, 4), 4 / 100),
        ((0, 0, 10, 10), (10, 0, 20, 10), 0.0),  # they touch
        ((0, 0, 10, 10), (30, 30, 40, 40), 0.0),
        ((0, 0, 10, 10), (5, 5, 5, 9), 0.0),  # no width
        ((5, 5, 5, 5), (5, 5, 5, 5), 0.0),  # two points
        ((0, 0, 10, 10), (8, 8, 2, 2), 0.0),  # corners the wrong way round
        ((0, 0, 0.5, 0.5), (0, 0, 0.5, 0.5), 1.0),
        ((0, 0, 0.25, 0.5), (0, 0, 0.5, 0.25), 1 / 3),
        ((3, 0, 3, 7), (3, 0, 3, 9), 0.0),  # two lines
    ],
)
def test_intersection_over_union(first, second, expected):
    a, b = np.array([first], np.float32), np.array([second], np.float32)
    assert iou_matrix(a, b) == pytest.approx(np.array([[expected]]))
    assert batched_iou(torch.from_numpy(a)[None], torch.from_numpy(b)).item() == pytest.approx(expected)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_pairs_without_a_union_are_0_and_not_what_memory_holds(dtype):
    first, second = np.array([[0, 0, 2, 2]] * 8, dtype), np.array([[8, 2, 2, 8]] * 8, dtype)  # areas of 4 and -36
    assert iou_matrix(first, second).tolist() == [[0] * 8] * 8


@given(some_boxes, some_boxes)
def test_every_pair_agrees_with_counting(first, second):
    expected = np.array([[iou_by_counting(a, b) for b in second] for a in first]).reshape(len(first), len(second))
    assert iou_matrix(first, second) == pytest.approx(expected)
    batched = batched_iou(torch.from_numpy(first)[None], torch.from_numpy(second))
    assert batched.shape == (1, len(first), len(second))
    assert batched[0].numpy() == pytest.approx(expected)


def test_each_picture_of_a_batch_may_have_boxes_of_its_own():
    first = torch.tensor([[[0.0, 0, 10, 10]], [[0, 0, 10, 10]]])
    second = torch.tensor([[[0.0, 0, 10, 10], [5, 0, 15, 10]], [[0, 5, 10, 15], [50, 50, 60, 60]]])
    assert torch.allclose(batched_iou(first, second), torch.tensor([[[1.0, 1 / 3]], [[1 / 3, 0]]]))
