"""Faces drawn over a picture, and a picture to draw them over."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from latentface.codecs import open_codec
from latentface.codecs.base import Decoder, Latent
from latentface.codecs.preview import preview_of_jpegai
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


def draw_faces(picture: np.ndarray, faces: Faces) -> np.ndarray:
    """RGB uint8 [H, W, 3] with boxes, scores and landmarks; small pictures come back enlarged."""
    scale = max(1, -(-SMALLEST_SIDE // max(picture.shape[:2])))
    canvas = np.ascontiguousarray(cv2.resize(picture, None, fx=scale, fy=scale, interpolation=cv2.INTER_CUBIC))
    shown = list(zip(faces.boxes, faces.scores, faces.landmarks, strict=True))[:MOST_SHOWN]
    for box, score, points in reversed(shown):
        x1, y1, x2, y2 = (round(float(v) * scale) for v in box)
        for colour, width in ((DARK, 4), (BOX, 2)):  # a dark rim shows on any ground
            cv2.rectangle(canvas, (x1, y1), (x2, y2), colour, width, cv2.LINE_AA)
        radius = max(1, round((x2 - x1) / 30))
        for point, colour in zip(points if np.isfinite(points).all() else (), LANDMARKS, strict=False):
            centre = (round(float(point[0]) * scale), round(float(point[1]) * scale))
            cv2.circle(canvas, centre, radius + 1, DARK, -1, cv2.LINE_AA)
            cv2.circle(canvas, centre, radius, colour, -1, cv2.LINE_AA)
        _score(canvas, f"{score:.2f}", x1, y1, y2)
    return canvas


def _score(canvas: np.ndarray, text: str, x: int, above: int, below: int) -> None:
    """Above the box, else below it, so that the face stays visible."""
    font, size = cv2.FONT_HERSHEY_SIMPLEX, 0.42
    (width, height), _ = cv2.getTextSize(text, font, size, 1)
    top = above - height - 6 if above > height + 6 else min(below, len(canvas) - height - 6)
    cv2.rectangle(canvas, (x, top), (x + width + 4, top + height + 6), BOX, -1)
    cv2.putText(canvas, text, (x + 2, top + height + 3), font, size, DARK, 1, cv2.LINE_AA)


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


def decoder_at_hand(names: Iterable[str], array: np.ndarray, rate: int) -> Decoder | None:
    """What makes a picture of a latent [C, h, w] without more files, by the first of `names` that says its codec.

    Of JPEG AI it is a preview; of an unknown codec too, if it recognises the latent: the documented dataset has no
    manifest.
    """
    name, preview = next((name for name in names if name not in ("", "unknown")), ""), preview_of_jpegai()
    if name in ("dct", "pixels"):
        return open_codec(name)
    wanted = name in ("jpegai", "jpegai-vm") or (not name and preview.recognises(array, rate))
    return preview if wanted and len(array) == preview.channels else None


def decode_picture(codec: Decoder, array: np.ndarray, rate: int, row: ManifestRow | None) -> np.ndarray:
    """The picture that a latent holds, whole (with its padding)."""
    entry = row.latents.get(rate) if row else None
    height, width = array.shape[1] * codec.stride, array.shape[2] * codec.stride
    latent = Latent(
        array=np.asarray(array, dtype=np.float32),
        codec=codec.name,
        rate=rate,
        model_index=entry.model_index if entry else codec.usual_model(rate),
        step=entry.step if entry else None,
        bpp=(entry and entry.bpp) or 0.0,
        source_width=width,
        source_height=height,
        exact=bool(entry and entry.exact),
        stride=codec.stride,
    )
    return codec.decode(latent)


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
