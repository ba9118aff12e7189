"""Things that are no faces but look a little like them: round, skin-coloured, or with marks like eyes.

Each is drawn in units where it spans about -1..1.
"""

from __future__ import annotations

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
    rectangle,
    shaded,
    smooth,
)
from latentface.apps.drawing_looks import SKIN_TONES

DARK = (34.0, 30.0, 34.0)


def draw_object(picture: np.ndarray, rng: np.random.Generator) -> None:
    """Lays one such thing over the picture (uint8 [H, W, 3]), in place."""
    height, width = picture.shape[:2]
    largest = max(9.0, 0.22 * min(width, height))
    scale = float(np.exp(rng.uniform(np.log(6), np.log(largest))))
    centre = (rng.uniform(0, width), rng.uniform(0, height))
    matrix = placement(centre, scale, rng.uniform(-0.3, 0.3))
    canvas = open_canvas(picture, matrix, (-1.3, -1.3, 1.3, 1.3), 3)
    if canvas is not None:
        OBJECTS[rng.choice(len(OBJECTS))](canvas, rng)
        paste(picture, canvas.shrunk(), canvas.bounds)


def _ball(canvas: Canvas, rng: np.random.Generator) -> None:
    colour = random_colour(rng, (0.3, 0.9), (0.4, 0.95))
    for step in range(6):
        canvas.fill(ellipse(-0.07 * step, -0.08 * step, 1 - 0.16 * step), shaded(colour, 0.75 + 0.1 * step))
    if rng.random() < 0.5:
        canvas.stroke(arc((-1, 0.1), (0, 0.45), (1, 0.1)), (245, 245, 245), 0.15)


def _plate(canvas: Canvas, rng: np.random.Generator) -> None:
    colour = random_colour(rng, (0.0, 0.3), (0.75, 1.0))
    rim = random_colour(rng, (0.2, 0.8), (0.4, 0.9))
    canvas.fill(ellipse(0, 0, 1, corners=40), colour)
    canvas.stroke(ellipse(0, 0, 0.92, corners=40), rim, 0.06, closed=True)
    canvas.fill(ellipse(0, 0, 0.64, corners=32), shaded(colour, 0.9))
    for _ in range(rng.integers(0, 6)):  # food
        canvas.fill(ellipse(*rng.uniform(-0.4, 0.4, 2), *rng.uniform(0.08, 0.25, 2)), random_colour(rng, (0.4, 0.9)))


def _clock(canvas: Canvas, rng: np.random.Generator) -> None:
    canvas.fill(ellipse(0, 0, 1, corners=40), random_colour(rng, (0.1, 0.8), (0.2, 0.7)))
    canvas.fill(ellipse(0, 0, 0.86, corners=40), (244, 240, 228))
    for hour in np.arange(12) * np.pi / 6:
        ray = np.array([np.cos(hour), np.sin(hour)])
        canvas.stroke(np.stack([0.68 * ray, 0.8 * ray]), DARK, 0.06)
    for length in (0.4, 0.62):
        turn = rng.uniform(0, 2 * np.pi)
        canvas.stroke(np.array([(0, 0), (length * np.cos(turn), length * np.sin(turn))]), DARK, 0.07)
    if rng.random() < 0.4:  # the holes for winding it up
        for side in (-1, 1):
            canvas.fill(ellipse(0.3 * side, 0.25, 0.09), DARK)


def _button(canvas: Canvas, rng: np.random.Generator) -> None:
    colour = random_colour(rng, (0.1, 0.8), (0.3, 0.95))
    canvas.fill(ellipse(0, 0, 1, corners=32), colour)
    canvas.stroke(ellipse(0, 0, 0.8, corners=32), shaded(colour, 0.75), 0.08, closed=True)
    holes = (
        [(-0.25, 0), (0.25, 0)] if rng.random() < 0.4 else [(-0.22, -0.22), (0.22, -0.22), (-0.22, 0.22), (0.22, 0.22)]
    )
    for x, y in holes:
        canvas.fill(ellipse(x, y, 0.12, corners=12), DARK)


def _flower(canvas: Canvas, rng: np.random.Generator) -> None:
    colour, petals = random_colour(rng, (0.3, 0.9), (0.6, 1.0)), int(rng.integers(5, 11))
    for turn in np.arange(petals) * 2 * np.pi / petals:
        canvas.fill(ellipse(0.62 * np.cos(turn), 0.62 * np.sin(turn), 0.34), shaded(colour, rng.uniform(0.85, 1.1)))
    canvas.fill(ellipse(0, 0, 0.36), mix((236, 190, 60), (90, 50, 30), rng.choice((0.0, 0.9))))


def _oval(canvas: Canvas, rng: np.random.Generator) -> None:
    """Skin-coloured, without features: a knee, a loaf, a balloon."""
    colour = SKIN_TONES[rng.choice(len(SKIN_TONES))]
    wide = rng.uniform(0.6, 0.85)
    for step in range(4):
        canvas.fill(
            ellipse(-0.05 * step, -0.06 * step, wide - 0.14 * step, 1 - 0.2 * step), shaded(colour, 0.82 + 0.07 * step)
        )


