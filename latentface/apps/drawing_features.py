"""The parts of a drawn face: eyes, brows, nose, mouth, beard, glasses, and what may hide a part of it.

Every function draws on a canvas in head units; `drawing_heads` gives one that is warped by the head's turn.
"""

from __future__ import annotations

import numpy as np

from latentface.apps.drawing_canvas import (
    Canvas,
    Colour,
    arc,
    ellipse,
    mirrored,
    mix,
    random_colour,
    rectangle,
    shaded,
    smooth,
)
from latentface.apps.drawing_looks import HAIR_COLOURS, Look

IRIS_COLOURS: tuple[Colour, ...] = ((58, 36, 22), (84, 54, 30), (96, 92, 50), (64, 100, 130), (72, 110, 80))
DARK: Colour = (30, 22, 24)


def draw_eyes(canvas: Canvas, look: Look, rng: np.random.Generator) -> None:
    """Both eyes with the same opening, colour and gaze."""
    half, opening = rng.uniform(0.145, 0.175), rng.uniform(0.062, 0.1)
    gaze = rng.uniform(-0.3, 0.3) * half
    iris = IRIS_COLOURS[rng.choice(len(IRIS_COLOURS) if sum(look.skin) > 480 else 2)]
    slant = rng.uniform(-0.025, 0.02)
    closed = rng.random() < 0.05
    lashes = (0.03 if look.masculine else 0.042) + 0.05 * look.small
    for side in (-1, 1):
        if closed:
            y = look.eye_y
            lid = arc((look.eye_x - half, y), (look.eye_x, y + 0.07), (look.eye_x + half, y))
            canvas.stroke(mirrored(lid, side), shaded(look.skin, 0.3), lashes + 0.01)
        else:
            _draw_open_eye(canvas, look, side, half, opening, gaze, iris, slant, lashes)


def _draw_open_eye(
    canvas: Canvas,
    look: Look,
    side: int,
    half: float,
    opening: float,
    gaze: float,
    iris: Colour,
    slant: float,
    lashes: float,
) -> None:
    def place(points: np.ndarray) -> np.ndarray:
        """Eye units (middle of the eye, outwards to the right) -> head units."""
        tilted = points + np.stack([np.zeros(len(points)), slant * points[:, 0] / half], axis=1)
        return mirrored(tilted + np.array([look.eye_x, look.eye_y]), side)

    along = np.linspace(-1, 1, 11)
    upper = np.stack([half * along, -opening * (1 - along**2)], axis=1)
    lower = np.stack([half * along, 0.75 * opening * (1 - along**2)], axis=1)
    dim = 0.35 * look.small * sum(look.skin) / 660  # small eyes read as dark spots, but on dark skins as bright ones
    canvas.fill(place(np.concatenate([upper, lower[::-1]])), mix((246, 243, 240), look.skin, dim))
    for radius, colour in ((opening * (1.0 + 0.5 * look.small), iris), (opening * 0.5, (12, 10, 12))):
        disc = ellipse(side * gaze, -0.1 * opening, radius, corners=16)
        arch = opening * (1 - (np.clip(disc[:, 0] / half, -1, 1)) ** 2)
        disc[:, 1] = np.clip(disc[:, 1], -arch, 0.75 * arch)  # the lids hide what stands over them
        canvas.fill(place(disc), mix(colour, DARK, 0.7 * look.small))
    if look.small < 0.5:
        glint = ellipse(side * (gaze - 0.3 * opening), -0.4 * opening, 0.2 * opening, corners=8)
        canvas.fill(place(glint), (255, 255, 255))
        canvas.stroke(place(upper * (0.95, 1.0) + (0, -0.045)), shaded(look.skin, 0.72), 0.018)
    canvas.stroke(place(upper), mix(shaded(look.skin, 0.25), DARK, 0.6), lashes)
    canvas.stroke(place(lower), shaded(look.skin, 0.66), 0.014)


def draw_brows(canvas: Canvas, look: Look, rng: np.random.Generator) -> None:
    """Two tapered arcs over the eyes."""
    colour = mix(shaded(look.hair, 0.75), look.skin, 0.12)
    lift, bend = rng.uniform(0.19, 0.25), rng.uniform(0.02, 0.07)
    thick = rng.uniform(0.05, 0.075) if look.masculine else rng.uniform(0.03, 0.05)
    y = look.eye_y - lift
    tilt = rng.uniform(-0.03, 0.03)
    for side in (-1, 1):
        inner, outer = look.eye_x - 0.18, look.eye_x + 0.2
        top = arc((inner, y + tilt), (look.eye_x + 0.04, y - bend), (outer, y + 0.03))
        bottom = arc((outer, y + 0.04), (look.eye_x + 0.03, y - bend + thick), (inner, y + thick + tilt))
        canvas.fill(mirrored(np.concatenate([top, bottom]), side), colour)


