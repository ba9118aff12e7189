"""A supersampled RGBA canvas, the curves that are filled on it, and colours.

Shapes are polygons in their own units (a head: 1 = half the face's height); a 2x3 matrix takes units to picture
pixels. A canvas covers only the part of the picture that a thing needs, so its cost follows the thing's size.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache

import cv2
import numpy as np

Colour = tuple[float, float, float]  # red, green, blue, 0..255
Warp = Callable[[np.ndarray], np.ndarray]  # [N, 2] units -> [N, 2] units
FIXED_POINT_BITS = 4  # of the polygon corners handed to OpenCV


@dataclass(frozen=True)
class Canvas:
    """Pixels under way to a picture; `fill` and `stroke` take points in units."""

    pixels: np.ndarray  # uint8 [h * supersample, w * supersample, 4], colour only where alpha is 255
    bounds: tuple[int, int, int, int]  # x1 y1 x2 y2 of the covered part, picture pixels
    supersample: int
    matrix: np.ndarray  # [2, 3] units -> picture pixels
    warp: Warp | None = None  # bends the units first, e.g. for a turned head

    def warped(self, warp: Warp) -> Canvas:
        """The same pixels, drawn on through a warp."""
        return replace(self, warp=warp)

    def fill(self, points: np.ndarray, colour: Colour) -> None:
        """A filled polygon; points [N, 2] units."""
        cv2.fillPoly(self.pixels, [self._corners(points)], (*colour, 255), cv2.LINE_8, FIXED_POINT_BITS)

    def stroke(self, points: np.ndarray, colour: Colour, width: float, closed: bool = False) -> None:
        """A line through points [N, 2], `width` units thick and never thinner than one canvas pixel."""
        thickness = max(1, round(width * self.supersample * float(np.hypot(*self.matrix[:, 0]))))
        corners = [self._corners(points)]
        cv2.polylines(self.pixels, corners, closed, (*colour, 255), thickness, cv2.LINE_8, FIXED_POINT_BITS)

    def _corners(self, points: np.ndarray) -> np.ndarray:
        points = np.asarray(points, dtype=np.float64)
        if self.warp is not None:
            points = self.warp(points)
        pixels = (transform(self.matrix, points) - self.bounds[:2]) * self.supersample
        return np.round(pixels * (1 << FIXED_POINT_BITS)).astype(np.int32)

    def shrunk(self) -> np.ndarray:
        """uint8 [h, w, 4] at the picture's resolution, colour premultiplied by alpha."""
        x1, y1, x2, y2 = self.bounds
        return cv2.resize(self.pixels, (x2 - x1, y2 - y1), interpolation=cv2.INTER_AREA)


def open_canvas(picture: np.ndarray, matrix: np.ndarray, extent: tuple[float, ...], supersample: int) -> Canvas | None:
    """An empty canvas over `extent` (x1 y1 x2 y2, units); None where nothing of it lies in the picture."""
    x1, y1, x2, y2 = extent
    corners = transform(matrix, np.array([[x1, y1], [x2, y1], [x2, y2], [x1, y2]]))
    limit = np.array(picture.shape[1::-1])
    low = np.clip(np.floor(corners.min(axis=0)), 0, limit).astype(int)
    high = np.clip(np.ceil(corners.max(axis=0)), 0, limit).astype(int)
    if (high <= low).any():
        return None
    width, height = (high - low) * supersample
    bounds = (int(low[0]), int(low[1]), int(high[0]), int(high[1]))
    return Canvas(np.zeros((height, width, 4), np.uint8), bounds, supersample, matrix)


def paste(picture: np.ndarray, patch: np.ndarray, bounds: tuple[int, int, int, int]) -> None:
    """Lays a premultiplied patch uint8 [h, w, 4] over the picture, in place."""
    x1, y1, x2, y2 = bounds
    below = picture[y1:y2, x1:x2]
    transparency = cv2.bitwise_not(cv2.cvtColor(cv2.extractChannel(patch, 3), cv2.COLOR_GRAY2RGB))
    below[:] = cv2.add(cv2.multiply(below, transparency, scale=1 / 255), np.ascontiguousarray(patch[:, :, :3]))