def _hand(canvas: Canvas, rng: np.random.Generator) -> None:
    colour = SKIN_TONES[rng.choice(len(SKIN_TONES))]
    for finger, length in enumerate((0.9, 1.0, 0.95, 0.75)):
        x = 0.25 * (finger - 1.5)
        tip = np.array([(x, 0.3), (1.35 * x, 0.3 - length)])
        canvas.stroke(tip, shaded(colour, 0.8), 0.27)
        canvas.stroke(tip, colour, 0.21)
    canvas.stroke(np.array([(-0.35, 0.6), (-0.85, 0.05)]), colour, 0.24)
    canvas.fill(ellipse(0, 0.5, 0.52, 0.5), colour)


def _window(canvas: Canvas, rng: np.random.Generator) -> None:
    frame, glass = random_colour(rng, (0.0, 0.4), (0.5, 1.0)), random_colour(rng, (0.2, 0.6), (0.2, 0.8))
    canvas.fill(rectangle(-0.85, -1, 0.85, 1), frame)
    for x in (-0.75, 0.06):
        for y in (-0.9, 0.06):
            canvas.fill(rectangle(x, y, x + 0.69, y + 0.84), shaded(glass, rng.uniform(0.8, 1.2)))


def _cat(canvas: Canvas, rng: np.random.Generator) -> None:
    fur = mix(random_colour(rng, (0.1, 0.5), (0.2, 0.9)), (200, 130, 60), rng.uniform(0, 0.8))
    for side in (-1, 1):
        canvas.fill(mirrored(np.array([(0.2, -0.6), (0.85, -1.2), (0.9, -0.1)]), side), fur)
        canvas.fill(mirrored(np.array([(0.4, -0.6), (0.76, -0.98), (0.78, -0.3)]), side), (226, 160, 158))
    canvas.fill(ellipse(0, 0.1, 0.98, 0.8), fur)
    canvas.fill(ellipse(0, 0.45, 0.45, 0.32), mix(fur, (255, 255, 255), 0.6))
    for side in (-1, 1):
        canvas.fill(ellipse(0.42 * side, -0.05, 0.2, 0.17), (190, 200, 90))
        canvas.fill(ellipse(0.42 * side, -0.05, 0.06, 0.16), DARK)
        for y in (0.4, 0.5):
            canvas.stroke(np.array([(0.2 * side, y), (1.2 * side, 2 * y - 0.5)]), shaded(fur, 0.5), 0.03)
    canvas.fill(np.array([(-0.12, 0.28), (0.12, 0.28), (0, 0.42)]), (190, 96, 100))
    canvas.stroke(np.array([(-0.2, 0.6), (0, 0.45), (0.2, 0.6)]), DARK, 0.04)


def _bear(canvas: Canvas, rng: np.random.Generator) -> None:
    fur = mix((140, 92, 54), random_colour(rng, (0.0, 0.5), (0.2, 0.95)), rng.uniform(0, 0.9))
    for side in (-1, 1):
        canvas.fill(ellipse(0.72 * side, -0.72, 0.36), fur)
        canvas.fill(ellipse(0.72 * side, -0.72, 0.2), shaded(fur, 0.7))
    canvas.fill(ellipse(0, 0.05, 0.98, 0.9), fur)
    canvas.fill(ellipse(0, 0.42, 0.46, 0.38), mix(fur, (255, 240, 220), 0.5))
    for side in (-1, 1):
        canvas.fill(ellipse(0.36 * side, -0.1, 0.1), DARK)
    canvas.fill(ellipse(0, 0.28, 0.18, 0.13), DARK)


def _muddle(canvas: Canvas, rng: np.random.Generator) -> None:
    """An oval of skin with two eyes and a mouth where they do not belong: one above the other, the mouth beside."""
    colour = SKIN_TONES[rng.choice(len(SKIN_TONES))]
    canvas.fill(ellipse(0, 0, 0.78, 1), colour)
    side = 1 if rng.random() < 0.5 else -1
    for y in (-0.1, 0.6):
        canvas.fill(ellipse(0.3 * side, y, 0.15, 0.09), (244, 240, 236))
        canvas.fill(ellipse(0.3 * side, y, 0.08), DARK)
    mouth = np.array([(-0.38, -0.55), (-0.26, -0.2), (-0.38, 0.15), (-0.5, -0.2)])
    canvas.fill(mirrored(smooth(mouth), side), (170, 70, 70))


def _socket(canvas: Canvas, rng: np.random.Generator) -> None:
    colour = random_colour(rng, (0.0, 0.15), (0.75, 1.0))
    canvas.fill(rectangle(-0.9, -0.9, 0.9, 0.9), colour)
    canvas.fill(ellipse(0, 0, 0.7), shaded(colour, 0.88))
    for side in (-1, 1):
        canvas.fill(ellipse(0.3 * side, 0, 0.1), DARK)


def _lamp(canvas: Canvas, rng: np.random.Generator) -> None:
    """Traffic lights: three discs in a row."""
    canvas.fill(rectangle(-0.42, -1.1, 0.42, 1.1), random_colour(rng, (0.0, 0.5), (0.1, 0.4)))
    lit = int(rng.integers(3))
    for index, colour in enumerate(((220.0, 50.0, 46.0), (236.0, 180.0, 50.0), (60.0, 190.0, 90.0))):
        canvas.fill(ellipse(0, 0.68 * (index - 1), 0.28), colour if index == lit else shaded(colour, 0.35))


OBJECTS = (_ball, _plate, _clock, _button, _flower, _oval, _hand, _window, _cat, _bear, _muddle, _socket, _lamp)
