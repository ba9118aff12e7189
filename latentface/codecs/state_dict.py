"""Reading other projects' weights: tensors and plain values only, nothing in a file is executed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from latentface.errors import LatentFaceError
from latentface.torch_file import read_torch_file

MISFITS = (RuntimeError, AttributeError, TypeError, KeyError, ValueError)


def read_state(path: Path, origin: str) -> dict[str, Any]:
    """A dictionary written by torch.save; `origin` says in messages where to get such a file."""
    if not path.is_file():
        raise LatentFaceError(f"{path}: missing; copy it from {origin}")
    try:
        return read_torch_file(path)
    except LatentFaceError as error:
        raise LatentFaceError(f"{path}: {_no_network(origin)}") from error


def fill(network: torch.nn.Module, state: dict[str, Any], path: Path, origin: str) -> None:
    """Strictly: every weight has to be there and to fit."""
    try:
        network.load_state_dict(state)
    except MISFITS as error:
        raise LatentFaceError(f"{path}: {_no_network(origin)}") from error


def _no_network(origin: str) -> str:
    return f"no network of {origin} (cut short, a Git LFS pointer, or another one?); get the file anew"
