"""The official lists of a WIDER FACE split, out of the `.mat` files that it is published with."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from latentface.errors import LatentFaceError
from latentface.evaluation.mat_file import read_mat

DIFFICULTIES = ("easy", "medium", "hard")
SOURCE = "eval_tools.zip, folder ground_truth, from http://shuoyang1213.me/WIDERFACE/"


@dataclass(frozen=True, eq=False)
class GroundTruth:
    """The official lists of a WIDER FACE split; entry i of each belongs to picture `names[i]`."""

    names: tuple[str, ...]  # <event>/<name>
    boxes: tuple[np.ndarray, ...]  # each [M, 4] x y width height, source pixels
    kept: dict[str, tuple[np.ndarray, ...]]  # difficulty -> each [M] bool: faces to be found, the others are ignored


def read_ground_truth(folder: Path) -> GroundTruth:
    """The four official files `wider_face_val.mat` and `wider_{easy,medium,hard}_val.mat` of `folder`.

    Raises LatentFaceError for a file that is missing (and says where to get it) or is not what it should be.
    """
    path = Path(folder) / "wider_face_val.mat"
    with _one_line_for(path):
        events, files, boxes = read_mat(path, "event_list", "file_list", "face_bbx_list")
        by_event = zip(_cells(events), _cells(files), strict=True)
        names = tuple(f"{_text(event)}/{_text(name)}" for event, of_event in by_event for name in _cells(of_event))
        truth = tuple(_boxes(picture) for event in _cells(boxes) for picture in _cells(event))
        if len(truth) != len(names):
            raise ValueError("not as many lists of boxes as names")
    kept = {}
    for difficulty in DIFFICULTIES:
        path = Path(folder) / f"wider_{difficulty}_val.mat"
        with _one_line_for(path):
            (lists,) = read_mat(path, "gt_list")
            indices = [picture for event in _cells(lists) for picture in _cells(event)]
            if len(indices) != len(names):
                raise LatentFaceError(f"{path}: {len(indices)} pictures where wider_face_val.mat has {len(names)}")
            kept[difficulty] = tuple(_mask(index, len(faces)) for index, faces in zip(indices, truth, strict=True))
    return GroundTruth(names, truth, kept)


@contextmanager
def _one_line_for(path: Path) -> Iterator[None]:
    """Turns whatever is wrong with a file into one line."""
    if not path.is_file():
        raise LatentFaceError(f"{path}: not found; it is in {SOURCE}")
    try:
        yield
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise LatentFaceError(f"{path}: no WIDER FACE ground truth; get it from {SOURCE}") from error


def _cells(value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise ValueError("no cells")
    return value


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError("a name is no text")
    return value


def _numbers(value: Any) -> np.ndarray:
    """An array; nothing at all, of a picture without faces, is an empty list."""
    if not isinstance(value, np.ndarray) and value != []:
        raise ValueError("no numbers")
    return np.asarray(value, np.float64)


def _boxes(value: Any) -> np.ndarray:
    boxes = _numbers(value).reshape(-1, 4)
    if not np.isfinite(boxes).all():
        raise ValueError("a box is not finite")
    return boxes


def _mask(value: Any, length: int) -> np.ndarray:
    """Indices that count from 1 -> bool [length]."""
    index = _numbers(value).ravel()
    if not ((index >= 1) & (index <= length) & (index == index.round())).all():
        raise ValueError("an index of no face")
    mask = np.zeros(length, dtype=bool)
    mask[index.astype(np.int64) - 1] = True
    return mask
