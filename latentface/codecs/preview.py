"""A picture from a latent without its codec's networks: what one linear map per codec model sees of it.

Each cell and its four neighbours give the colours of 8x8 places, so that a latent of 40x40 cells becomes 320x320
pixels, enlarged to 640x640. Blurred, and at low rates in blocks, but enough to see what boxes lie on. The maps were
fitted by least squares (`fit`) on photographs whose latents are known.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import cv2
import numpy as np

from latentface.codecs.amplitudes import JPEG_AI_MODELS
from latentface.codecs.base import Latent, check_latent, crop_padding

JPEG_AI = ("jpegai", "jpegai-vm")  # codecs whose latents these are
FILE = Path(__file__).resolve().parents[1] / "weights" / "preview_jpegai.npz"
PLACES = 8  # per cell and direction
RIDGE = 1e-3  # of each input's own mean square, so that inputs that are nearly alike get no huge weights

PLAY, MOST_OUTSIDE = 0.1, 0.2  # beyond black and white, and the part of all values from which it is no picture
MOST_OFF = float(np.log(4))  # of a latent's amplitude from its model's: that of dull pictures is smaller
LOOKED_AT = 10  # cells around the middle

Example = tuple[int, np.ndarray, np.ndarray]  # codec model, latent [C, h, w], picture uint8 [H, W, 3]


@dataclass
class Preview:
    """Decodes latents of one codec, roughly; of `Codec` it has what a decoder needs."""

    maps: np.ndarray  # float16 [models, 5 C + 1, 3 * PLACES**2]: cell, above, below, left, right; 1
    model_of_rate: dict[int, int]
    name: str = "jpegai"
    stride: int = 16

    @property
    def channels(self) -> int:
        return (self.maps.shape[1] - 1) // 5

    def usual_model(self, rate: int) -> int:
        """Of the nearest rate that is known."""
        return self.model_of_rate[min(self.model_of_rate, key=lambda known: abs(known - rate))]

    def decode(self, latent: Latent) -> np.ndarray:
        """Latent [C, h, w] -> uint8 [16 h, 16 w, 3], the padding cut off."""
        check_latent(latent, self.name, self.channels)
        model = latent.model_index
        if model is None or model >= len(self.maps):
            model = self.usual_model(latent.rate)
        rows, columns = latent.array.shape[1:]
        small = _picture(np.clip(255 * self._seen(latent.array, model), 0, 255), rows, columns)
        size = (columns * self.stride, rows * self.stride)
        return crop_padding(cv2.resize(small.astype(np.uint8), size, interpolation=cv2.INTER_LINEAR), latent)

    def model_of(self, array: np.ndarray, rate: int) -> int | None:
        """Which model made [C, h, w], the usual one of the rate first; None for what is no latent of this codec.

        Its values have to be as large as that model's, and to give colours that there are.
        """
        if len(array) != self.channels:
            return None
        rows, columns = (slice(max(0, side // 2 - LOOKED_AT), side // 2 + LOOKED_AT) for side in array.shape[1:])
        part, usual = array[:, rows, columns], self.usual_model(rate)
        deviation, first = max(float(array.std()), 1e-9), max(float(array[0].std()), 1e-9)
        for model in (usual, *(other for other in range(len(self.maps)) if other != usual)):
            if abs(JPEG_AI_MODELS[model].distance(deviation, first)) < MOST_OFF:
                seen = self._seen(part, model)
                if np.mean((seen < -PLAY) | (seen > 1 + PLAY)) < MOST_OUTSIDE:
                    return model
        return None

    def of_model(self, rate: int, model: int) -> Preview:
        """For latents that another model than the usual one made at a rate."""
        return replace(self, model_of_rate=self.model_of_rate | {rate: model})

    def _seen(self, array: np.ndarray, model: int) -> np.ndarray:
        """[C, h, w] -> float32 [h * w, 3 * PLACES**2], 0 to 1 and somewhat beyond; part by part, to save memory."""
        *parts, last = np.split(self.maps[model].astype(np.float32), range(len(array), 5 * len(array) + 1, len(array)))
        seen = np.repeat(last, array[0].size, axis=0)
        for inputs, part in zip(_inputs(array), parts, strict=True):
            seen += inputs.T @ part
        return seen

    def save(self, path: Path) -> None:
        """Arrays of numbers only, so that reading executes nothing."""
        rates = np.array([*self.model_of_rate.items()])
        np.savez_compressed(path, maps=self.maps, model_of_rate=rates)

    @classmethod
    def load(cls, path: Path) -> Preview:
        """What `save` has written."""
        with np.load(path, allow_pickle=False) as file:
            return cls(file["maps"], dict(file["model_of_rate"].tolist()))


@cache
def preview_of_jpegai() -> Preview:
    """The one that comes along."""
    return Preview.load(FILE)


def fit(examples: Iterable[Example], model_of_rate: dict[int, int]) -> Preview:
    """The maps that come nearest to the pictures, by ridge regression over all cells of the examples of each model."""
    sums: dict[int, tuple[np.ndarray, np.ndarray]] = {}
    for model, latent, picture in examples:
        ones = np.ones((1, latent[0].size), np.float32)
        inputs, wanted = np.concatenate([*_inputs(latent), ones]).T, _colours(picture, *latent.shape[1:])
        if model not in sums:
            sums[model] = (np.zeros((inputs.shape[1],) * 2), np.zeros((inputs.shape[1], wanted.shape[1])))
        sums[model][0][:] += inputs.T @ inputs
        sums[model][1][:] += inputs.T @ wanted
    maps = [
        np.linalg.solve(square + RIDGE * np.diag(square.diagonal()), product)
        for _, (square, product) in sorted(sums.items())
    ]
    return Preview(np.stack(maps).astype(np.float16), model_of_rate)


def _inputs(latent: np.ndarray) -> Iterator[np.ndarray]:
    """[C, h, w] -> five times float32 [C, h * w]: each cell, and its neighbours; beyond the edge lies what is there."""
    channels, rows, columns = latent.shape
    padded = np.pad(np.asarray(latent, np.float32), ((0, 0), (1, 1), (1, 1)), mode="edge")
    for top, left in ((1, 1), (0, 1), (2, 1), (1, 0), (1, 2)):
        yield padded[:, top : top + rows, left : left + columns].reshape(channels, -1)


def _colours(picture: np.ndarray, rows: int, columns: int) -> np.ndarray:
    """uint8 [H, W, 3] -> float32 [rows * columns, 3 * PLACES**2] in 0..1: means over the places of each cell."""
    small = cv2.resize(picture, (columns * PLACES, rows * PLACES), interpolation=cv2.INTER_AREA)
    places = small.reshape(rows, PLACES, columns, PLACES, 3).transpose(0, 2, 1, 3, 4)
    return places.reshape(rows * columns, -1).astype(np.float32) / 255


def _picture(colours: np.ndarray, rows: int, columns: int) -> np.ndarray:
    """Undoes the order of `_colours`: [rows * columns, 3 * PLACES**2] -> [rows * PLACES, columns * PLACES, 3]."""
    places = colours.reshape(rows, columns, PLACES, PLACES, 3).transpose(0, 2, 1, 3, 4)
    return places.reshape(rows * PLACES, columns * PLACES, 3)