def draw_nose(canvas: Canvas, look: Look, rng: np.random.Generator) -> None:
    """A shaded side away from the light, a lit ridge, wings and nostrils."""
    tip, shift = look.nose_y, look.nose_x
    wing = rng.uniform(0.1, 0.155)
    side = -1 if look.light[0] > 0 else 1
    middle = shift * 0.5
    shadow = [(middle + side * 0.03, look.eye_y + 0.04), (shift + side * wing, tip), (shift, tip + 0.05), (shift, tip)]
    canvas.fill(np.array(shadow), shaded(look.skin, 0.88))
    canvas.fill(ellipse(shift, tip - 0.01, wing * 1.02, 0.075), shaded(look.skin, 0.93))
    canvas.fill(ellipse(shift, tip - 0.03, wing * 0.62, 0.085), shaded(look.skin, 1.03))
    ridge = np.array([(middle - side * 0.012, look.eye_y + 0.08), (shift - side * 0.02, tip - 0.05)])
    canvas.stroke(ridge, shaded(look.skin, 1.08), 0.035)
    for x in (-1, 1):
        canvas.fill(ellipse(shift + x * wing * 0.48, tip + 0.035, 0.034, 0.02, corners=10), shaded(look.skin, 0.42))
    under = arc((shift - wing, tip + 0.02), (shift, tip + 0.085), (shift + wing, tip + 0.02))
    canvas.stroke(under, shaded(look.skin, 0.7), 0.018)


def draw_mouth(canvas: Canvas, look: Look, rng: np.random.Generator) -> None:
    """Closed, open, or a smile that shows the teeth; the corners are the landmarks."""
    x, y, corner_y = look.mouth_x, look.mouth_y, look.mouth_y - look.smile
    full = rng.uniform(0.035, 0.055) if look.masculine else rng.uniform(0.055, 0.08)
    lips = mix(shaded(look.skin, 0.74), (178, 48, 58), 0.3 if look.masculine else rng.uniform(0.35, 0.85))
    left, right = (-x, corner_y), (x, corner_y)
    drop = 0.0
    style = rng.choice(3, p=(0.5, 0.15, 0.35) if look.smile > 0.03 else (0.8, 0.2, 0.0))
    if style == 1:
        drop = rng.uniform(0.1, 0.24)
    elif style == 2:
        drop = rng.uniform(0.07, 0.13)
    bow = np.array([left, (-0.4 * x, y - full), (0, y - 0.75 * full), (0.4 * x, y - full), right])
    bottom = arc(right, (0, y + drop + 1.4 * full + 0.01), left)
    canvas.fill(np.concatenate([bow, bottom]), lips)
    middle = arc(left, (0, y + 0.005), right)
    if drop:
        inside = np.concatenate([middle, arc(right, (0, y + drop), left)])
        canvas.fill(inside * (0.92, 1), (70, 22, 26))
        if style == 1:
            canvas.fill(ellipse(0, y + drop * 0.8, 0.55 * x, 0.22 * drop), (196, 92, 92))
        teeth = arc(
            (0.85 * x, corner_y + 0.01), (0, y + drop * (0.72 if style == 2 else 0.25)), (-0.85 * x, corner_y + 0.01)
        )
        canvas.fill(np.concatenate([middle * (0.85, 1), teeth]), (246, 242, 234))
    else:
        canvas.stroke(middle, shaded(lips, 0.5), 0.024 + 0.03 * look.small)
        if look.small < 0.5:
            canvas.stroke(
                arc((-0.3 * x, y + full), (0, y + 1.1 * full), (0.3 * x, y + full)), shaded(lips, 1.15), 0.016
            )


def draw_beard(canvas: Canvas, look: Look, rng: np.random.Generator) -> None:
    """A full beard, stubble, a goatee or a moustache; `canvas` must not be warped (the beard follows the outline)."""
    face = canvas.warped(look.turn)
    style = rng.choice(4)
    colour = shaded(look.hair, 0.9)
    y = look.mouth_y
    if style <= 1:
        colour = mix(colour, look.skin, 0.72) if style == 1 else colour
        jaw = look.outline(grow=0.0 if style == 1 else rng.uniform(0.01, 0.12))[:25]  # right temple, chin, left temple
        w, shift, down = look.half_width, 0.6 * float(np.sin(look.yaw)), look.pitch
        cheeks = [
            (-0.88 * w, 0.1),
            (-0.62 * w + shift, 0.35),
            (shift, y - 0.19),
            (0.62 * w + shift, 0.35),
            (0.88 * w, 0.1),
        ]
        canvas.fill(np.concatenate([jaw, np.array(cheeks) + np.array([0, down])]), colour)
    if style == 2:
        face.fill(ellipse(0, 0.5 * (y + 1.0), 0.24, 0.5 * (1.0 - y) + 0.02), colour)
        face.fill(ellipse(0, y, look.mouth_x + 0.07, 0.16), colour)
        face.fill(ellipse(0, y + 0.01, look.mouth_x + 0.0, 0.09), look.skin)
    if style in (0, 3):
        top = arc((look.mouth_x + 0.06, y + 0.03), (0, y - 0.24), (-look.mouth_x - 0.06, y + 0.03))
        face.fill(np.concatenate([top, arc(tuple(top[-1]), (0, y - 0.05), tuple(top[0]))]), colour)


