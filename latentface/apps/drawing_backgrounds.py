"""Backgrounds of drawn pictures: sky, walls, bricks, leaves, streets, noise, and the clutter in front of them."""

from __future__ import annotations

import cv2
import numpy as np

from latentface.apps.drawing_canvas import Colour, mix, random_colour, shaded

LETTERS = "ABCDEFGHKLMNPRSTUXYZabdefghkmnoprstuy0123456789"


def draw_background(rng: np.random.Generator, width: int, height: int) -> np.ndarray:
    """A scene without people, uint8 [height, width, 3]."""
    scenes = (_gradient, _landscape, _bricks, _planks, _foliage, _noise, _street, _room, _wallpaper)
    picture = scenes[rng.choice(len(scenes))](rng, width, height)
    for clutter in (_polygons, _furniture, _writing, _wires):
        if rng.random() < 0.3:
            clutter(picture, rng)
    return picture


def fractal_noise(rng: np.random.Generator, width: int, height: int, octaves: int = 5) -> np.ndarray:
    """float32 [height, width] in 0..1: random grids of 2, 4, 8 ... cells, each half as strong as the one before."""
    total = np.zeros((height, width), np.float32)
    for octave in range(octaves):
        cells = 2 << octave
        grid = rng.random((cells + 1, cells + 1), dtype=np.float32) * 0.5**octave
        total += cv2.resize(grid, (width, height), interpolation=cv2.INTER_LINEAR)
    return np.clip((total - 0.45) / 1.05, 0, 1)


def _two_tone(share: np.ndarray, first: Colour, second: Colour) -> np.ndarray:
    """Share 0..1 float32 [H, W] -> uint8 [H, W, 3] between two colours."""
    table = np.linspace(first, second, 256).astype(np.uint8)[None]  # [1, 256, 3]
    return cv2.LUT(cv2.cvtColor((share * 255).astype(np.uint8), cv2.COLOR_GRAY2RGB), table)


def _gradient(rng: np.random.Generator, width: int, height: int) -> np.ndarray:
    base = random_colour(rng, (0.05, 0.5), (0.35, 0.95))
    corners = [
        [mix(base, random_colour(rng, (0.05, 0.5), (0.3, 0.95)), rng.uniform(0, 0.7)) for _ in "ab"] for _ in "ab"
    ]
    return (
        cv2.resize(np.array(corners, np.float32), (width, height), interpolation=cv2.INTER_CUBIC)
        .clip(0, 255)
        .astype(np.uint8)
    )


def _noise(rng: np.random.Generator, width: int, height: int) -> np.ndarray:
    base = random_colour(rng, (0.05, 0.6), (0.3, 0.9))
    return _two_tone(fractal_noise(rng, width, height, int(rng.integers(3, 7))), shaded(base, 0.5), shaded(base, 1.25))


def _landscape(rng: np.random.Generator, width: int, height: int) -> np.ndarray:
    """Sky with clouds over hills."""
    sky = mix((110, 165, 225), random_colour(rng, (0.1, 0.5), (0.6, 0.95)), rng.uniform(0, 0.5))
    clouds = np.clip(fractal_noise(rng, width, height) * 2.2 - rng.uniform(0.5, 1.2), 0, 1)
    picture = _two_tone(clouds, sky, (246, 246, 248))
    across = np.arange(0, width + 8, 8)
    horizon = rng.uniform(0.4, 0.75) * height
    ground = mix((90, 130, 70), random_colour(rng, (0.2, 0.5), (0.3, 0.7)), rng.uniform(0, 0.7))
    for layer in range(4):
        wave = np.sin(across / width * rng.uniform(3, 9) + rng.uniform(0, 6)) * rng.uniform(0.01, 0.07) * height
        ridge = np.stack([across, horizon + layer * 0.14 * height + wave], axis=1)
        hill = np.concatenate([ridge, [[width + 8, height], [0, height]]]).astype(np.int32)
        cv2.fillPoly(picture, [hill], mix(ground, sky, 0.45 - 0.15 * layer), cv2.LINE_AA)
    return picture


