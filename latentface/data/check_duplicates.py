"""One photograph twice: in training and validation, where it makes validation worthless, or within a split.

Pictures are compared by content: the first channel of their latents (luma, in the codecs known here), 8 x 8 cells,
without its mean and contrast. That survives number types and packing; photographs of WIDER FACE that are not the same
are 0.28 apart at the nearest (487 against 3,986), copies in float16 or int8 under 0.02.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from latentface.data.check_files import Split
from latentface.data.check_findings import Finding, first_of
from latentface.data.check_latents import Measure, Measured
from latentface.data.manifest import source_base

SAME = 0.05  # distance of unit vectors
LEAST_CONTRAST = 0.05  # of the usual one at its rate: nearly plain pictures look all alike


@dataclass(frozen=True)
class Thumbnails:
    """Of one rate, those of pictures with some contrast."""

    names: list[str]
    vectors: np.ndarray  # float32 [N, 64], mean 0, length 1

    @classmethod
    def of(cls, latents: Iterable[Measure]) -> Thumbnails:
        listed = list(latents)
        values = np.array([one.thumbnail for one in listed], np.float32).reshape(len(listed), -1)
        values = values - values.mean(axis=1, keepdims=True)
        length = np.linalg.norm(values, axis=1)
        kept = length > LEAST_CONTRAST * np.median(length) if len(length) else np.zeros(0, bool)
        names = [one.picture for one, keep in zip(listed, kept, strict=True) if keep]
        return cls(names, values[kept] / length[kept, None])


def between(first: Split, second: Split, a: Measured, b: Measured) -> Iterator[Finding]:
    """Pictures of `first` whose content is in `second` too; each is told once, at whatever rate it is seen."""
    told: set[str] = set()
    for rate, ours, theirs in _by_common_rate(a, b):
        for i, j in _pairs(ours, theirs):
            name, other = ours.names[i], theirs.names[j]
            if name not in told:
                told.add(name)
                text = f"the same picture as {second.name}/{other} (rate {rate})"
                remedy = f"validation on it says nothing: leave it out of {first.name} (--fix lists it)"
                yield Finding("error", "in-both-splits", first.store.place(name, rate), text, remedy, picture=name)


def of_one_photograph(first: Split, second: Split) -> Iterator[Finding]:
    """Names and manifest say the same photograph; what the latents show may be other parts of it."""
    sources = [{_source(split, name) for name in split.pictures} for split in (first, second)]
    common = sorted(sources[0] & sources[1])
    if common:
        text = f"{len(common)} photographs are in {first.name} too, by name: {first_of(common)}"
        remedy = "if they are the same, keep each in one split with all its crops"
        yield Finding("warning", "names-in-both-splits", str(second.store.latent_dir), text, remedy)


def within(split: Split, measured: Measured) -> Iterator[Finding]:
    """Two pictures of one content under different names; views of one photograph may well be alike."""
    told: set[str] = set()
    for rate, ours, _ in _by_common_rate(measured, measured):
        for i, j in _pairs(ours, None):
            name, other = ours.names[max(i, j)], ours.names[min(i, j)]
            if name not in told and _source(split, name) != _source(split, other):
                told.add(name)
                text = f"the same picture as {other} (rate {rate})"
                yield Finding("warning", "picture-twice", split.store.place(name, rate), text, "keep one of them")


def _source(split: Split, name: str) -> str:
    row = split.rows.get(name)
    return source_base(row) if row else name


def _by_common_rate(a: Measured, b: Measured) -> Iterator[tuple[int, Thumbnails, Thumbnails]]:
    for rate in sorted(a.channels.keys() & b.channels.keys()):
        ours = Thumbnails.of(one for one in a.latents if one.rate == rate)
        yield rate, ours, ours if a is b else Thumbnails.of(one for one in b.latents if one.rate == rate)


def _pairs(ours: Thumbnails, theirs: Thumbnails | None) -> Iterator[tuple[int, int]]:
    """Of every vector, the nearest one that is nearly the same; `theirs` None: among `ours` themselves."""
    from scipy.spatial import cKDTree

    others = ours if theirs is None else theirs
    if not ours.names or not others.names:
        return
    count = 1 if theirs is not None else 2  # itself is near, too
    _, near = cKDTree(others.vectors).query(ours.vectors, k=[*range(1, count + 1)], distance_upper_bound=SAME)
    for i, found in enumerate(near.tolist()):
        match = next((j for j in found if j < len(others.names) and (theirs is not None or j != i)), None)
        if match is not None:
            yield i, match