def placement(centre: tuple[float, float], scale: float, angle: float) -> np.ndarray:
    """The matrix [2, 3] that scales, turns by `angle` (radians, clockwise in the picture) and moves to `centre`."""
    cosine, sine = scale * np.cos(angle), scale * np.sin(angle)
    return np.array([[cosine, -sine, centre[0]], [sine, cosine, centre[1]]])


def transform(matrix: np.ndarray, points: np.ndarray) -> np.ndarray:
    """[2, 3], [N, 2] -> [N, 2]."""
    return points @ matrix[:, :2].T + matrix[:, 2]


def ellipse(x: float, y: float, radius_x: float, radius_y: float | None = None, corners: int = 24) -> np.ndarray:
    """Points [N, 2] around an ellipse; a circle where `radius_y` is left out."""
    return _circle(corners) * np.array([radius_x, radius_x if radius_y is None else radius_y]) + np.array([x, y])


@lru_cache
def _circle(corners: int) -> np.ndarray:
    angles = np.linspace(0, 2 * np.pi, corners, endpoint=False)
    return np.stack([np.cos(angles), np.sin(angles)], axis=1)


def rectangle(x1: float, y1: float, x2: float, y2: float) -> np.ndarray:
    """The four corners [4, 2]."""
    return np.array([[x1, y1], [x2, y1], [x2, y2], [x1, y2]])


def arc(
    first: tuple[float, float], middle: tuple[float, float], last: tuple[float, float], count: int = 9
) -> np.ndarray:
    """Points [N, 2] of the parabola that starts at `first`, passes `middle` half-way and ends at `last`."""
    t = np.linspace(0, 1, count)[:, None]
    a, m, b = np.array(first), np.array(middle), np.array(last)
    return a * (1 - t) * (1 - 2 * t) + m * 4 * t * (1 - t) + b * t * (2 * t - 1)


def smooth(points: np.ndarray, steps: int = 6) -> np.ndarray:
    """A closed Catmull-Rom curve through points [N, 2] -> [N * steps, 2]."""
    before, after, far = np.roll(points, 1, axis=0), np.roll(points, -1, axis=0), np.roll(points, -2, axis=0)
    t = (np.arange(steps) / steps)[:, None, None]
    curve = (
        2 * points
        + (after - before) * t
        + (2 * before - 5 * points + 4 * after - far) * t**2
        + (3 * points - before - 3 * after + far) * t**3
    ) / 2  # [steps, N, 2]
    return curve.transpose(1, 0, 2).reshape(-1, 2)


def mirrored(points: np.ndarray, side: int) -> np.ndarray:
    """Points [N, 2] with x flipped where `side` is -1."""
    return points * np.array([side, 1.0])


def mix(first: Colour, second: Colour, share: float) -> Colour:
    """`first` with `share` (0..1) of `second` in it."""
    return (
        first[0] + (second[0] - first[0]) * share,
        first[1] + (second[1] - first[1]) * share,
        first[2] + (second[2] - first[2]) * share,
    )


def shaded(colour: Colour, factor: float) -> Colour:
    """Darker (factor < 1) or lighter (> 1), within 0..255."""
    return (min(255.0, colour[0] * factor), min(255.0, colour[1] * factor), min(255.0, colour[2] * factor))


def random_colour(
    rng: np.random.Generator, saturation: tuple[float, float] = (0.1, 0.7), value: tuple[float, float] = (0.3, 0.95)
) -> Colour:
    """Any hue, with saturation and value (0..1) uniform in their ranges."""
    hue, grey, bright = rng.uniform(0, 6), rng.uniform(*saturation), rng.uniform(*value)
    red, green, blue = (np.clip(abs((hue + shift) % 6 - 3) - 1, 0, 1) for shift in (0, 4, 2))
    return tuple(float(255 * bright * (1 - grey * (1 - part))) for part in (red, green, blue))  # type: ignore[return-value]
