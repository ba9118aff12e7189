"""Pictures drawn by the program itself, with exact labels: for the demo, the tests and the benchmarks.

Flat illustrations of people in front of scenes, with distractors among them: nothing is read, everything comes from
one random generator, so a seed is a picture.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from latentface.apps.drawing_backgrounds import draw_background
from latentface.apps.drawing_heads import Head, draw_person
from latentface.apps.drawing_looks import random_look
from latentface.apps.drawing_objects import draw_object
from latentface.boxes import clip, iou_matrix
from latentface.errors import LatentFaceError

SMALLEST, LARGEST = 12.0, 300.0  # height of a face, picture pixels
SHORTEST_SIDE = 32  # of a picture
VISIBLE = 0.6  # of a face's box that must lie in the frame
MOST_OVERLAP = 0.05  # intersection over union of two faces; under 0.1 still where the frame cuts both
MOST_COVERED = 0.1  # of a face's box behind the BODY of another person
BODY = np.array([[-1.7, -1.7, 1.7, 1.6], [-1.95, 1.5, 1.95, 13.0]])  # head with hat, figure; x1 y1 x2 y2, head units
STEEPEST = 0.43  # turn of a head in the plane, radians: about 25 degrees
TRIES = 100  # places tried for a face before a smaller one is tried


@dataclass(frozen=True)
class DrawnPicture:
    """A picture and where its faces are; N may be 0."""

    rgb: np.ndarray  # uint8 [H, W, 3]
    boxes: np.ndarray  # float32 [N, 4] x1 y1 x2 y2, picture pixels, inside the frame
    landmarks: np.ndarray  # float32 [N, 5, 2] left eye, right eye, nose, left, right mouth corner; may leave the frame


def draw_picture(rng: np.random.Generator, width: int, height: int, faces: int | None = None) -> DrawnPicture:
    """A scene of `width` x `height` pixels with `faces` people (None: 0 to 8, drawn at random; some scenes are empty).

    Face heights are log-uniform from 12 to 300 pixels as far as the picture allows, turned in the plane by up to 25
    degrees. Fewer faces than asked for come back only where no more fit. With the same generator state and size,
    pictures that differ in `faces` share their background. Raises LatentFaceError for a side under 32 pixels or a
    negative number of faces.
    """
    if min(width, height) < SHORTEST_SIDE:
        raise LatentFaceError(f"drawn picture: {width}x{height} is too small; both sides need {SHORTEST_SIDE} pixels")
    if faces is not None and faces < 0:
        raise LatentFaceError(f"drawn picture: faces is {faces}; give 0 or more")
    scene, people, finish = (np.random.default_rng(seed) for seed in rng.integers(1 << 62, size=3))
    rgb = draw_background(scene, width, height)
    for _ in range(scene.integers(0, 7)):
        draw_object(rgb, scene)
    if scene.random() < 0.25:
        _draw_bystanders(rgb, scene)
    heads = _place_heads(people, width, height, _random_count(people) if faces is None else faces)
    for head in sorted(heads, key=lambda head: head.scale):  # the largest is nearest
        draw_person(rgb, head, people)
    boxes = np.array([head.box for head in heads], np.float32).reshape(-1, 4)
    landmarks = np.array([head.landmarks() for head in heads], np.float32).reshape(-1, 5, 2)
    return DrawnPicture(_finished(rgb, finish), clip(boxes, width, height), landmarks)


def _random_count(rng: np.random.Generator) -> int:
    """Mostly a few people, sometimes nobody, sometimes a crowd."""
    return int(rng.choice(9, p=(0.12, 0.22, 0.18, 0.13, 0.1, 0.08, 0.07, 0.05, 0.05)))


def _draw_bystanders(rgb: np.ndarray, rng: np.random.Generator) -> None:
    """People seen from behind: everything of a person but the face."""
    height, width = rgb.shape[:2]
    for _ in range(rng.integers(1, 4)):
        size = _log_uniform(rng, SMALLEST, max(SMALLEST, 0.4 * min(width, height)))
        centre = (rng.uniform(0, width), rng.uniform(0.1 * height, 0.9 * height))
        draw_person(rgb, Head(random_look(rng, size), centre, size / 2, 0.0), rng, from_behind=True)


def _log_uniform(rng: np.random.Generator, low: float, high: float) -> float:
    return float(np.exp(rng.uniform(np.log(low), np.log(high))))


def _place_heads(rng: np.random.Generator, width: int, height: int, count: int) -> list[Head]:
    """`count` heads that hardly hide one another's faces: all over with smaller ones where some do not fit."""
    largest = min(LARGEST, 0.88 * height, 1.05 * width) / max(1.0, count / 3)
    while True:
        heads: list[Head] = []
        for _ in range(count):
            size = _log_uniform(rng, SMALLEST, max(SMALLEST, largest))
            head = _place_head(rng, width, height, size, heads)
            while head is None and size > SMALLEST:
                size = max(SMALLEST, 0.7 * size)
                head = _place_head(rng, width, height, size, heads)
            heads += [head] if head is not None else []
        if len(heads) == count or largest <= SMALLEST:
            return heads
        largest *= 0.7


