"""Faces found straight in the latents of learned image codecs, without decoding the picture.

from latentface import Detector
faces = Detector.load("weight_final.pth")(latent, rate=75)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from latentface.errors import LatentFaceError

if TYPE_CHECKING:
    from latentface.data.batches import collate
    from latentface.data.latents import NestedLatentWiderFaceDataset
    from latentface.inference.detector import Detector
    from latentface.model.faces import Faces

__version__ = "0.1.0"
__all__ = ["Detector", "Faces", "LatentFaceError", "NestedLatentWiderFaceDataset", "__version__", "collate"]

_HOMES = {
    "Detector": "latentface.inference.detector",
    "Faces": "latentface.model.faces",
    "NestedLatentWiderFaceDataset": "latentface.data.latents",
    "collate": "latentface.data.batches",
}


def __getattr__(name: str) -> Any:
    """Imports torch only when something needs it, so that help comes at once."""
    if name in _HOMES:
        import importlib

        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'latentface' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
