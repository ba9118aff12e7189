"""A codec that needs nothing downloaded: a block cosine transform shaped like a learned codec's latent."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from latentface.codecs.base import (
    RATES,
    ZERO_ORDER,
    Latent,
    check_latent,
    check_rgb,
    crop_padding,
    entropy_bits,
    pad_to_stride,
    rgb_to_ycbcr,
    ycbcr_to_rgb,
)
from latentface.errors import LatentFaceError

BLOCK = 16  # pixels a side of a block; one block is one cell of the latent
KEPT = (160, 48, 48)  # coefficients kept of Y, Cb and Cr, lowest frequencies first
CHANNELS = sum(KEPT)
MID_GREY = 128.0  # taken off luma before the transform, so that a grey picture is all zeros
SMALLEST_STEP, LARGEST_STEP = 0.25, 4096.0  # a coefficient lies within +-2048, so the largest leaves only zeros
TOLERANCE = 0.01  # relative distance to the target at which the search for a step ends
MOST_HALVINGS = 24  # of 14 octaves: far below what moves a single symbol


def dct_matrix(length: int) -> np.ndarray:
    """The orthonormal DCT-II, [frequency, sample] (Ahmed, Natarajan, Rao: Discrete Cosine Transform, 1974)."""
    frequency, sample = np.arange(length)[:, None], np.arange(length)[None]
    matrix = np.cos(np.pi * frequency * (2 * sample + 1) / (2 * length)) * math.sqrt(2 / length)
    matrix[0] = math.sqrt(1 / length)
    return matrix.astype(np.float32)


def zigzag(length: int) -> np.ndarray:
    """Flat indices (row * length + column) of a length x length block along its anti-diagonals, as in JPEG."""

    def place(index: int) -> tuple[int, int]:
        row, column = divmod(index, length)
        diagonal = row + column
        return diagonal, row if diagonal % 2 else column  # odd diagonals run downwards, even ones upwards

    return np.array(sorted(range(length * length), key=place))


MATRIX = dct_matrix(BLOCK)
ORDER = zigzag(BLOCK)


def transform(planes: np.ndarray) -> np.ndarray:
    """Y - 128, Cb, Cr [3, H, W], sides multiples of 16 -> the kept coefficients [256, H / 16, W / 16]."""
    _, height, width = planes.shape
    h, w = height // BLOCK, width // BLOCK
    blocks = planes.reshape(3, h, BLOCK, w, BLOCK).transpose(0, 1, 3, 2, 4)
    spectrum = (MATRIX @ blocks @ MATRIX.T).reshape(3, h * w, BLOCK * BLOCK)
    kept = [plane[:, ORDER[:count]].T for plane, count in zip(spectrum, KEPT, strict=True)]
    return np.concatenate(kept).reshape(CHANNELS, h, w)


def inverse_transform(coefficients: np.ndarray) -> np.ndarray:
    """[256, h, w] -> Y - 128, Cb, Cr [3, 16 h, 16 w]; coefficients that were not kept count as zero."""
    _, h, w = coefficients.shape
    spectrum = np.zeros((3, h * w, BLOCK * BLOCK), np.float32)
    parts = np.split(coefficients.reshape(CHANNELS, h * w), np.cumsum(KEPT)[:-1])
    for plane, part, count in zip(spectrum, parts, KEPT, strict=True):
        plane[:, ORDER[:count]] = part.T
    blocks = MATRIX.T @ spectrum.reshape(3, h, w, BLOCK, BLOCK) @ MATRIX
    return blocks.transpose(0, 1, 3, 2, 4).reshape(3, h * BLOCK, w * BLOCK)


def find_step(ordered: np.ndarray, target_bits: float) -> float:
    """The step whose symbols hold about `target_bits`; `ordered` [C, n] has every channel sorted.

    Halves an interval of log step, as bits fall with the step (all but monotonely), and returns the best step seen:
    a picture that is too plain or too busy for the target gets the end of the range.
    """
    low, high = math.log(SMALLEST_STEP), math.log(LARGEST_STEP)
    best_step, best_error = SMALLEST_STEP, abs(entropy_of(ordered, SMALLEST_STEP) - target_bits)
    for _ in range(MOST_HALVINGS):
        if best_error <= TOLERANCE * target_bits:
            break
        middle = (low + high) / 2
        step = math.exp(middle)
        bits = entropy_of(ordered, step)
        low, high = (middle, high) if bits > target_bits else (low, middle)
        if abs(bits - target_bits) < best_error:
            best_step, best_error = step, abs(bits - target_bits)
    return best_step


def entropy_of(ordered: np.ndarray, step: float) -> float:
    """Bits of sorted coefficients [C, n] after quantisation: rounding keeps their order."""
    return entropy_bits(np.rint(ordered / np.float32(step)), is_sorted=True)


class DctCodec:
    """16x16 orthonormal DCT-II of Y, Cb, Cr (BT.709, full range), the lowest frequencies in zig-zag order.

    Latents are [256, h, w]: 160 luma, 48 Cb, 48 Cr channels of coefficients, in grey levels. One step quantises all
    of them, chosen per picture so that the zero-order entropy meets the rate within about 1 %; a picture that cannot
    meet it gets the nearest, and its true bits per pixel are in `Latent.bpp`. Any whole rate from 1 to 1000 serves.
    """

    name = "dct"
    stride = multiple = BLOCK
    rates = RATES

    def encode(self, rgb: np.ndarray, rate: int) -> Latent:
        """See `Codec.encode`. About 12 ms for 640x640 on one thread, half of it the search for the step."""
        return self.encode_rates(rgb, [rate])[0]

    def encode_rates(self, rgb: np.ndarray, rates: Sequence[int], pixels: int | None = None) -> list[Latent]:
        """See `Codec.encode_rates`: one transform, then a search per rate."""
        for rate in rates:
            _check_rate(rate)
        coefficients, pad_right, pad_bottom = _coefficients(rgb)
        ordered = np.sort(coefficients.reshape(CHANNELS, -1), axis=1)
        pixels = pixels or rgb.shape[0] * rgb.shape[1]
        latents = []
        for rate in rates:
            step = find_step(ordered, rate / 100 * pixels)
            array = np.rint(coefficients / np.float32(step)) * np.float32(step)
            bpp = entropy_of(ordered, step) / pixels
            latents.append(_latent(rgb, array, rate, step, bpp, pad_right, pad_bottom))
        return latents

    def encode_unquantised(self, rgb: np.ndarray) -> Latent:
        """The latent before rounding: step None, rate 0 and bpp not a number, as it was never coded."""
        coefficients, pad_right, pad_bottom = _coefficients(rgb)
        return _latent(rgb, coefficients, 0, None, math.nan, pad_right, pad_bottom)

    def usual_model(self, rate: int) -> int | None:
        """See `Codec.usual_model`: there is one transform."""
        return 0

    def decode(self, latent: Latent) -> np.ndarray:
        """See `Codec.decode`. Raises LatentFaceError for another codec's latent."""
        check_latent(latent, self.name, CHANNELS)
        planes = inverse_transform(latent.array)
        planes[0] += MID_GREY
        return crop_padding(ycbcr_to_rgb(planes), latent)


def _check_rate(rate: int) -> None:
    if not isinstance(rate, int | np.integer) or not 1 <= rate <= 1000:
        raise LatentFaceError(f"rate {rate!r} is no whole number from 1 to 1000 (bits per pixel x 100); try 75")


def _coefficients(rgb: np.ndarray) -> tuple[np.ndarray, int, int]:
    """uint8 [H, W, 3] -> float32 [256, h, w], pad_right, pad_bottom."""
    check_rgb(rgb)
    padded, pad_right, pad_bottom = pad_to_stride(rgb, BLOCK)
    planes = rgb_to_ycbcr(padded)
    planes[0] -= MID_GREY
    return transform(planes), pad_right, pad_bottom


def _latent(
    rgb: np.ndarray, array: np.ndarray, rate: int, step: float | None, bpp: float, pad_right: int, pad_bottom: int
) -> Latent:
    return Latent(
        array=array,
        codec=DctCodec.name,
        rate=int(rate),
        model_index=0,
        step=step,
        bpp=bpp,
        source_width=rgb.shape[1],
        source_height=rgb.shape[0],
        exact=True,
        pad_right=pad_right,
        pad_bottom=pad_bottom,
        stride=BLOCK,
        bpp_from=ZERO_ORDER,
    )
