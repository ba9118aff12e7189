"""Faces drawn over a picture, and a picture to draw them over."""

from __future__ import annotations

import base64
import io
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from latentface.data.manifest import ManifestRow
from latentface.data.pictures import framed_row, read_picture, render
from latentface.errors import LatentFaceError
from latentface.files import replacing
from latentface.model.faces import Faces

# Okabe and Ito's colours: told apart by colour-blind people too. RGB.
BOX, DARK = (230, 159, 0), (0, 0, 0)
LANDMARKS = ((0, 114, 178), (86, 180, 233), (0, 158, 115), (213, 94, 0), (204, 121, 167))
MOST_SHOWN = 200  # faces, the best: more would hide the picture
SMALLEST_SIDE = 640  # small pictures are enlarged so that scores can be read
CROWD, SMALL_FACE = 20, 24  # of more faces, half of them lower in drawn pixels, the picture is drawn twice as large
LARGEST_SIDE = 4096  # that this comes to at most


def draw_faces(picture: np.ndarray, faces: Faces) -> np.ndarray:
    """RGB uint8 [H, W, 3] with boxes, scores and landmarks; small pictures, and crowds, come back enlarged.

    A score that would cover a face or a better one's score is left out, and so are landmarks of small faces.
    """
    scale = max(1, -(-SMALLEST_SIDE // max(picture.shape[:2])))
    heights = faces.boxes[:, 3] - faces.boxes[:, 1]
    if (
        len(faces) > CROWD
        and np.median(heights) * scale < SMALL_FACE
        and max(picture.shape) * scale <= LARGEST_SIDE / 2
    ):
        scale *= 2
    canvas = np.ascontiguousarray(cv2.resize(picture, None, fx=scale, fy=scale, interpolation=cv2.INTER_CUBIC))
    boxes = np.rint(faces.boxes[:MOST_SHOWN] * scale).astype(int)
    for box, points in zip(boxes[::-1], faces.landmarks[:MOST_SHOWN][::-1] * scale, strict=True):
        small = box[3] - box[1] < SMALL_FACE
        for colour, width in ((DARK, 2 if small else 4), (BOX, 1 if small else 2)):  # a dark rim shows on any ground
            cv2.rectangle(canvas, box[:2].tolist(), box[2:].tolist(), colour, width, cv2.LINE_AA)
        if not small and np.isfinite(points).all():
            _dots(canvas, points, radius=max(1, round((box[2] - box[0]) / 30)))
    taken = boxes.tolist()
    for box, score in zip(boxes.tolist(), faces.scores, strict=False):
        _score(canvas, f"{score:.2f}", box, taken)
    return canvas


def _dots(canvas: np.ndarray, points: np.ndarray, radius: int) -> None:
    for point, colour in zip(np.rint(points).astype(int).tolist(), LANDMARKS, strict=True):
        cv2.circle(canvas, point, radius + 1, DARK, -1, cv2.LINE_AA)
        cv2.circle(canvas, point, radius, colour, -1, cv2.LINE_AA)


def _score(canvas: np.ndarray, text: str, box: list[int], taken: list[list[int]]) -> None:
    """Above the box, else below it, where nothing of `taken` lies; which it then is part of.

    In its own box where that reaches from top to bottom.
    """
    font, size = cv2.FONT_HERSHEY_SIMPLEX, 0.42
    (width, height), _ = cv2.getTextSize(text, font, size, 1)
    width, height = width + 4, height + 6
    left = max(0, min(box[0], canvas.shape[1] - width))
    tops = (box[1] - height, box[3] + 1)
    for top in tops if tops[0] >= 0 or tops[1] + height <= len(canvas) else (max(0, box[1]),):
        place = [left, top, left + width, top + height]
        if top < 0 or place[3] > len(canvas) or any(_overlap(place, other) for other in taken if other != box):
            continue
        cv2.rectangle(canvas, place[:2], place[2:], BOX, -1)
        cv2.putText(canvas, text, (left + 2, place[3] - 3), font, size, DARK, 1, cv2.LINE_AA)
        taken.append(place)
        return


def _overlap(one: list[int], other: list[int]) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def render_latent(latent: np.ndarray, stride: int) -> np.ndarray:
    """The latent itself as a picture: its three strongest channels as red, green, blue, one square per cell.

    [C, h, w] -> uint8 [h * stride, w * stride, 3].
    """
    array = np.asarray(latent, dtype=np.float32)
    order = strongest(array)
    cells = np.stack([grey(array[order[min(place, len(order) - 1)]]) for place in range(3)], axis=-1)
    return cells.repeat(stride, axis=0).repeat(stride, axis=1)


def strongest(array: np.ndarray) -> np.ndarray:
    """Channels of [C, h, w], those of the largest deviation first; of equals the codec's order."""
    return np.argsort(-array.std(axis=(1, 2)), kind="stable")


def grey(channel: np.ndarray) -> np.ndarray:
    """[h, w] -> uint8, its lowest and highest percent black and white."""
    low, high = (np.percentile(channel, q, keepdims=True) for q in (1, 99))
    return (255 * np.clip((channel - low) / np.maximum(high - low, 1e-6), 0, 1)).astype(np.uint8)


def data_uri(picture: np.ndarray, kind: str, **options: int) -> str:
    """uint8 [H, W, 3] or [H, W] as an address that holds the picture itself; `kind`: png or jpeg."""
    file = io.BytesIO()
    Image.fromarray(picture).save(file, format=kind, **options)
    return f"data:image/{kind};base64," + base64.b64encode(file.getvalue()).decode("ascii")


def place_photograph(
    path: str | Path, width: int, height: int, stride: int, row: ManifestRow | None, fit: str = "auto"
) -> np.ndarray:
    """A photograph brought into the frame of the coded picture, uint8 [height, width, 3].

    By the manifest where there is one; else by `fit`, see `framed_row`.
    """
    rgb = read_picture(path)
    source_height, source_width = rgb.shape[:2]
    if row is None:
        return render(rgb, framed_row(Path(path).name, source_width, source_height, width, height, stride, fit))
    if (source_width, source_height) != (row.source_width, row.source_height):
        raise LatentFaceError(
            f"{path} is {source_width}x{source_height}, the latent was made from "
            f"{row.source_width}x{row.source_height}: give the same photograph, or none"
        )
    return render(rgb, row)


def save_picture(path: Path, rgb: np.ndarray) -> None:
    with replacing(path, flush=False) as temporary:
        Image.fromarray(rgb).save(temporary, format="PNG")
