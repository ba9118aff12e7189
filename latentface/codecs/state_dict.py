"""Reading other projects' weights: tensors and plain values only, nothing in a file is executed."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import torch

from latentface.errors import LatentFaceError

DAMAGE = (OSError, EOFError, pickle.UnpicklingError, RuntimeError, AttributeError, TypeError, KeyError, ValueError)


def read_state(path: Path, origin: str) -> dict[str, Any]:
    """A dictionary written by torch.save; `origin` says in messages where to get such a file."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise LatentFaceError(f"{path}: missing; copy it from {origin}") from error
    except DAMAGE as error:
        raise LatentFaceError(f"{path}: {_no_network(origin)}") from error
    if not isinstance(state, dict):
        raise LatentFaceError(f"{path}: {_no_network(origin)}")
    return state


def fill(network: torch.nn.Module, state: dict[str, Any], path: Path, origin: str) -> None:
    """Strictly: every weight has to be there and to fit."""
    try:
        network.load_state_dict(state)
    except DAMAGE as error:
        raise LatentFaceError(f"{path}: {_no_network(origin)}") from error


def _no_network(origin: str) -> str:
    return f"no network of {origin} (cut short, a Git LFS pointer, or another one?); get the file anew"
