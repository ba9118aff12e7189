"""Drawn pictures: the same seed is the same picture, and the labels say what was drawn."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from latentface.apps.drawing import _place_heads, draw_picture
from latentface.apps.drawing_canvas import open_canvas, paste
from latentface.apps.drawing_heads import Head, draw_person
from latentface.apps.drawing_looks import random_look
from latentface.boxes import iou_matrix
from latentface.errors import LatentFaceError


@pytest.fixture(scope="module")
def sample():
    """60 pictures of 320x240 as they come."""
    return [draw_picture(np.random.default_rng(seed), 320, 240) for seed in range(60)]


def head(seed: int, scale: float = 40.0, angle: float = 0.0, centre: tuple[float, float] = (100.0, 100.0)) -> Head:
    return Head(random_look(np.random.default_rng(seed), 2 * scale), centre, scale, angle)


def test_a_seed_is_a_picture():
    first, again = (draw_picture(np.random.default_rng(3), 320, 200) for _ in range(2))
    assert first.rgb.shape == (200, 320, 3)
    assert first.rgb.dtype == np.uint8
    np.testing.assert_array_equal(first.rgb, again.rgb)
    np.testing.assert_array_equal(first.boxes, again.boxes)
    np.testing.assert_array_equal(first.landmarks, again.landmarks)
    assert (draw_picture(np.random.default_rng(4), 320, 200).rgb != first.rgb).any()


def test_a_generator_goes_on_to_another_picture():
    rng = np.random.default_rng(3)
    assert (draw_picture(rng, 64, 64).rgb != draw_picture(rng, 64, 64).rgb).any()


def test_no_faces_when_none_are_asked_for():
    drawn = draw_picture(np.random.default_rng(0), 96, 64, faces=0)
    assert drawn.boxes.shape == (0, 4)
    assert drawn.landmarks.shape == (0, 5, 2)
    assert drawn.boxes.dtype == drawn.landmarks.dtype == np.float32


@pytest.mark.parametrize("faces", [1, 4, 8])
def test_as_many_faces_as_asked_for(faces):
    for seed in range(10):
        assert len(draw_picture(np.random.default_rng(seed), 320, 320, faces).boxes) == faces


@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.integers(0, 2**32), st.integers(32, 400), st.integers(32, 400))
def test_labels_of_any_picture(seed, width, height):
    drawn = draw_picture(np.random.default_rng(seed), width, height)
    assert drawn.rgb.shape == (height, width, 3)
    assert len(drawn.landmarks) == len(drawn.boxes) <= 8
    if not len(drawn.boxes):
        return
    assert (drawn.boxes >= 0).all()
    assert (drawn.boxes <= (width, height, width, height)).all()
    heights = drawn.boxes[:, 3] - drawn.boxes[:, 1]
    assert heights.min() > 0.6 * 12 - 1e-3  # 60 % of the smallest face is seen at least
    assert heights.max() <= min(300, 0.88 * height) + 1e-3
    overlaps = iou_matrix(drawn.boxes, drawn.boxes) - np.eye(len(drawn.boxes))
    assert overlaps.max() < 0.1


def test_counts_and_sizes_vary(sample):
    counts = np.array([len(drawn.boxes) for drawn in sample])
    assert 2 <= (counts == 0).sum() <= 15  # 12 % expected: 7
    assert counts.max() >= 6
    heights = np.concatenate([drawn.boxes[:, 3] - drawn.boxes[:, 1] for drawn in sample])
    assert heights.min() < 16
    assert heights.max() > 150
    assert 0.3 < (heights < 40).mean() < 0.9  # log-uniform: the small ones are many


def test_landmarks_lie_in_their_boxes_and_in_order(sample):
    boxes = np.concatenate([drawn.boxes for drawn in sample])[:, None]  # [N, 1, 4]
    points = np.concatenate([drawn.landmarks for drawn in sample])  # [N, 5, 2]
    inside = ((points >= boxes[..., :2]) & (points <= boxes[..., 2:])).all(axis=(1, 2))
    assert inside.mean() > 0.85  # the others are cut by the frame
    left_eye, right_eye, nose, left_mouth, right_mouth = points.transpose(1, 0, 2)
    assert (left_eye[:, 0] < right_eye[:, 0]).all()
    assert (left_mouth[:, 0] < right_mouth[:, 0]).all()
    across = right_eye - left_eye
    down = np.stack([-across[:, 1], across[:, 0]], axis=1)  # the head's own downwards
    for mouth in (left_mouth, right_mouth):
        assert (((mouth - nose) * down).sum(axis=1) > 0).all()
    assert (((nose - left_eye) * down).sum(axis=1) > 0).all()
    turns = np.degrees(np.arctan2(across[:, 1], across[:, 0]))
    assert np.abs(turns).max() <= 25
    assert turns.std() > 5


def test_faces_stand_out_from_the_background():
    differences = []
    for seed in range(12):
        with_faces = draw_picture(np.random.default_rng(seed), 200, 200, faces=3)
        without = draw_picture(np.random.default_rng(seed), 200, 200, faces=0)
        difference = np.abs(with_faces.rgb.astype(int) - without.rgb).mean(axis=2)
        for x1, y1, x2, y2 in with_faces.boxes.round().astype(int):
            differences.append((difference[y1:y2, x1:x2] > 2).mean())
    assert len(differences) == 36
    assert np.median(differences) > 0.9
    assert min(differences) > 0.6


def test_people_leave_one_anothers_faces_free():
    """What the nearer people change of a face that is already drawn is little: labels mean faces that can be seen."""
    hidden = []
    for seed in range(15):
        rng = np.random.default_rng(seed)
        picture = np.zeros((256, 256, 3), np.uint8)
        seen = []
        for person in sorted(_place_heads(rng, 256, 256, 6), key=lambda person: person.scale):
            draw_person(picture, person, rng)
            x1, y1, x2, y2 = person.box.round().astype(int).clip(0, 256)
            seen.append(((slice(y1, y2), slice(x1, x2)), picture[y1:y2, x1:x2].copy()))
        hidden += [(picture[place] != face).any(axis=2).mean() for place, face in seen]
    assert len(hidden) == 15 * 6
    assert np.mean(hidden) < 0.03
    assert max(hidden) < 0.3


@pytest.mark.parametrize("angle", [-0.4, 0.0, 0.3])
def test_the_box_is_tight_around_the_face(angle):
    for seed in range(5):
        person = head(seed, 40.0, angle)
        picture = np.zeros((200, 200, 3), np.uint8)
        canvas = open_canvas(picture, person.matrix, (-2, -2, 2, 2), 4)
        assert canvas is not None
        canvas.fill(person.look.outline(top=1.0), (255, 255, 255))
        paste(picture, canvas.shrunk(), canvas.bounds)
        y, x = np.nonzero(picture[:, :, 0] > 127)
        drawn = [x.min(), y.min(), x.max() + 1, y.max() + 1]
        np.testing.assert_allclose(person.box, drawn, atol=1.0)


def test_landmarks_mark_what_is_drawn():
    """Eyes are darker than the bridge of the nose between them, also on a turned and tilted head."""
    darker = []
    for seed in range(40):
        person = head(seed, 40.0, angle=0.3 * np.sin(seed))
        picture = np.full((200, 200, 3), 128, np.uint8)
        draw_person(picture, person, np.random.default_rng(seed))
        grey = cv2.blur(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY), (7, 7)).astype(int)
        eyes = person.landmarks()[:2]
        (left, right), bridge = eyes.round().astype(int), eyes.mean(axis=0).round().astype(int)
        darker += [grey[y, x] < grey[bridge[1], bridge[0]] for x, y in (left, right)]
    assert np.mean(darker) > 0.8  # not where something hides an eye


def test_a_head_at_a_known_place():
    person = head(1, 50.0, 0.0, centre=(100.0, 80.0))
    x1, y1, x2, y2 = person.box
    assert y1 == pytest.approx(80 - 50)
    assert y2 == pytest.approx(80 + 50)
    assert x1 + x2 == pytest.approx(200, abs=0.5)
    assert 0.7 <= (x2 - x1) / 100 <= 0.82
    upside = Head(person.look, (100.0, 80.0), 50.0, np.pi)  # half a turn about the middle of the face
    np.testing.assert_allclose(person.landmarks() + upside.landmarks(), np.full((5, 2), (200, 160)), atol=1e-9)


def test_a_person_outside_the_frame_changes_nothing():
    picture = np.full((60, 60, 3), 77, np.uint8)
    draw_person(picture, head(0, 10.0, centre=(-500.0, 30.0)), np.random.default_rng(0))
    assert (picture == 77).all()


@pytest.mark.parametrize(("width", "height", "faces"), [(31, 320, None), (320, 0, None), (320, 320, -1)])
def test_impossible_wishes_are_one_line_errors(width, height, faces):
    with pytest.raises(LatentFaceError, match="drawn picture") as error:
        draw_picture(np.random.default_rng(0), width, height, faces)
    assert "\n" not in str(error.value)
