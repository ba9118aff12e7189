"""A drawn person: body, head and soft light, laid over a picture; and the exact labels that go with it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import cv2
import numpy as np

from latentface.apps.drawing_canvas import (
    Canvas,
    arc,
    ellipse,
    mirrored,
    mix,
    open_canvas,
    paste,
    placement,
    random_colour,
    shaded,
    smooth,
    transform,
)
from latentface.apps.drawing_features import (
    draw_beard,
    draw_brows,
    draw_eyes,
    draw_glasses,
    draw_mouth,
    draw_nose,
    draw_occluder,
    draw_skin_details,
)
from latentface.apps.drawing_hair import draw_hair_all_over, draw_hair_behind, draw_hair_in_front, random_hairdo
from latentface.apps.drawing_looks import Look

NEUTRAL = 128  # the light that changes nothing


@dataclass(frozen=True)
class Head:
    """A look and where it is in the picture."""

    look: Look
    centre: tuple[float, float]  # of the face, picture pixels
    scale: float  # picture pixels per head unit
    angle: float  # radians, clockwise

    @property
    def matrix(self) -> np.ndarray:
        """[2, 3] head units -> picture pixels."""
        return placement(self.centre, self.scale, self.angle)

    @cached_property
    def box(self) -> np.ndarray:
        """[4] x1 y1 x2 y2 around the face, hairline to chin and ear to ear; it may leave the frame."""
        outline = transform(self.matrix, self.look.outline(top=1.0))
        return np.concatenate([outline.min(axis=0), outline.max(axis=0)])

    def landmarks(self) -> np.ndarray:
        """[5, 2] picture pixels."""
        return transform(self.matrix, self.look.landmarks())


def draw_person(picture: np.ndarray, head: Head, rng: np.random.Generator, from_behind: bool = False) -> None:
    """Lays a person over the picture (uint8 [H, W, 3]), in place; one seen from behind has no face."""
    _draw_body(picture, head, rng, from_behind)
    supersample = 4 if head.scale < 24 else 3 if head.scale < 50 else 2
    canvas = open_canvas(picture, head.matrix, (-1.85, -1.75, 1.85, 2.1), supersample)
    if canvas is None:
        return
    hairdo = random_hairdo(rng, head.look)
    draw_hair_behind(canvas, head.look, hairdo, rng)
    _draw_ears(canvas, head.look)
    canvas.fill(head.look.outline(), head.look.skin)
    if from_behind:
        draw_hair_all_over(canvas, head.look, hairdo)
    else:
        _draw_face(canvas, head.look, rng)
        draw_hair_in_front(canvas, head.look, hairdo, rng)
        if rng.random() < 0.2:
            draw_glasses(canvas.warped(head.look.turn), head.look, rng)
    patch = _lit(canvas, head.look, rng)
    if not from_behind and rng.random() < 0.1:
        patch = _with_occluder(canvas, patch, head.look, rng)
    if rng.random() < 0.12:  # out of focus
        patch = cv2.GaussianBlur(patch, (0, 0), rng.uniform(0.015, 0.03) * head.scale + 0.3)
    paste(picture, patch, canvas.bounds)


def _draw_face(canvas: Canvas, look: Look, rng: np.random.Generator) -> None:
    face = canvas.warped(look.turn)
    draw_skin_details(face, look, rng)
    if look.masculine and rng.random() < 0.4:
        draw_beard(canvas, look, rng)
    draw_mouth(face, look, rng)
    draw_nose(face, look, rng)
    draw_eyes(face, look, rng)
    draw_brows(face, look, rng)


def _draw_ears(canvas: Canvas, look: Look) -> None:
    """The ear on the side that the head turns to goes out of sight."""
    for side in (-1, 1):
        if side * look.yaw > 0.16:
            continue
        x = side * (look.half_width + 0.02 + 0.1 * min(0.0, side * look.yaw))
        canvas.fill(ellipse(x, look.eye_y + 0.2 + look.pitch, 0.12, 0.21), shaded(look.skin, 0.92))
        canvas.fill(ellipse(x + 0.01 * side, look.eye_y + 0.2 + look.pitch, 0.065, 0.13), shaded(look.skin, 0.76))


def _draw_body(picture: np.ndarray, head: Head, rng: np.random.Generator, from_behind: bool) -> None:
    """Neck and a standing figure, upright whatever the head does; head units, y = 0 a little above the chin."""
    look = head.look
    chin = transform(head.matrix, np.array([[0.0, 0.72]]))[0]
    canvas = open_canvas(picture, placement((chin[0], chin[1]), head.scale, 0.0), (-2.1, -0.3, 2.1, 12.5), 2)
    if canvas is None:
        return
    shoulder = rng.uniform(1.5, 1.95) if look.masculine else rng.uniform(1.25, 1.6)
    trousers = random_colour(rng, (0.05, 0.5), (0.15, 0.6))
    for side in (-1, 1):
        leg = np.array([(0.03, 4.6), (0.82 * shoulder, 4.6), (0.6 * shoulder, 12.5), (0.12, 12.5)])
        canvas.fill(mirrored(leg, side), shaded(trousers, 1.0 if side > 0 else 0.9))
    half = [
        (0.3, 0.52),
        (0.6, 0.62),
        (shoulder - 0.1, 0.92),
        (shoulder + 0.08, 1.7),
        (shoulder - 0.02, 3.4),
        (0.86 * shoulder, 5.0),
    ]
    torso = np.array(half + [(-x, y) for x, y in half[::-1]])
    canvas.fill(smooth(torso), look.clothes)
    for side in (-1, 1):  # between arm and chest, and a hand
        canvas.stroke(
            mirrored(arc((0.72 * shoulder, 2.0), (0.78 * shoulder, 3.2), (0.74 * shoulder, 4.8)), side),
            shaded(look.clothes, 0.72),
            0.07,
        )
        canvas.fill(mirrored(ellipse(0.92 * shoulder, 5.05, 0.2, 0.28), side), shaded(look.skin, 0.9))
    _draw_neck_and_collar(canvas, look, rng, from_behind)
    paste(picture, canvas.shrunk(), canvas.bounds)


def _draw_neck_and_collar(canvas: Canvas, look: Look, rng: np.random.Generator, from_behind: bool) -> None:
    wide = 0.47 if look.masculine else 0.38
    accent = random_colour(rng, (0.2, 0.9), (0.2, 0.95))
    style = 0 if from_behind else rng.choice(4)
    neckline = 0.66 if from_behind else 1.2 if style == 1 else 0.85
    neck = [
        (-wide, -0.3),
        (wide, -0.3),
        (wide, 0.45),
        (wide + 0.16, 0.62),
        (0, neckline),
        (-wide - 0.16, 0.62),
        (-wide, 0.45),
    ]
    canvas.fill(np.array(neck), shaded(look.skin, 0.84))
    canvas.fill(np.array([(-wide, -0.3), (wide, -0.3), (wide, 0.32), (0, 0.5), (-wide, 0.32)]), shaded(look.skin, 0.7))
    if style == 2:  # shirt collar, perhaps with a tie
        for side in (-1, 1):
            collar = np.array([(wide + 0.02, 0.4), (wide + 0.2, 0.66), (0.3, 1.12), (0.0, 0.84)])
            canvas.fill(mirrored(collar, side), mix(look.clothes, (255, 255, 255), 0.65))
        if look.masculine:
            canvas.fill(np.array([(-0.1, 0.88), (0.1, 0.88), (0.2, 2.6), (0, 2.85), (-0.2, 2.6)]), accent)
    elif style == 3:  # stripes
        for y in (1.5, 2.1, 2.7):
            canvas.stroke(np.array([(-1.0, y), (1.0, y)]), accent, 0.16)
    else:
        canvas.stroke(np.array(neck[3:6]), shaded(look.clothes, 0.72), 0.08)


def _lit(canvas: Canvas, look: Look, rng: np.random.Generator) -> np.ndarray:
    """The canvas at the picture's resolution under soft light: a ramp over the head, and blurred shades on the face.

    The light is drawn small (it has no detail) and enlarged, so it costs next to nothing.
    """
    patch = canvas.shrunk()
    height, width = patch.shape[:2]
    reduction = max(1.0, max(height, width) / 64)
    small = (max(1, round(width / reduction)), max(1, round(height / reduction)))  # cv2 wants width, height
    x1, y1 = canvas.bounds[:2]
    to_small = np.diag([small[0] / width, small[1] / height]) @ (canvas.matrix - [[0, 0, x1], [0, 0, y1]])
    light = np.full((small[1], small[0], 4), NEUTRAL, np.uint8)
    soft = Canvas(light, (0, 0, *small), 1, to_small)
    _draw_shades(soft, look, rng.uniform(0.6, 1.2))
    sigma = 0.09 * float(np.hypot(*to_small[:, 0]))
    blurred = cv2.GaussianBlur(light, (0, 0), max(sigma, 0.3))[:, :, :3].astype(np.float32)
    strength = rng.uniform(4, 34) / float(np.hypot(*to_small[:, 0]))
    middle_x, middle_y = to_small[:, 2]
    ramp_x = strength * look.light[0] * (np.arange(small[0], dtype=np.float32) + 0.5 - middle_x)
    ramp_y = strength * look.light[1] * (np.arange(small[1], dtype=np.float32) + 0.5 - middle_y)
    warmth = rng.uniform(0.7, 1.0, 3)  # the side in the shade has another tint
    ramp = np.clip(ramp_y[:, None] + ramp_x[None, :], -44, 30)[:, :, None] * warmth
    lit = np.clip(blurred + ramp, 40, 200).astype(np.uint8)
    lit = cv2.resize(lit, (width, height), interpolation=cv2.INTER_LINEAR)
    rgb = cv2.multiply(np.ascontiguousarray(patch[:, :, :3]), lit, scale=1 / NEUTRAL)
    alpha = cv2.extractChannel(patch, 3)
    return cv2.merge([*cv2.split(cv2.min(rgb, cv2.merge([alpha] * 3))), alpha])  # premultiplied: colour <= alpha


def _draw_shades(soft: Canvas, look: Look, strength: float) -> None:
    """Round forms: a dim rim, sockets, cheeks, the lower lip's shadow, a lit forehead; neutral is 128."""

    def tint(red: float, green: float, blue: float) -> tuple[float, float, float]:
        return (NEUTRAL + red * strength, NEUTRAL + green * strength, NEUTRAL + blue * strength)

    soft.stroke(look.outline(), tint(-26, -30, -30), 0.16, closed=True)
    face = soft.warped(look.turn)
    face.fill(ellipse(0, -0.5, 0.42, 0.22), tint(9, 9, 8))
    for side in (-1, 1):
        face.fill(ellipse(side * look.eye_x, look.eye_y - 0.04, 0.2, 0.13), tint(-14, -17, -16))
        blush = tint(8, -9, -7) if look.masculine else tint(14, -14, -10)
        face.fill(ellipse(side * 0.45, 0.2, 0.17, 0.13), blush)
    face.fill(ellipse(0, look.mouth_y + 0.2, 0.2, 0.05), tint(-20, -22, -20))
    face.fill(ellipse(0, look.mouth_y + 0.34, 0.14, 0.07), tint(9, 8, 8))
    face.fill(ellipse(look.nose_x, look.nose_y + 0.1, 0.13, 0.04), tint(-18, -20, -18))


def _with_occluder(canvas: Canvas, patch: np.ndarray, look: Look, rng: np.random.Generator) -> np.ndarray:
    over = Canvas(np.zeros_like(canvas.pixels), canvas.bounds, canvas.supersample, canvas.matrix)
    draw_occluder(over, look, rng)
    cover = over.shrunk()
    keep = cv2.bitwise_not(cv2.extractChannel(cover, 3))
    return cv2.add(cv2.multiply(patch, cv2.merge([keep] * 4), scale=1 / 255), cover)