def draw_skin_details(canvas: Canvas, look: Look, rng: np.random.Generator) -> None:
    """Freckles, the folds beside the mouth, lines on the forehead."""
    dark = shaded(look.skin, 0.82)
    if rng.random() < 0.35 or look.hair in HAIR_COLOURS[-2:]:
        for side in (-1, 1):
            fold = arc((0.17, look.nose_y + 0.02), (0.31, look.mouth_y - 0.14), (0.36, look.mouth_y + 0.02))
            canvas.stroke(mirrored(fold, side), dark, 0.016)
    if rng.random() < 0.2:
        for y in (-0.66, -0.56):
            canvas.stroke(arc((-0.3, y), (0, y - 0.03), (0.3, y)), dark, 0.015)
    if rng.random() < 0.15:
        for x, y in rng.normal((0, 0.08), (0.3, 0.08), (14, 2)):
            canvas.fill(ellipse(x, y, 0.016, corners=6), dark)


def draw_glasses(canvas: Canvas, look: Look, rng: np.random.Generator) -> None:
    """Round, oval or angular frames, clear or dark; `canvas` is warped by the turn of the head."""
    frame = random_colour(rng, (0.0, 0.6), (0.05, 0.45))
    width, height = rng.uniform(0.22, 0.27), rng.uniform(0.15, 0.22)
    bar = rng.uniform(0.025, 0.055)
    dark = rng.random() < 0.3
    y = look.eye_y + 0.03
    angular = rng.random() < 0.5
    for side in (-1, 1):
        lens = ellipse(look.eye_x + 0.01, y, width, height)
        if angular:
            box = rectangle(look.eye_x - width + 0.01, y - height, look.eye_x + width, y + 0.85 * height)
            lens = smooth(np.repeat(box, 2, axis=0) * 0.5 + np.roll(np.repeat(box, 2, axis=0), 1, axis=0) * 0.5, 4)
            lens = np.clip(lens, box.min(axis=0), box.max(axis=0))
        if dark:
            canvas.fill(mirrored(lens, side), mix(frame, DARK, 0.75))
            glare = [(look.eye_x - 0.1, y - 0.1), (look.eye_x + 0.06, y - 0.1), (look.eye_x - 0.08, y + 0.05)]
            canvas.fill(mirrored(np.array(glare), side), mix(frame, (120, 125, 135), 0.75))
        canvas.stroke(mirrored(lens, side), frame, bar, closed=True)
        temple = np.array([(look.eye_x + width, y - 0.06), (look.half_width + 0.1, y - 0.08)])
        canvas.stroke(mirrored(temple, side), frame, bar)
    canvas.stroke(arc((-look.eye_x + width, y - 0.04), (0, y - 0.08), (look.eye_x - width, y - 0.04)), frame, bar)


def draw_occluder(canvas: Canvas, look: Look, rng: np.random.Generator) -> None:
    """Something in front of the head that reaches into the face from its edge, over at most a third of it.

    A strip of the unit disc that is 0.7 deep has 31 % of its area: no edge comes farther in than that.
    """
    depth = rng.uniform(0.2, 0.6)
    angle = rng.uniform(-0.4 * np.pi, 1.4 * np.pi)  # not down from the forehead, which hair and hats do
    colour = random_colour(rng, (0.05, 0.8), (0.15, 0.95))
    cosine, sine = np.cos(angle), np.sin(angle)
    across = np.array([[cosine, sine], [-sine, cosine]])  # first axis: away from the middle of the face
    near = 1 - depth

    def place(points: np.ndarray) -> np.ndarray:
        """Occluder units (first axis outwards, the face's edge at 1) -> head units, clear of other people."""
        return np.clip(points @ across * (look.half_width, 1), -1.45, 1.45)

    shape = rng.choice(3)
    if shape == 0:  # a board, a screen, a book
        board = place(np.array([(near, -1.1), (near, 1.1), (near + 1.2, 1.1), (near + 1.2, -1.1)]))
        canvas.fill(board, colour)
        canvas.stroke(board, shaded(colour, 0.7), 0.04, closed=True)
    elif shape == 1:  # a balloon, a ball, a plate
        disc = place(ellipse(near + 0.75, 0, 0.75, 0.8))
        canvas.fill(disc, colour)
        canvas.stroke(disc, shaded(colour, 0.75), 0.04, closed=True)
    else:  # a hand
        for finger in range(4):
            y = 0.2 * (finger - 1.5)
            tip = near + 0.08 * abs(finger - 1.4)
            ends = place(np.array([(tip + 0.1, y), (tip + 1.2, y * 1.2)]))
            canvas.stroke(ends, shaded(look.skin, 0.78), 0.2)
            canvas.stroke(ends, shaded(look.skin, 0.96), 0.16)