def _bricks(rng: np.random.Generator, width: int, height: int) -> np.ndarray:
    brick_height = int(rng.integers(7, 22))
    brick_width = int(brick_height * rng.uniform(1.6, 2.8))
    base = mix((156, 84, 66), random_colour(rng, (0.05, 0.5), (0.4, 0.9)), rng.uniform(0, 0.8))
    rows, columns = height // brick_height + 1, width // brick_width + 2
    tint = np.array(base) * rng.uniform(0.78, 1.15, (rows, columns, 1))
    picture = cv2.resize(
        tint.clip(0, 255).astype(np.uint8),
        (columns * brick_width, rows * brick_height),
        interpolation=cv2.INTER_NEAREST,
    )
    joint = max(1, brick_height // 9)
    picture[:, ::brick_width] = picture[:, joint - 1 :: brick_width] = shaded(base, 1.3)
    for row in range(1, rows, 2):
        course = picture[row * brick_height : (row + 1) * brick_height]
        course[:] = np.roll(course, brick_width // 2, axis=1)
    for line in range(joint):
        picture[line::brick_height] = shaded(base, 1.3)
    return np.ascontiguousarray(picture[:height, :width])


def _planks(rng: np.random.Generator, width: int, height: int) -> np.ndarray:
    """Wood: long streaks, and gaps between the boards; upright or lying."""
    base = mix((150, 108, 70), random_colour(rng, (0.05, 0.4), (0.4, 0.9)), rng.uniform(0, 0.6))
    streaks = cv2.resize(
        rng.random((4, width // 2 + 1), dtype=np.float32), (width, height), interpolation=cv2.INTER_LINEAR
    )
    picture = _two_tone(streaks, shaded(base, 0.75), shaded(base, 1.15))
    board = int(rng.integers(16, 60))
    for x in range(int(rng.integers(board)), width, board):
        picture[:, x : x + 1 + board // 24] = shaded(base, 0.4)
    return cv2.resize(cv2.rotate(picture, cv2.ROTATE_90_CLOCKWISE), (width, height)) if rng.random() < 0.5 else picture


def _foliage(rng: np.random.Generator, width: int, height: int) -> np.ndarray:
    green = mix((64, 118, 52), random_colour(rng, (0.3, 0.8), (0.3, 0.8)), rng.uniform(0, 0.5))
    picture = _two_tone(fractal_noise(rng, width, height), shaded(green, 0.3), shaded(green, 1.1))
    size = rng.uniform(0.012, 0.05) * max(width, height)
    count = int(min(150, 0.5 * width * height / size**2))
    places = rng.integers(0, (width, height), (count, 2))
    turns, tones = rng.uniform(0, 180, count), rng.uniform(0.45, 1.5, count)
    for (x, y), turn, tone in zip(places.tolist(), turns.tolist(), tones.tolist(), strict=True):
        axes = (int(size) + 1, int(0.5 * size) + 1)
        cv2.ellipse(picture, (x, y), axes, turn, 0, 360, shaded(green, tone), cv2.FILLED, cv2.LINE_AA)
    return picture


def _street(rng: np.random.Generator, width: int, height: int) -> np.ndarray:
    """Houses with rows of windows, a pavement below."""
    picture = _gradient(rng, width, height)
    floor = int(rng.uniform(0.7, 0.95) * height)
    x = 0
    while x < width:
        house = int(rng.uniform(0.15, 0.4) * width) + 8
        top = int(rng.uniform(0.05, 0.45) * height)
        colour, step = random_colour(rng, (0.05, 0.45), (0.35, 0.9)), max(8, house // int(rng.integers(3, 7)))
        cv2.rectangle(picture, (x, top), (x + house, floor), colour, cv2.FILLED)
        pane = shaded(colour, 0.45) if rng.random() < 0.7 else (250.0, 226.0, 150.0)
        for wy in range(top + step // 2, floor - step, step + step // 3):
            for wx in range(x + step // 4, x + house - step // 2, step):
                cv2.rectangle(picture, (wx, wy), (wx + step // 2, wy + 3 * step // 4), pane, cv2.FILLED)
        x += house
    cv2.rectangle(picture, (0, floor), (width, height), random_colour(rng, (0.0, 0.15), (0.4, 0.7)), cv2.FILLED)
    return picture


def _room(rng: np.random.Generator, width: int, height: int) -> np.ndarray:
    """A wall, a floor, pictures on the wall and cupboards."""
    wall = random_colour(rng, (0.05, 0.35), (0.6, 0.95))
    picture = np.empty((height, width, 3), np.uint8)
    picture[:] = wall
    floor = int(rng.uniform(0.6, 0.9) * height)
    picture[floor:] = mix((140, 100, 66), wall, rng.uniform(0, 0.5))
    picture[floor : floor + max(2, height // 60)] = shaded(wall, 1.15)
    for _ in range(rng.integers(1, 5)):  # framed pictures
        x, y = (int(v) for v in rng.uniform((0, 0), (0.9 * width, 0.4 * height)))
        w, h = (int(v) for v in rng.uniform(0.08, 0.3, 2) * min(width, height))
        cv2.rectangle(picture, (x, y), (x + w, y + h), random_colour(rng, (0.1, 0.6), (0.2, 0.6)), cv2.FILLED)
        cv2.rectangle(picture, (x + 3, y + 3), (x + w - 3, y + h - 3), random_colour(rng), cv2.FILLED)
    _furniture(picture, rng)
    return picture


def _wallpaper(rng: np.random.Generator, width: int, height: int) -> np.ndarray:
    """Stripes, checks or dots."""
    first = random_colour(rng, (0.05, 0.45), (0.5, 0.95))
    second = mix(first, random_colour(rng, (0.1, 0.7), (0.3, 0.9)), rng.uniform(0.15, 0.6))
    step = rng.uniform(5, 24)
    x = np.sin(np.arange(width, dtype=np.float32) * np.float32(np.pi / step))
    y = np.sin(np.arange(height, dtype=np.float32) * np.float32(np.pi / step * rng.choice((0.0, 1.0))))[:, None]
    pattern = x * y if rng.random() < 0.5 and y.any() else x + y
    return _two_tone(np.clip(pattern * 4 + 0.5, 0, 1), first, second)


def _polygons(picture: np.ndarray, rng: np.random.Generator) -> None:
    height, width = picture.shape[:2]
    for _ in range(rng.integers(2, 9)):
        middle = rng.uniform((0, 0), (width, height))
        turns = np.sort(
            rng.uniform(0, 2 * np.pi, int(rng.integers(3, 8)))
        )  # around the middle, so that no side crosses
        reach = rng.uniform(0.04, 0.2, len(turns)) * min(width, height)
        corners = middle + np.stack([reach * np.cos(turns), reach * np.sin(turns)], axis=1)
        cv2.fillPoly(picture, [corners.astype(np.int32)], random_colour(rng), cv2.LINE_AA)


def _furniture(picture: np.ndarray, rng: np.random.Generator) -> None:
    """Cupboards and shelves: boxes with drawers or rows of books."""
    height, width = picture.shape[:2]
    for _ in range(rng.integers(1, 4)):
        w, h = (int(v) for v in rng.uniform(0.12, 0.4, 2) * (width, height))
        x, y = int(rng.uniform(-0.1, 0.9) * width), int(rng.uniform(0.3, 0.9) * height)
        colour = mix((134, 94, 60), random_colour(rng, (0.05, 0.6), (0.2, 0.9)), rng.uniform(0, 1))
        cv2.rectangle(picture, (x, y), (x + w, y + h), colour, cv2.FILLED)
        rows = int(rng.integers(1, 5))
        for row in range(rows):
            top, bottom = y + row * h // rows + 2, y + (row + 1) * h // rows - 2
            cv2.rectangle(picture, (x + 3, top), (x + w - 3, bottom), shaded(colour, 0.7), 1 + w // 60)
            cv2.circle(picture, (x + w // 2, (top + bottom) // 2), 1 + h // 50, shaded(colour, 0.4), cv2.FILLED)


def _writing(picture: np.ndarray, rng: np.random.Generator) -> None:
    """Signs and lines of letters."""
    height, width = picture.shape[:2]
    for _ in range(rng.integers(1, 5)):
        text = "".join(rng.choice(list(LETTERS), int(rng.integers(2, 12))))
        x, y = (int(v) for v in rng.uniform((-0.1 * width, 0.05 * height), (0.8 * width, height)))
        scale = float(rng.uniform(0.3, 1.6))
        if rng.random() < 0.4:
            end = (x + int(18 * scale * len(text)), y + int(9 * scale))
            cv2.rectangle(
                picture, (x - 4, y - int(28 * scale)), end, random_colour(rng, (0.0, 0.8), (0.5, 1.0)), cv2.FILLED
            )
        font = int(rng.choice((cv2.FONT_HERSHEY_SIMPLEX, cv2.FONT_HERSHEY_DUPLEX, cv2.FONT_HERSHEY_TRIPLEX)))
        cv2.putText(
            picture, text, (x, y), font, scale, random_colour(rng, (0, 0.9), (0.05, 0.95)), 1 + int(scale), cv2.LINE_AA
        )


def _wires(picture: np.ndarray, rng: np.random.Generator) -> None:
    """Poles, branches, cables."""
    height, width = picture.shape[:2]
    for _ in range(rng.integers(2, 8)):
        ends = rng.uniform((0, 0), (width, height), (3, 2)).astype(np.int32)
        cv2.polylines(
            picture, [ends], False, random_colour(rng, (0, 0.5), (0.1, 0.8)), int(rng.integers(1, 6)), cv2.LINE_AA
        )