def _place_head(rng: np.random.Generator, width: int, height: int, size: float, others: list[Head]) -> Head | None:
    """A head whose face is `size` high at the first free one of some random places, or None."""
    look = random_look(rng, size)
    angle = float(np.clip(rng.normal(0, 0.17), -STEEPEST, STEEPEST))
    unit = Head(look, (0.0, 0.0), 1.0, angle).box
    scale = float(size / (unit[3] - unit[1]))
    box = unit * scale  # of a head at (0, 0)
    margin = 0.2 * size if rng.random() < 0.15 else -0.02 * size  # some faces are cut by the frame
    low, high = -box[:2] - margin, np.array([width, height]) - box[2:] + margin
    centres = rng.uniform(np.minimum(low, high), np.maximum(low, high), (TRIES, 2))
    boxes = box + np.tile(centres, 2)  # [TRIES, 4]
    free = _area(clip(boxes, width, height)) >= VISIBLE * _area(boxes)
    for other in others:
        free &= _apart(boxes, centres, scale, other)
    if not free.any():
        return None
    x, y = centres[free.argmax()]
    return Head(look, (float(x), float(y)), scale, angle)


def _apart(boxes: np.ndarray, centres: np.ndarray, scale: float, other: Head) -> np.ndarray:
    """Which places [T] keep two people apart: hardly any overlap of the faces, and the nearer (larger) person's hair
    and body leave the other's face free."""
    box = other.box[None]
    if scale < other.scale:
        faces, bodies = boxes, (BODY * other.scale + np.tile(other.centre, 2))[:, None]  # [T, 4], [2, 1, 4]
    else:
        faces, bodies = box, BODY[:, None] * scale + np.tile(centres, 2)  # [1, 4], [2, T, 4]
    hidden = np.concatenate(  # [2, T, 4]
        [np.maximum(faces[:, :2], bodies[..., :2]), np.minimum(faces[:, 2:], bodies[..., 2:])], axis=-1
    )
    clear = (_area(hidden) <= MOST_COVERED * _area(faces)).all(axis=0)
    return clear & (iou_matrix(boxes, box)[:, 0] <= MOST_OVERLAP)


def _area(boxes: np.ndarray) -> np.ndarray:
    """[..., 4] -> [...] square pixels; 0 for a box turned inside out."""
    return np.clip(boxes[..., 2:] - boxes[..., :2], 0, None).prod(axis=-1)


def _finished(rgb: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """What a camera does: white balance, contrast, brightness, blur, noise."""
    gain = rng.uniform(0.93, 1.07, 3) * rng.uniform(0.85, 1.15)
    levels = (np.arange(256)[:, None] - 128) * gain + 128 + rng.uniform(-18, 18)
    rgb = cv2.LUT(rgb, np.clip(levels, 0, 255).astype(np.uint8)[None])
    if rng.random() < 0.2:
        rgb = cv2.GaussianBlur(rgb, (0, 0), rng.uniform(0.4, 1.1))
    if rng.random() < 0.5:
        noise = rng.standard_normal(rgb.shape[:2], dtype=np.float32) * np.float32(rng.uniform(1, 9))
        rgb = cv2.add(rgb, cv2.merge([noise] * 3), dtype=cv2.CV_8U)
    return rgb
