"""Pictures in place of latents: what detectors of pixels are trained and measured on, by the same commands.

As a `codec`, a picture is a latent of three channels and stride 1, uint8. Originals and decoded pictures both count
as codec "pixels", so that one detector can be held against both; the manifest says how many bits they took.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from latentface.codecs.base import UNCODED, Codec, Latent, check_latent, check_rgb

ORIGINAL = 0  # the rate of a picture that was never coded
BITS = 24.0  # of each of its pixels; padding is made when it is read and takes none


class PixelCodec:
    """The picture itself: [3, H, W], uint8, at 24 bits per pixel."""

    name = "pixels"
    stride = multiple = 1
    rates: tuple[int, ...] = (ORIGINAL,)

    def encode(self, rgb: np.ndarray, rate: int = ORIGINAL) -> Latent:
        """See `Codec.encode`; `rate` is only a name."""
        return self.encode_rates(rgb, [rate])[0]

    def encode_rates(self, rgb: np.ndarray, rates: Sequence[int], pixels: int | None = None) -> list[Latent]:
        """See `Codec.encode_rates`."""
        check_rgb(rgb)
        height, width = rgb.shape[:2]
        array = np.ascontiguousarray(rgb.transpose(2, 0, 1))
        return [
            Latent(array, self.name, rate, None, 1.0, BITS, width, height, exact=True, stride=1, bpp_from=UNCODED)
            for rate in rates
        ]

    def usual_model(self, rate: int) -> int | None:
        """See `Codec.usual_model`."""
        return None

    def decode(self, latent: Latent) -> np.ndarray:
        """See `Codec.decode`."""
        check_latent(latent, self.name, 3)
        return np.clip(np.rint(latent.array), 0, 255).astype(np.uint8).transpose(1, 2, 0)


class DecodedCodec(PixelCodec):
    """Pictures as another codec gives them back, with its bits per pixel and model index."""

    def __init__(self, codec: Codec) -> None:
        self.codec = codec
        self.rates = codec.rates

    def encode_rates(self, rgb: np.ndarray, rates: Sequence[int], pixels: int | None = None) -> list[Latent]:
        """See `Codec.encode_rates`."""
        coded = self.codec.encode_rates(rgb, rates, pixels)
        return [
            replace(
                PixelCodec().encode(self.codec.decode(latent), latent.rate),
                model_index=latent.model_index,
                bpp=latent.bpp,
                bpp_from=latent.bpp_from,
                exact=latent.exact,
            )
            for latent in coded
        ]
