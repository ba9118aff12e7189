"""What makes a picture of a latent with nothing but what comes along: for looking at latents."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from latentface.codecs import open_codec
from latentface.codecs.base import Decoder, known_codecs
from latentface.codecs.preview import JPEG_AI, preview_of_jpegai


def decoder_at_hand(names: Iterable[str], array: np.ndarray, rate: int) -> Decoder | None:
    """What makes a picture of a latent [C, h, w] without more files, by the first of `names` that says its codec.

    Of JPEG AI it is a preview; of an unknown codec too, if it recognises the latent: the documented dataset has no
    manifest.
    """
    name = next((min(known) for said in names if (known := known_codecs(said))), "")
    if name in ("dct", "pixels"):
        return open_codec(name)
    if name and name not in JPEG_AI:
        return None
    preview = preview_of_jpegai()
    if name:
        return preview if len(array) == preview.channels else None
    model = preview.model_of(array, rate)
    return None if model is None else preview.of_model(rate, model)
