"""Hair and hats of drawn heads, behind the face and in front of it. Units: `drawing_looks`."""

from __future__ import annotations

from dataclasses import dataclass

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
from latentface.apps.drawing_looks import CROWN, Look

HAIRLINES = ("straight", "parted", "fringe", "receding", "swept")
HATS = ("beanie", "cap", "sunhat", "scarf", "helmet")


@dataclass(frozen=True)
class Hairdo:
    """How the hair is worn, and what over it."""

    volume: float  # how far it stands off the skull; negative: no hair
    length: float  # how far down it hangs behind the face; below 0.3: short
    hairline: str
    curls: bool
    knot: str  # "", "bun", "tails"
    hat: str  # "" or one of HATS
    hat_colour: Colour


def random_hairdo(rng: np.random.Generator, look: Look) -> Hairdo:
    """Bald, cropped, short, curly, bobbed, long, tied; sometimes with a hat."""
    long = rng.random() < (0.1 if look.masculine else 0.72)
    bald = look.masculine and rng.random() < 0.14
    hats = [hat for hat in HATS if hat != "scarf" or not look.masculine]  # no scarf around a beard
    hat = hats[rng.choice(len(hats))] if rng.random() < 0.17 else ""
    curls = not bald and not hat and rng.random() < 0.2
    volume = (
        -1.0
        if bald
        else rng.uniform(0.1, 0.3)
        if curls
        else rng.choice((0.02, 0.06) if hat else (0.02, 0.06, 0.1, 0.15))
    )
    return Hairdo(
        volume=float(volume),
        length=float(rng.uniform(0.7, 1.9)) if long and not bald else 0.0,
        hairline=HAIRLINES[
            rng.choice(5, p=(0.3, 0.2, 0.15, 0.15, 0.2) if look.masculine else (0.2, 0.35, 0.25, 0, 0.2))
        ],
        curls=curls,
        knot="" if look.masculine or rng.random() < 0.7 else str(rng.choice(("bun", "tails"))),
        hat=hat,
        hat_colour=random_colour(rng, (0.1, 0.75), (0.25, 0.9)),
    )


def draw_hair_behind(canvas: Canvas, look: Look, hairdo: Hairdo, rng: np.random.Generator) -> None:
    """What hangs behind the face and the brims that pass behind the head."""
    w, volume = look.half_width, max(hairdo.volume, 0.04)
    if hairdo.hat == "scarf":
        drape = [(0, -1.42), (w + 0.1, -1.0), (w + 0.2, 0), (w + 0.22, 0.9), (1.05, 1.7), (0, 1.95)]
        canvas.fill(smooth(np.array(drape + [(-x, y) for x, y in drape[-2:0:-1]])), shaded(hairdo.hat_colour, 0.8))
        return
    if hairdo.hat == "sunhat":
        canvas.fill(ellipse(0, -0.78, 1.75, 0.5, corners=40), shaded(hairdo.hat_colour, 0.72))
    back = shaded(look.hair, 0.72)
    if hairdo.length > 0.3:
        end, wide = hairdo.length, w + volume + rng.uniform(0.06, 0.24)
        half = [
            (0, -CROWN - volume),
            (0.8 * w, -1.05),
            (w + volume, -0.5),
            (wide, 0.2),
            (wide, end - 0.2),
            (0.55 * w, end),
        ]
        shape = np.array(half + [(-x, y) for x, y in half[:0:-1]])
        canvas.fill(smooth(shape), back)
        if hairdo.curls:
            for x, y in shape[2:]:
                canvas.fill(ellipse(x, y, rng.uniform(0.2, 0.3)), back)
    if hairdo.knot == "bun" and not hairdo.hat:
        canvas.fill(ellipse(rng.uniform(-0.2, 0.2), -CROWN - 0.2, 0.36, 0.3), look.hair)
    if hairdo.knot == "tails":
        for side in (-1, 1):
            tail = np.array([(w, -0.5), (w + 0.45, -0.6), (w + 0.6, 0.2), (w + 0.35, 0.9), (w + 0.15, 0.2)])
            canvas.fill(mirrored(smooth(tail), side), shaded(look.hair, 0.9))


