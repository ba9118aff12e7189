"""What every codec offers, and what a latent is."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np

from latentface.errors import LatentFaceError

UNKNOWN_INDEX = -1  # of a model, where tensors hold indices
NO_CODEC = ("", "unknown")  # what stands where nobody knows which codec made a latent
TOGETHER = " and "  # between the codecs of a set that several made
RATES: tuple[int, ...] = (12, 25, 50, 75, 100)  # the documented rates: target bits per pixel x 100

# Where a latent's bits per pixel come from.
BITSTREAM = "bitstream"  # the size of the file that the codec wrote
ENTROPY_MODEL = "entropy model"  # the codec's own probabilities
ZERO_ORDER = "zero-order entropy"  # each channel's own histogram of the picture's symbols
UNCODED = "uncoded"

# ITU-R BT.709, full range: rows Y, Cb, Cr over columns R, G, B. Grey has Cb = Cr = 0.
RGB_TO_YCBCR = np.array(
    [
        [0.2126, 0.7152, 0.0722],
        [-0.2126 / 1.8556, -0.7152 / 1.8556, (1 - 0.0722) / 1.8556],
        [(1 - 0.2126) / 1.5748, -0.7152 / 1.5748, -0.0722 / 1.5748],
    ]
)
YCBCR_TO_RGB = np.linalg.inv(RGB_TO_YCBCR)


@dataclass(frozen=True)
class Latent:
    """The array a codec's decoder would read, and what it is.

    `array` is float32 [C, h, w], after quantisation. The *picture* is the coded frame, `stride * w` x `stride * h`
    pixels; a point of the photograph lies at `(scale_x * x, scale_y * y)` in it, with padding on the right and at
    the bottom only.
    """

    array: np.ndarray
    codec: str
    rate: int  # 75 in latent_75.npy
    model_index: int | None  # which of the codec's networks made it; None where that is unknown
    step: float | None  # quantisation step in units of `array`; None: not quantised
    bpp: float  # bits per pixel of the photograph as coded (without padding)
    source_width: int  # the photograph before scaling and padding, pixels
    source_height: int
    exact: bool  # False: an approximation of what the real codec would write
    scale_x: float = 1.0  # picture pixels per source pixel
    scale_y: float = 1.0
    pad_right: int = 0  # picture pixels
    pad_bottom: int = 0
    stride: int = 16  # picture pixels per cell
    bpp_from: str = ""  # one of the constants above; empty: unknown


def named_together(codecs: Iterable[str]) -> str:
    """What latents by these codecs are called: `dct`, `dct and unknown`; `unknown` where there are none."""
    return TOGETHER.join(sorted(set(codecs))) or "unknown"


def known_codecs(said: str) -> set[str]:
    """The codecs in such a name, but for those that nobody knows."""
    return set(said.split(TOGETHER)).difference(NO_CODEC)


def may_read(trained_on: str, codec: str) -> bool:
    """Whether weights of these codecs read latents of those, as far as both are known."""
    known = known_codecs(trained_on)
    return not known or known_codecs(codec) <= known


class Decoder(Protocol):
    """A latent becomes a picture."""

    name: str
    stride: int

    def usual_model(self, rate: int) -> int | None:
        """The model index that the codec takes for a rate unless told otherwise; None for a rate it does not know."""
        ...

    def decode(self, latent: Latent) -> np.ndarray:
        """Latent -> uint8 [H, W, 3], the padding cut off."""
        ...


class Codec(Decoder, Protocol):
    """A picture becomes a latent and a latent a picture."""

    multiple: int  # sides are padded to multiples of this: the stride, or more where the codec needs it
    rates: tuple[int, ...]  # those that it makes unless told otherwise

    def encode(self, rgb: np.ndarray, rate: int) -> Latent:
        """uint8 [H, W, 3] -> Latent of [C, h, w]: sides padded to the `multiple`, over the stride.

        Padding repeats the last row and column.
        Raises LatentFaceError for a rate that the codec does not know or an array that is no RGB picture.
        """
        ...

    def encode_rates(self, rgb: np.ndarray, rates: Sequence[int], pixels: int | None = None) -> list[Latent]:
        """The same for several rates, sharing the work that does not depend on the rate.

        `pixels`: how many of the picture's pixels the bits are counted on; fewer than all where a part is padding.
        """
        ...


@runtime_checkable
class BatchCodec(Codec, Protocol):
    """A codec whose networks take several pictures at a time, which pays on a GPU."""

    def encode_batch(
        self, pictures: Sequence[np.ndarray], rates: Sequence[Sequence[int]], pixels: Sequence[int | None]
    ) -> list[list[Latent]]:
        """uint8 [H, W, 3] each, of one size, and the rates wanted of each -> the latents of each, in their order.

        `pixels` as in `encode_rates`, None for all of a picture's. Raises LatentFaceError for a rate that the codec
        does not know and for pictures of different sizes.
        """
        ...


def check_side(codec: Codec, size: int) -> None:
    """Raises LatentFaceError unless the codec takes squares of `size` pixels a side as they are, without padding."""
    if size % codec.multiple:
        larger = -(-size // codec.multiple) * codec.multiple
        raise LatentFaceError(
            f"--size {size} is no multiple of {codec.multiple}, as {codec.name} needs it: {larger} would be one"
        )


def check_rgb(rgb: np.ndarray) -> None:
    """Raises LatentFaceError unless the array is uint8 [H, W, 3] with at least one pixel."""
    if not isinstance(rgb, np.ndarray) or rgb.dtype != np.uint8 or rgb.ndim != 3 or rgb.shape[2] != 3 or not rgb.size:
        found = f"{rgb.dtype} {list(rgb.shape)}" if isinstance(rgb, np.ndarray) else type(rgb).__name__
        raise LatentFaceError(f"not an RGB picture: expected uint8 [height, width, 3], found {found}; convert it first")


def check_latent(latent: Latent, codec: str, channels: int) -> None:
    """Raises LatentFaceError unless the latent is this codec's and has its number of channels."""
    if latent.codec != codec:
        raise LatentFaceError(f"a latent of codec {latent.codec!r} cannot be decoded by {codec!r}; open its own codec")
    if latent.array.ndim != 3 or latent.array.shape[0] != channels:
        raise LatentFaceError(
            f"a {codec} latent is [{channels}, h, w], found {list(latent.array.shape)}; hand over one latent at a time"
        )


