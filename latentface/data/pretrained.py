"""The weights that come with this package: a light detector for each codec, for all five rates.

What they were trained on, what they reach and where they end stands in the model card beside them, `weights/README.md`.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from itertools import islice
from pathlib import Path

from latentface.codecs.base import NO_CODEC
from latentface.data.manifest import manifest_in
from latentface.errors import LatentFaceError

FOLDER = Path(__file__).resolve().parents[1] / "weights"


def pretrained(codec: str, remedy: str = "give --weight") -> Path:
    """The checkpoint for latents of a codec. Raises LatentFaceError, with `remedy`, for one that there is none for."""
    path = FOLDER / f"mobilenet_{codec}.pth"
    if not path.is_file():
        there = ", ".join(sorted(p.stem.removeprefix("mobilenet_") for p in FOLDER.glob("mobilenet_*.pth"))) or "none"
        raise LatentFaceError(
            f"no weights for latents of {codec} come with this package (there are: {there}): {remedy}"
        )
    return path


def codec_near(places: Iterable[Path], flag: str) -> str:
    """The codec to take weights for: as the first manifest in or above one of `places` says, else JPEG AI, with a line.

    `flag` is what says otherwise.
    """
    for place in places:
        path = place.resolve()
        for folder in (path, path / "val", path / "train", *list(path.parents)[:3]):
            rows = manifest_in(folder)
            codecs = {entry.codec for row in islice(rows.values(), 1) for entry in row.latents.values()}
            if known := sorted(codecs.difference(NO_CODEC)):
                return known[0]
    print(f"no manifest says which codec made this: taken for jpegai; {flag} says otherwise", file=sys.stderr)
    return "jpegai"
