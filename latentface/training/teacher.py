"""Detectors of pictures that detectors of latents learn from: a picture-input twin, or a published RetinaFace."""

from __future__ import annotations

from pathlib import Path

from latentface.errors import LatentFaceError
from latentface.model.checkpoint import load_checkpoint
from latentface.model.retinaface import RetinaFace


def load_teacher(path: str | Path) -> RetinaFace:
    """Ready to look, nothing of it to be trained. Raises LatentFaceError for a file that is no such detector."""
    checkpoint = load_checkpoint(path)
    if checkpoint.config.input != "picture":
        raise LatentFaceError(f"--teacher {path}: a detector of latents; a teacher looks at pictures")
    return checkpoint.build().eval().requires_grad_(False)
