"""The weights that come with this package: a light detector for each codec, for all five rates.

What they were trained on, what they reach and where they end stands in the model card beside them, `weights/README.md`.
"""

from __future__ import annotations

from pathlib import Path

from latentface.errors import LatentFaceError

FOLDER = Path(__file__).resolve().parents[1] / "weights"


def pretrained(codec: str) -> Path:
    """The checkpoint for latents of a codec. Raises LatentFaceError for one that there is none for."""
    path = FOLDER / f"mobilenet_{codec}.pth"
    if not path.is_file():
        there = ", ".join(sorted(p.stem.removeprefix("mobilenet_") for p in FOLDER.glob("mobilenet_*.pth"))) or "none"
        raise LatentFaceError(f"no weights for latents of {codec} come with this package (there are: {there}): give "
                              "--weight")  # fmt: skip
    return path