def join_channels(parts: Sequence[np.ndarray], where: str) -> np.ndarray:
    """Parts [C, h, w] of one latent, luma first -> float32 [sum of C, h, w].

    A part on half the first one's grid, as chroma has it in early releases of JPEG AI, is brought to that grid by
    repeating each of its cells twice in both directions. Raises LatentFaceError, naming `where`, for other grids.
    """
    height, width = grid = parts[0].shape[1:]
    half = (-(-height // 2), -(-width // 2))
    joined = []
    for part in parts:
        if part.shape[1:] == half:
            part = part if half == grid else part.repeat(2, axis=1).repeat(2, axis=2)[:, :height, :width]
        if part.shape[1:] != grid:
            sides = " and ".join(f"{p.shape[1]}x{p.shape[2]}" for p in parts)
            raise LatentFaceError(f"{where}: parts of {sides} cells belong to no one latent: neither alike nor half")
        joined.append(part)
    return np.concatenate(joined).astype(np.float32)


def pad_to_stride(rgb: np.ndarray, stride: int) -> tuple[np.ndarray, int, int]:
    """[H, W, 3] -> the picture with its last row and column repeated up to the stride, pad_right, pad_bottom."""
    height, width = rgb.shape[:2]
    pad_right, pad_bottom = -width % stride, -height % stride
    return np.pad(rgb, ((0, pad_bottom), (0, pad_right), (0, 0)), mode="edge"), pad_right, pad_bottom


def crop_padding(rgb: np.ndarray, latent: Latent) -> np.ndarray:
    """Undoes `pad_to_stride` on the decoded picture [stride * h, stride * w, 3]."""
    height, width = rgb.shape[:2]
    return np.ascontiguousarray(rgb[: height - latent.pad_bottom, : width - latent.pad_right])


def rgb_to_ycbcr(rgb: np.ndarray) -> np.ndarray:
    """uint8 [H, W, 3] -> float32 [3, H, W]: Y in 0..255, Cb and Cr in -127.5..127.5 (BT.709, full range)."""
    height, width = rgb.shape[:2]
    pixels = rgb.reshape(-1, 3).T.astype(np.float32)  # [3, H * W]
    return (RGB_TO_YCBCR.astype(np.float32) @ pixels).reshape(3, height, width)


def ycbcr_to_rgb(planes: np.ndarray) -> np.ndarray:
    """float [3, H, W] as `rgb_to_ycbcr` gives it -> uint8 [H, W, 3], rounded and clipped to 0..255."""
    height, width = planes.shape[1:]
    pixels = YCBCR_TO_RGB.astype(np.float32) @ planes.reshape(3, -1)
    return np.clip(np.rint(pixels), 0, 255).astype(np.uint8).T.reshape(height, width, 3)


def entropy_bits(symbols: np.ndarray, *, is_sorted: bool = False) -> float:
    """[C, n] quantised values -> bits of an ideal coder that knows every channel's own histogram (zero order).

    n log2 n - sum over distinct values of count log2 count, added up over the channels. Sorting makes equal values
    neighbours, so counts are run lengths and the range of the values costs nothing; `is_sorted` says that every
    channel is in ascending order already.
    """
    channels, length = symbols.shape
    ordered = symbols if is_sorted else np.sort(symbols, axis=1)
    starts = np.ones((channels, length), bool)  # where a run of equal values begins; a channel always begins one
    np.not_equal(ordered[:, 1:], ordered[:, :-1], out=starts[:, 1:])
    counts = np.diff(np.flatnonzero(starts), append=channels * length).astype(np.float64)
    return float(channels * length * np.log2(length) - np.sum(counts * np.log2(counts)))
