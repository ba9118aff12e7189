"""What the page's server does with one photograph or latent. It keeps nothing of it."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from latentface.apps.bench_networks import random_model
from latentface.apps.bench_timing import elapsed
from latentface.codecs.at_hand import decoder_at_hand
from latentface.codecs.base import Codec
from latentface.data.pictures import decode_picture, picture_size, read_picture, render, whole_row
from latentface.data.stores import read_latent
from latentface.errors import LatentFaceError
from latentface.files import PICTURE_SUFFIXES, base_name
from latentface.inference.detector import Detector
from latentface.inference.draw import data_uri, grey, render_latent, strongest
from latentface.model.config import ModelConfig
from latentface.model.cost import gmac
from latentface.model.faces import Faces, Thresholds
from latentface.model.predict import predict
from latentface.model.retinaface import RetinaFace

LOWEST_CONFIDENCE = 0.05  # of what is sent: the page's slider chooses among these
MOST_FACES = 300
CHANNELS_SHOWN = 12
ROUNDS = 3  # of the clock
LARGEST_SIDE = 12_000  # pixels of a photograph
LARGEST_LATENT = 256 * 256  # cells: a picture of 4096 x 4096 at stride 16


@dataclass
class Looker:
    """A detector for each codec, and the codecs that can encode and decode here."""

    detectors: dict[str, Detector]
    codecs: dict[str, Codec]
    size: int = 640  # side of the square that photographs are brought to
    _twins: dict[str, RetinaFace] = field(default_factory=dict)
    _gmac: dict[tuple[str, int, int], dict[str, float | None]] = field(default_factory=dict)

    def look(self, name: str, content: bytes, codec: str, rate: int) -> dict[str, Any]:
        """Faces and everything the page shows, in plain values. Raises LatentFaceError for what cannot be looked at."""
        detector = self.detectors.get(codec)
        if detector is None:
            raise LatentFaceError(f"no detector for latents of {codec} here; there are {', '.join(self.detectors)}")
        detector.check_rate(rate)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / ("upload" + Path(name).suffix.lower())
            path.write_bytes(content)
            try:
                return self._look(path, codec, rate, detector) | {"name": base_name(name)}
            except LatentFaceError as error:
                raise LatentFaceError(str(error).replace(str(path), name)) from error

    def _look(self, path: Path, codec_name: str, rate: int, detector: Detector) -> dict[str, Any]:
        codec = self.codecs.get(codec_name)
        times: dict[str, float] = {}
        bits = bpp = row = None
        if path.suffix in PICTURE_SUFFIXES:
            if codec is None:
                raise LatentFaceError(
                    f"{path}: a photograph, and {codec_name} cannot encode here: start `latentface serve` with "
                    "--codec_weights, or choose dct"
                )
            row, picture = self._placed(path, codec.stride)
            pixels = row.content_width * row.content_height
            begin = time.perf_counter()
            [latent] = codec.encode_rates(picture, [rate], pixels)
            times["encode"] = time.perf_counter() - begin
            array, bpp, bits = latent.array, latent.bpp, latent.bpp * pixels
        elif path.suffix == ".npy":
            array = self._read(path, rate, detector)
        else:
            raise LatentFaceError(f"{path}: neither a photograph ({', '.join(sorted(PICTURE_SUFFIXES))}) nor a .npy")
        faces = detector(array, rate, confidence=LOWEST_CONFIDENCE)
        decoder = codec or decoder_at_hand((codec_name,), array, rate)
        shown = decode_picture(decoder, array, rate, None) if decoder else render_latent(array, detector.stride)
        height, width = (side * detector.stride for side in array.shape[1:])
        if row is not None:  # the padding is not worth looking at
            shown = shown[: row.content_height, : row.content_width]
        ways: dict[str, Callable[[], object]] = {
            "detect": lambda: detector(array, rate),
            "pixel_detect": self._pixel_way(detector, width, height),
        }
        if codec is not None:
            ways["decode"] = lambda: decode_picture(codec, array, rate, None)
        times.update(alternated(ways))
        return {
            "codec": codec_name,
            "rate": rate,
            "width": shown.shape[1],
            "height": shown.shape[0],
            "shape": list(array.shape),
            "bpp": bpp,
            "bits": bits,
            "seen_as": "decoded" if codec else "preview" if decoder else "channels",
            "faces": plain(faces),
            "picture": png(shown),
            "channels": strongest_channels(array),
            "milliseconds": {name: round(1000 * seconds, 1) for name, seconds in times.items()},
            "gmac": self._work(detector, codec_name, rate, array),
        }

    def _placed(self, path: Path, stride: int) -> tuple[Any, np.ndarray]:
        """Where the photograph lies in the coded picture, and that picture."""
        width, height = picture_size(path)
        if max(width, height) > LARGEST_SIDE:
            raise LatentFaceError(
                f"{path}: {width} x {height} pixels; make it smaller, at most {LARGEST_SIDE} a side are taken here"
            )
        rgb = read_picture(path)
        row = whole_row(path.name, rgb.shape[1], rgb.shape[0], self.size, "pad", stride)
        return row, render(rgb, row)

    def _read(self, path: Path, rate: int, detector: Detector) -> np.ndarray:
        stored = read_latent(path)
        if stored.shape[-1] * stored.shape[-2] > LARGEST_LATENT:
            raise LatentFaceError(
                f"{path}: {stored.shape[-2]} x {stored.shape[-1]} cells; at most {LARGEST_LATENT} here"
            )
        return detector.check_latent(stored, str(path), rate).copy()  # the file goes

    def _pixel_way(self, detector: Detector, width: int, height: int) -> Callable[[], object]:
        """The same detector on pixels, with random weights: its time does not depend on them."""
        twin = self._twin(detector.runtime.config.backbone)
        picture, rate = torch.zeros(1, 3, height, width), torch.zeros(1, dtype=torch.int64)
        return lambda: predict(twin, picture, rate, thresholds=Thresholds(confidence=0.5))

    def _twin(self, backbone: str) -> RetinaFace:
        if backbone not in self._twins:
            self._twins[backbone] = random_model(ModelConfig(backbone=backbone, input="picture"))
        return self._twins[backbone]

    def _work(self, detector: Detector, codec: str, rate: int, array: np.ndarray) -> dict[str, float | None]:
        """GMAC of both networks; None for an exported model, whose operations torch does not see."""
        key = (codec, *array.shape[1:])
        if key not in self._gmac:
            model: RetinaFace | None = getattr(detector.runtime, "model", None)
            twin, stride = self._twin(detector.runtime.config.backbone), detector.stride
            picture = torch.zeros(1, 3, array.shape[1] * stride, array.shape[2] * stride)
            rates = torch.tensor([rate])
            ours = gmac(model, torch.from_numpy(array)[None], rates) if model is not None else None
            self._gmac[key] = {"latent": ours, "pixels": gmac(twin, picture, rates)}
        return self._gmac[key]


def alternated(ways: Mapping[str, Callable[[], object]]) -> dict[str, float]:
    """Median seconds of each, taking turns: what else the machine does meets all of them."""
    seconds = [{name: elapsed(work) for name, work in ways.items()} for _ in range(ROUNDS)]
    return {name: float(np.median([one[name] for one in seconds])) for name in ways}


def plain(faces: Faces) -> list[dict[str, Any]]:
    """Best first; boxes `x1 y1 x2 y2` and landmarks `x y` in picture pixels."""
    found = zip(faces.boxes, faces.scores, faces.landmarks, strict=True)
    return [
        {
            "box": box.round(1).tolist(),
            "score": round(float(score), 4),
            "landmarks": points.round(1).tolist() if np.isfinite(points).all() else None,
        }
        for box, score, points in list(found)[:MOST_FACES]
    ]


def strongest_channels(array: np.ndarray) -> list[dict[str, Any]]:
    """[C, h, w] -> the channels of the largest deviation, each as a grey picture of one pixel per cell."""
    return [
        {"channel": channel, "deviation": round(float(array[channel].std()), 2), "picture": png(grey(array[channel]))}
        for channel in strongest(array)[:CHANNELS_SHOWN].tolist()
    ]


def png(picture: np.ndarray) -> str:
    """As an address that holds the picture itself."""
    return data_uri(picture, "png", compress_level=1)
