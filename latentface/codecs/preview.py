"""A picture from a latent without its codec's networks: what one linear map per codec model sees of it.

Each cell and its four neighbours give the colours of 8x8 places, so that a latent of 40x40 cells becomes 320x320
pixels, enlarged to 640x640. Blurred, and at low rates in blocks, but enough to see what boxes lie on. The maps were
fitted by least squares (`fit`) on photographs whose latents are known.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import cv2
import numpy as np

from latentface.codecs.base import Latent, check_latent, crop_padding

FILE = Path(__file__).resolve().parents[1] / "weights" / "preview_jpegai.npz"
PLACES = 8  # per cell and direction
RIDGE = 1e-3  # of each input's own mean square, so that inputs that are nearly alike get no huge weights

PLAY, MOST_OUTSIDE = 0.1, 0.2  # beyond black and white, and the part of all values from which it is no picture

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
        """Latent [C, h, w] -> uint8 [16 h, 16 w, 3], the padding cut off; some milliseconds for 40x40 cells."""
        check_latent(latent, self.name, self.channels)
        model = self.usual_model(latent.rate) if latent.model_index is None else latent.model_index
        rows, columns = latent.array.shape[1:]
        small = _picture(np.clip(255 * self._seen(latent.array, model), 0, 255), rows, columns)
        size = (columns * self.stride, rows * self.stride)
        return crop_padding(cv2.resize(small.astype(np.uint8), size, interpolation=cv2.INTER_LINEAR), latent)

    def recognises(self, array: np.ndarray, rate: int) -> bool:
        """Whether [C, h, w] looks like a latent of this codec at this rate: it gives colours that there are.

        Of latents of the usual models up to 4 % of all values lay outside, of others and of noise 40 % and more.
        """
        if len(array) != self.channels:
            return False
        seen = self._seen(array, self.usual_model(rate))
        return bool(np.mean((seen < -PLAY) | (seen > 1 + PLAY)) < MOST_OUTSIDE)

    def _seen(self, array: np.ndarray, model: int) -> np.ndarray:
        """[C, h, w] -> float32 [h * w, 3 * PLACES**2], 0 to 1 and somewhat beyond."""
        return _inputs(array) @ self.maps[model].astype(np.float32)

    def save(self, path: Path) -> None:
        """Arrays of numbers only, so that reading executes nothing."""
        rates = np.array([*self.model_of_rate.items()])
        np.savez_compressed(path, maps=self.maps, model_of_rate=rates)


@cache
def preview_of_jpegai() -> Preview:
    """The one that comes along."""
    with np.load(FILE, allow_pickle=False) as file:
        return Preview(file["maps"], dict(file["model_of_rate"].tolist()))


def fit(examples: Iterable[Example], model_of_rate: dict[int, int]) -> Preview:
    """The maps that come nearest to the pictures, by ridge regression over all cells of the examples of each model."""
    sums: dict[int, tuple[np.ndarray, np.ndarray]] = {}
    for model, latent, picture in examples:
        inputs, wanted = _inputs(latent), _colours(picture, *latent.shape[1:])
        if model not in sums:
            sums[model] = (np.zeros((inputs.shape[1],) * 2), np.zeros((inputs.shape[1], wanted.shape[1])))
        sums[model][0][:] += inputs.T @ inputs
        sums[model][1][:] += inputs.T @ wanted
    maps = [
        np.linalg.solve(square + RIDGE * np.diag(square.diagonal()), product)
        for _, (square, product) in sorted(sums.items())
    ]
    return Preview(np.stack(maps).astype(np.float16), model_of_rate)


def _inputs(latent: np.ndarray) -> np.ndarray:
    """[C, h, w] -> float32 [h * w, 5 C + 1]; beyond the edge lies what is at the edge."""
    channels, rows, columns = latent.shape
    padded = np.pad(np.asarray(latent, np.float32), ((0, 0), (1, 1), (1, 1)), mode="edge")
    starts = ((1, 1), (0, 1), (2, 1), (1, 0), (1, 2))
    parts = [padded[:, top : top + rows, left : left + columns].reshape(channels, -1) for top, left in starts]
    return np.concatenate([*parts, np.ones((1, rows * columns), np.float32)]).T


def _colours(picture: np.ndarray, rows: int, columns: int) -> np.ndarray:
    """uint8 [H, W, 3] -> float32 [rows * columns, 3 * PLACES**2] in 0..1: means over the places of each cell."""
    small = cv2.resize(picture, (columns * PLACES, rows * PLACES), interpolation=cv2.INTER_AREA)
    places = small.reshape(rows, PLACES, columns, PLACES, 3).transpose(0, 2, 1, 3, 4)
    return places.reshape(rows * columns, -1).astype(np.float32) / 255


def _picture(colours: np.ndarray, rows: int, columns: int) -> np.ndarray:
    """Undoes the order of `_colours`: [rows * columns, 3 * PLACES**2] -> [rows * PLACES, columns * PLACES, 3]."""
    places = colours.reshape(rows, columns, PLACES, PLACES, 3).transpose(0, 2, 1, 3, 4)
    return places.reshape(rows * PLACES, columns * PLACES, 3)
