"""Landmarks: whether they lie on their faces, and in the order left eye, right eye, nose, left and right mouth corner.

Left and right are as seen in the picture. Tests turn with the head; profiles and crops break them now and then (0.5 %
of the faces of WIDER FACE with landmarks found by a detector), so only shares of a set are judged.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from latentface.data.check_boxes import FEWEST, Boxes
from latentface.data.check_findings import Finding, Level

AROUND = 0.25  # of a box, by which a landmark may lie outside it
INSIDE = 0.5  # share of faces with all landmarks around the box, below which they are no landmarks of these boxes
MOST = 0.5  # share of faces that makes an error of the whole set
SOME = 0.1  # and a warning
ORDER = "left eye, right eye, nose, left mouth corner, right mouth corner, as seen in the picture"


def check_landmarks(boxes: Boxes) -> Iterator[Finding]:
    """Nothing to say of labels without any; a note then."""
    points = boxes.table[:, 4:14].reshape(-1, 5, 2)
    known = ~(points == -1).all(axis=2).any(axis=1) & boxes.usable  # [N] all five known
    place = str(boxes.split.label_file)
    if not known.any():
        what = "the model will find faces without" if boxes.split.name == "train" else "their error cannot be measured"
        yield Finding("note", "no-landmarks", place, f"no face has five landmarks: {what}")
        return
    zero = known & (points == 0).all(axis=(1, 2))
    if zero.any():
        level: Level = "error" if zero.mean() > 0.05 else "warning"
        text = f"{zero.sum()} faces have all landmarks at 0 0, this one the first"
        line = int(boxes.lines[np.flatnonzero(zero)[0]])
        yield Finding(level, "landmarks-zero", place, text, "unknown landmarks are written -1 -1", line)
    chosen = known & ~zero
    if chosen.sum() >= FEWEST:
        yield from _shares(boxes, points[chosen], boxes.table[chosen, :4], boxes.lines[chosen])


def _shares(boxes: Boxes, points: np.ndarray, box: np.ndarray, lines: np.ndarray) -> Iterator[Finding]:
    """`points` [M, 5, 2], `box` [M, 4] x y w h, `lines` [M]."""
    place = str(boxes.split.label_file)
    inside = _inside(points - box[:, None, :2], box)
    if inside.mean() < INSIDE:
        text = f"landmarks of {(~inside).sum()} of {len(inside)} faces lie outside their box, this one the first"
        remedy = "give both in pixels of the same picture"
        if _inside(points, box).mean() > INSIDE:
            text, remedy = f"{text}: counted from the box's corner?", "add the box's x and y to every landmark"
        yield Finding("error", "landmarks-outside", place, text, remedy, int(lines[np.flatnonzero(~inside)[0]]))
        return
    mirrored, apart = _mirrored(points), _nose_apart(points)
    for wrong, code, what in (
        (mirrored, "landmarks-mirrored", "eyes or mouth corners from right to left"),
        (apart & ~mirrored, "landmarks-order", "a nose that is not between eyes and mouth"),
    ):
        share = wrong.mean()
        if share > SOME:
            text = f"{wrong.sum()} of {len(wrong)} faces have {what}, this one the first"
            level: Level = "error" if share > MOST else "warning"
            line = int(lines[np.flatnonzero(wrong)[0]])
            yield Finding(level, code, place, text, f"the order is {ORDER}", line)


def _inside(points: np.ndarray, box: np.ndarray) -> np.ndarray:
    """[M] whether all points, counted from the box's corner, lie about the box."""
    share = points / box[:, None, 2:4]
    return ((share > -AROUND) & (share < 1 + AROUND)).all(axis=(1, 2))


def _mirrored(points: np.ndarray) -> np.ndarray:
    """[M] whether eyes or mouth corners run from right to left, seen along the face."""
    eyes, mouth = points[:, 1] - points[:, 0], points[:, 4] - points[:, 3]
    down = (points[:, 3] + points[:, 4]) / 2 - (points[:, 0] + points[:, 1]) / 2
    return (_turn(eyes, down) < 0) | (_turn(mouth, down) < 0)


def _turn(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """[M] positive where `second` lies clockwise of `first` in the picture."""
    return first[:, 0] * second[:, 1] - first[:, 1] * second[:, 0]


def _nose_apart(points: np.ndarray) -> np.ndarray:
    """[M] whether the nose lies before the eyes or behind the mouth, along the face."""
    eyes, mouth = (points[:, 0] + points[:, 1]) / 2, (points[:, 3] + points[:, 4]) / 2
    down = mouth - eyes
    along = ((points[:, 2] - eyes) * down).sum(axis=1) / np.maximum((down**2).sum(axis=1), 1e-9)
    return (along < 0) | (along > 1)
