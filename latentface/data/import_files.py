"""Which files hold which latent: patterns of paths, such as `model_y/y_hat/{name}_{rate}`.

`{name}` stands for the picture's name, `{rate}` and `{model}` for whole numbers, `*` for anything; none of them reaches
over a slash. A pattern is held against the end of each path, whose suffix (.npy, .npz, .pt, .pth, .safetensors) may be
left out of it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from latentface.array_files import SUFFIXES, kind_of
from latentface.errors import LatentFaceError
from latentface.files import base_name, name_problem

PLACES = {
    "{name}": r"(?P<name>[^/]+?)",
    "{rate}": r"(?P<rate>\d{1,8})",
    "{model}": r"(?P<model>\d{1,4})",
    "*": "[^/]*?",
}
USUAL = ("{name}/latent_{rate}", "{name}")  # where no pattern is given: the second if the first matches nothing


class Key(NamedTuple):
    """Which latent."""

    name: str
    rate: int


@dataclass
class Found:
    """The files of one latent."""

    parts: list[Path] = field(default_factory=list)  # to be joined on channels
    model_index: int | None = None
    bits: Path | None = None  # the bitstream


def compiled(pattern: str, suffixes: Sequence[str] = SUFFIXES) -> re.Pattern[str]:
    """A pattern's regular expression, for whole paths."""
    if pattern.count("{name}") != 1:
        raise LatentFaceError(f"pattern {pattern!r}: {{name}} has to be in it, once")
    for place in re.findall(r"{.*?}", pattern):
        if place not in PLACES or pattern.count(place) > 1:
            raise LatentFaceError(f"pattern {pattern!r}: {place} has to be {{name}}, {{rate}} or {{model}}, once each")
    pieces = re.split(r"({\w+}|\*)", pattern.strip("/"))
    text = "".join(PLACES.get(piece, re.escape(piece)) for piece in pieces)
    suffix = "|".join(map(re.escape, suffixes))
    return re.compile(rf"(?:.*/)?{text}(?:{suffix})?")


def list_files(inputs: Iterable[str]) -> list[Path]:
    """The files named, and all below the folders named, sorted."""
    found: set[Path] = set()
    for name in inputs:
        path = Path(name)
        if path.is_dir():
            found.update(Path(place, file) for place, _, files in os.walk(path) for file in files)
        elif path.exists():
            found.add(path)
        else:
            raise LatentFaceError(f"{path}: no such file or folder")
    return sorted(found)


def find_latents(files: Sequence[Path], patterns: Sequence[str], rate: int | None) -> dict[Key, Found]:
    """One pattern for each part of a latent, or none: the usual ones.

    `rate`: of all, where the patterns have no `{rate}`. Raises LatentFaceError where a latent lacks a part or has two
    files for one.
    """
    if not patterns:
        patterns = USUAL[:1] if _matching(files, USUAL[0], None) else USUAL[1:]
    parts = [_matching(files, pattern, rate) for pattern in patterns]
    latents: dict[Key, Found] = {}
    for pattern, part in zip(patterns, parts, strict=True):
        if alone := parts[0].keys() ^ part.keys():
            raise LatentFaceError(
                f"{min(alone).name}, rate {min(alone).rate}: only one of the patterns {patterns[0]!r} and {pattern!r} "
                "has a file for it; give the folder that holds both"
            )
        for key, (path, model) in part.items():
            latent = latents.setdefault(key, Found())
            latent.parts.append(path)
            latent.model_index = model if latent.model_index is None else latent.model_index
    return latents


def find_bits(files: Sequence[Path], pattern: str, rate: int | None) -> dict[Key, Path]:
    """Bitstreams: files of any content, by their whole name."""
    return {key: path for key, (path, _) in _matching(files, pattern, rate, tensors=False).items()}


def _matching(
    files: Sequence[Path], pattern: str, rate: int | None, tensors: bool = True
) -> dict[Key, tuple[Path, int | None]]:
    """Key -> the file and the model index in its path."""
    if "{rate}" in pattern and rate is not None:
        raise LatentFaceError(f"--rate {rate}: the pattern {pattern!r} has the rate in it; leave one out")
    expression = compiled(pattern, SUFFIXES if tensors else ())
    found: dict[Key, tuple[Path, int | None]] = {}
    for path in files:
        match = expression.fullmatch(path.as_posix())
        if match is None or (tensors and not kind_of(path)):
            continue
        places = match.groupdict()
        if "rate" not in places and rate is None:
            raise LatentFaceError(f"{path}: of which rate? give --rate, or {{rate}} in the pattern")
        if problem := name_problem(places["name"]):
            raise LatentFaceError(f"{path}: {places['name']!r} cannot be used as a picture's name: {problem}")
        key = Key(base_name(places["name"]), int(places.get("rate", rate or 0)))
        if key in found:
            raise LatentFaceError(f"{found[key][0]} and {path} are both {key.name} at rate {key.rate}; keep one")
        found[key] = path, int(places["model"]) if "model" in places else None
    return found
