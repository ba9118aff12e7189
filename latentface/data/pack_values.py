"""Numbers of packed latents: ranges, quantisation, and the error that it causes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

from latentface.data.stores import to_float
from latentface.errors import LatentFaceError

LEVELS = 127  # int8 is used from -127 to 127, so that a sign flip stays in range
MARGIN = 1.1  # of the range seen in the sample
FLOAT16_LARGEST = 65504.0
SMALLEST_STEP = float(np.finfo(np.float32).tiny)  # a range that would need a smaller one counts as none


@dataclass(frozen=True)
class Spread:
    """Of one group, per channel."""

    mean: np.ndarray  # float64 [C]
    deviation: np.ndarray
    low: np.ndarray
    high: np.ndarray
    latents: int

    def error(self, values: np.ndarray, stored: np.ndarray) -> dict[str, float]:
        """Of one latent [C, h, w] in deviations of its channel; channels that never change count as exact."""
        moving = self.deviation > 0
        off = np.abs(stored[moving] - values[moving]) / self.deviation[moving, None, None]
        count = off.size
        return {"worst": float(off.max(initial=0.0)), "mean": float(off.sum() / max(count, 1)), "values": count}


def measure_spread(latents: Iterable[np.ndarray]) -> Spread:
    """Over float32 latents [C, h, w], one after the other."""
    count, number = 0, 0
    first = second = low = high = np.zeros(0)
    for latent in latents:
        values = latent.reshape(len(latent), -1).astype(np.float64)
        if number == 0:
            first = second = np.zeros(len(latent))
            low, high = values.min(axis=1), values.max(axis=1)
        if len(values) != len(first):
            raise LatentFaceError(
                f"latents of {len(first)} and of {len(values)} channels under one rate: sort them apart"
            )
        first, second = first + values.sum(axis=1), second + (values**2).sum(axis=1)
        low, high = np.minimum(low, values.min(axis=1)), np.maximum(high, values.max(axis=1))
        count, number = count + values.shape[1], number + 1
    mean = first / count
    return Spread(mean, np.sqrt(np.maximum(second / count - mean**2, 0)), low, high, number)


@dataclass(frozen=True)
class Quantiser:
    """How values are stored. int8 keeps, per group and channel, `round((value - offset) / scale)`."""

    dtype: str
    scale: dict[str, np.ndarray] = field(default_factory=dict)  # float32 [C]
    offset: dict[str, np.ndarray] = field(default_factory=dict)

    @property
    def itemsize(self) -> int:
        """Bytes of one value."""
        return np.dtype(self.dtype).itemsize

    def encode(self, values: np.ndarray, group: str, place: str) -> tuple[np.ndarray, int]:
        """float32 [C, h, w] -> stored numbers and how many values lay outside the range and were clipped."""
        if self.dtype == "int8":
            steps = np.rint((values - self.offset[group][:, None, None]) / self.scale[group][:, None, None])
            clipped = int((np.abs(steps) > LEVELS).sum())
            return np.clip(steps, -LEVELS, LEVELS).astype(np.int8), clipped
        if self.dtype == "float16" and np.abs(values).max() > FLOAT16_LARGEST:
            raise LatentFaceError(
                f"{place}: values over {FLOAT16_LARGEST:.0f} do not fit float16; give --dtype float32"
            )
        return values.astype(self.dtype), 0

    def decode(self, stored: np.ndarray, group: str) -> np.ndarray:
        """Stored numbers [C, h, w] -> float32, as every reader does it."""
        return to_float(stored, self.scale.get(group), self.offset.get(group))


def plan_quantiser(dtype: str, spreads: dict[str, Spread]) -> Quantiser:
    """Ranges a little wider than the sample's, about the middle between its lowest and highest value."""
    if dtype != "int8":
        return Quantiser(dtype)
    scale, offset = {}, {}
    for group, spread in spreads.items():
        half = (spread.high - spread.low) / 2 * MARGIN
        width = np.where(half > LEVELS * SMALLEST_STEP, half, 1.0) / LEVELS
        scale[group] = width.astype(np.float32)
        offset[group] = ((spread.high + spread.low) / 2).astype(np.float32)
    return Quantiser(dtype, scale, offset)
