"""What `latentface detect` says of a latent: the JSON file, the picture with boxes, the printed table."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from latentface.codecs.at_hand import decoder_at_hand
from latentface.codecs.base import NO_CODEC, Codec
from latentface.data.manifest import ManifestRow
from latentface.data.mirror import shown
from latentface.data.pictures import decode_picture
from latentface.files import make_folder, replacing
from latentface.inference.detect_config import DetectConfig
from latentface.inference.detector import Detector
from latentface.inference.draw import draw_faces, place_photograph, render_latent, save_picture
from latentface.inference.inputs import is_picture
from latentface.inference.sources import Source
from latentface.model.faces import Faces
from latentface.words import counted

TABLE_ROWS = 50


def write_result(source: Source, faces: Faces, config: DetectConfig, detector: Detector, codec: Codec | None) -> None:
    """`<name>.json` and, where pictures are wanted, `<name>.png` in `--out`."""
    out = make_folder(config.out, "--out")
    content = describe(source, faces, detector.stride)
    content |= {
        "weight": Path(config.weight).name,
        "confidence": config.conf,
        "nms": config.nms,
        "faces": content.pop("faces"),
    }
    with replacing(out / f"{source.name}.json", flush=False) as temporary:
        temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    if not config.no_pictures:
        ground, row = _ground(source, config, detector, codec), source.row
        if row:
            ground = ground[: row.content_height, : row.content_width]
        save_picture(out / f"{source.name}.png", draw_faces(ground, faces))


def describe(source: Source, faces: Faces, stride: int) -> dict[str, Any]:
    """Plain values for a file. Boxes are x1 y1 x2 y2 and landmarks five x y, picture pixels.

    `photograph_box` and `photograph_landmarks` are the same in pixels of the photograph, where it is known how that
    lies in the picture.
    """
    row, unknown = source.row, [None] * len(faces)
    boxes = row.to_photograph(faces.boxes) if row else unknown
    landmarks = row.points_to_photograph(faces.landmarks) if row else unknown
    return {
        "latent": shown(source.path),
        "codec": (source.codec_said or None) if source.codec in NO_CODEC else source.codec,
        "rate": source.rate,
        "picture_width": source.array.shape[2] * stride,
        "picture_height": source.array.shape[1] * stride,
        "photograph": _photograph(source.row),
        "faces": [
            {
                "box": _rounded(box, 2),
                "score": _rounded(score, 4),
                "landmarks": _rounded(points, 2),
                "photograph_box": _rounded(there, 2),
                "photograph_landmarks": _rounded(points_there, 2),
            }
            for box, score, points, there, points_there in zip(
                faces.boxes, faces.scores, faces.landmarks, boxes, landmarks, strict=True
            )
        ],
    }


def _rounded(values: np.ndarray | None, digits: int) -> Any:
    """Plain numbers with no more digits than that, which float32 would have; None for what is not known."""
    if values is None or not np.isfinite(values).all():
        return None
    return np.asarray(values, np.float64).round(digits).tolist()


def _photograph(row: ManifestRow | None) -> dict[str, object] | None:
    """Where the photograph lies in the picture: x_picture = (x - crop_x) * scale_x, likewise y; then mirrored."""
    if row is None:
        return None
    names = ("source_width", "source_height", "scale_x", "scale_y", "crop", "mirrored")
    return {name: getattr(row, name) for name in names}


def _ground(source: Source, config: DetectConfig, detector: Detector, codec: Codec | None) -> np.ndarray:
    """What to draw over: the photograph, else the decoded latent or a preview of it, else the latent itself."""
    stride = detector.stride
    height, width = (side * stride for side in source.array.shape[1:])
    if config.image:
        return place_photograph(config.image, width, height, stride, source.row, config.fit)
    if is_picture(source.path):
        return place_photograph(source.path, width, height, stride, source.row)
    decoder = codec or decoder_at_hand((source.codec, detector.codec), source.array, source.rate)
    if decoder is not None:
        return decode_picture(decoder, source.array, source.rate, source.row)
    return render_latent(source.array, stride)


def table(source: Source, faces: Faces) -> str:
    """Boxes in the pixels that the input has: a photograph's own, or the coded picture's of a latent."""
    boxes, pixels = faces.boxes, "picture pixels"
    if source.row and is_picture(source.path):
        boxes, pixels = source.row.to_photograph(boxes), "pixels of the photograph"
    lines = [f"{source.name}: {counted(len(faces), 'face')}, {pixels}", "score      x1      y1      x2      y2"]
    for box, score in list(zip(boxes, faces.scores, strict=True))[:TABLE_ROWS]:
        lines.append(f"{score:5.2f} " + " ".join(f"{value:7.1f}" for value in box))
    if len(faces) > TABLE_ROWS:
        lines.append(f"... and {len(faces) - TABLE_ROWS} more, see the JSON file")
    return "\n".join(lines if len(faces) else lines[:1])