def draw_hair_in_front(canvas: Canvas, look: Look, hairdo: Hairdo, rng: np.random.Generator) -> None:
    """The hair over the skull with its hairline, then the hat."""
    if hairdo.volume >= 0 and hairdo.hat not in ("scarf", "helmet"):
        _draw_cap_of_hair(canvas, look, hairdo, rng)
    draw_hat = {"beanie": _beanie, "cap": _cap, "sunhat": _sunhat, "scarf": _scarf, "helmet": _helmet}.get(hairdo.hat)
    if draw_hat is not None:
        draw_hat(canvas, look, hairdo.hat_colour)


def draw_hair_all_over(canvas: Canvas, look: Look, hairdo: Hairdo) -> None:
    """A head seen from behind: hair from the crown to the neck."""
    colour = look.skin if hairdo.volume < 0 else look.hair
    canvas.fill(look.outline(grow=max(hairdo.volume, 0)) * (1, 0.88), colour)
    for x in np.linspace(-0.5, 0.5, 5):
        strand = arc((0.2 * x, -CROWN), (1.15 * x, -0.3), (0.9 * x, 0.6))
        canvas.stroke(strand, shaded(colour, 0.85), 0.03)


def _hairline(look: Look, kind: str, side: int) -> np.ndarray:
    """From the right sideburn over the forehead to the left one, [N, 2]."""
    w, shift = look.half_width, 0.35 * float(np.sin(look.yaw))
    if kind == "fringe":
        y = look.eye_y - 0.26 + look.pitch
        over = [(0.8 * w, y - 0.02), (0.45 * w, y - 0.06), (0.1, y), (-0.4 * w, y - 0.05), (-0.8 * w, y - 0.02)]
    elif kind == "parted":
        over = [(0.86 * w, -0.5), (0.62 * w, -0.74), (0.12 * side, -1.06), (-0.62 * w, -0.74), (-0.86 * w, -0.5)]
    elif kind == "receding":
        over = [(0.84 * w, -0.6), (0.55 * w, -1.12), (0.0, -0.96), (-0.55 * w, -1.12), (-0.84 * w, -0.6)]
    elif kind == "swept":
        over = [(0.86 * w, -0.45), (0.68 * w, -0.98), (0.35 * w, -0.93), (-0.35 * w, -0.72), (-0.8 * w, -0.5)]
        over = over if side > 0 else [(-x, y) for x, y in reversed(over)]
    else:
        over = [(0.86 * w, -0.5), (0.72 * w, -0.8), (0.0, -0.9), (-0.72 * w, -0.8), (-0.86 * w, -0.5)]
    points = np.array([(0.92 * w, -0.05), *over, (-0.92 * w, -0.05)])
    points[2:-2, 0] += shift
    below = np.array([(-0.94 * w, 0.25), (0.94 * w, 0.25)])  # gives the ends their direction
    closed = smooth(np.concatenate([points, below]))
    return closed[: 6 * (len(points) - 1) + 1]


def _draw_cap_of_hair(canvas: Canvas, look: Look, hairdo: Hairdo, rng: np.random.Generator) -> None:
    side = 1 if rng.random() < 0.5 else -1
    volume, w = hairdo.volume, look.half_width
    colour = mix(look.hair, look.skin, 0.35) if volume < 0.03 else look.hair
    skull = look.outline(grow=volume)
    outer = np.concatenate([skull[24:], skull[:1]])  # left temple, crown, right temple
    if hairdo.curls:
        for x, y in outer[::2]:
            canvas.fill(ellipse(0.96 * x, 0.96 * y, 0.16 + 0.45 * volume, corners=16), colour)
    elif volume > 0.08 and rng.random() < 0.25:  # spikes
        outer[4:-4:2] *= 1.1
    line = _hairline(look, hairdo.hairline, side)
    canvas.fill(np.concatenate([outer, line]), colour)
    if hairdo.length > 0.3:  # locks in front of the ears
        end = min(hairdo.length, 0.95)
        lock = [(w + volume, -0.4), (w + volume + 0.05, 0.3), (0.97 * w + 0.05, end), (0.86 * w, 0.1), (0.8 * w, -0.62)]
        for flip in (-1, 1):
            canvas.fill(mirrored(smooth(np.array(lock)), flip), colour)
    for _ in range(0 if look.small > 0.6 or volume < 0.03 else 7):
        t = rng.uniform(0.1, 0.9)
        start, end = outer[int(t * (len(outer) - 1))], line[::-1][int(t * (len(line) - 1))]
        bent = (start + end) / 2 + (0.12 * side * (1 - abs(2 * t - 1)), -0.05)
        strand = arc(tuple(0.96 * start), tuple(bent), tuple(end + 0.12 * (start - end)))
        canvas.stroke(strand, shaded(colour, rng.choice((0.8, 1.2))), rng.uniform(0.015, 0.04))


def _skullcap(look: Look, grow: float, low: float) -> np.ndarray:
    """The part of the skull above y = `low`, [N, 2]."""
    return np.minimum(look.outline(grow=grow)[24:], (np.inf, low))


def _beanie(canvas: Canvas, look: Look, colour: Colour) -> None:
    w = look.half_width
    canvas.fill(ellipse(0, -CROWN - 0.25, 0.2), shaded(colour, 1.2))
    canvas.fill(_skullcap(look, 0.14, -0.6), colour)
    band = np.concatenate(
        [arc((-w - 0.1, -0.86), (0, -0.98), (w + 0.1, -0.86)), arc((w + 0.1, -0.56), (0, -0.66), (-w - 0.1, -0.56))]
    )
    canvas.fill(band, shaded(colour, 0.8))
    for x in np.linspace(-0.8, 0.8, 7):
        canvas.stroke(
            np.array([(x * w * 0.7, -1.25 + 0.15 * x * x), (x * w, -0.95 + 0.1 * x * x)]), shaded(colour, 0.88), 0.025
        )


def _cap(canvas: Canvas, look: Look, colour: Colour) -> None:
    w, shift = look.half_width, 1.2 * float(np.sin(look.yaw))
    canvas.fill(_skullcap(look, 0.1, -0.72), colour)
    canvas.stroke(arc((0, -CROWN - 0.1), (0.1 + 0.3 * shift, -1.1), (0.3 * shift, -0.75)), shaded(colour, 0.8), 0.025)
    brim = np.concatenate(
        [
            arc((-0.85 * w + shift * 0.4, -0.76), (shift, -0.92), (0.85 * w + shift * 0.4, -0.76)),
            arc((0.98 * w + shift * 0.8, -0.6), (shift, -0.68), (-0.98 * w + shift * 0.8, -0.6)),
        ]
    )
    canvas.fill(brim, shaded(colour, 0.7))


def _sunhat(canvas: Canvas, look: Look, colour: Colour) -> None:
    w = look.half_width
    canvas.fill(
        np.concatenate([ellipse(0, -1.1, w + 0.1, 0.55)[12:], rectangle(w + 0.12, -1.1, -w - 0.12, -0.75)[[0, 2]]]),
        colour,
    )
    band = np.concatenate(
        [arc((-w - 0.1, -1.0), (0, -0.95), (w + 0.1, -1.0)), arc((w + 0.12, -0.8), (0, -0.74), (-w - 0.12, -0.8))]
    )
    canvas.fill(band, shaded(colour, 0.5))
    front = np.concatenate(
        [arc((-1.75, -0.78), (0, -0.78), (1.75, -0.78)), arc((1.75, -0.78), (0, -0.56), (-1.75, -0.78))]
    )
    canvas.fill(front, shaded(colour, 0.94))


def _scarf(canvas: Canvas, look: Look, colour: Colour) -> None:
    """A head scarf: a ring of cloth around the face, closed under the chin."""
    outer = look.outline(top=CROWN + 0.06, grow=0.16)
    inner = look.outline(top=0.82, grow=-0.07) * (1, 0.97)
    ring = np.concatenate([outer, outer[:1], inner[:1], inner[::-1]])
    canvas.fill(ring, colour)
    for grow in (0.02, 0.1):
        canvas.stroke(look.outline(top=CROWN - 0.12, grow=grow)[3:44], shaded(colour, 0.88), 0.025)
    canvas.fill(
        smooth(np.array([(-0.6, 1.0), (0, 1.12), (0.6, 1.0), (0.75, 1.6), (0, 1.9), (-0.75, 1.6)])),
        shaded(colour, 0.92),
    )


def _helmet(canvas: Canvas, look: Look, colour: Colour) -> None:
    w = look.half_width
    canvas.fill(_skullcap(look, 0.2, -0.62), colour)
    canvas.fill(ellipse(-0.3, -1.2, 0.22, 0.08, corners=14), shaded(colour, 1.35))
    canvas.stroke(np.array([(-w - 0.22, -0.6), (w + 0.22, -0.6)]), shaded(colour, 0.7), 0.09)
    for side in (-1, 1):
        strap = np.array([(w - 0.02, -0.58), (0.93 * w, 0.3), (0.45 * w, 0.98)])
        canvas.stroke(mirrored(strap, side), (40, 40, 44), 0.05)
