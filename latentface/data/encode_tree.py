"""The split that `encode` writes: what is there, what is missing, and the labels that belong to it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from latentface.data.encode_worker import Task, View
from latentface.data.manifest import ManifestRow
from latentface.data.pictures import drawn, view_name
from latentface.data.split_writer import SplitWriter
from latentface.errors import LatentFaceError
from latentface.files import base_name, split_suffix
from latentface.words import counted, disk_size

if TYPE_CHECKING:
    from latentface.data.encode import EncodeConfig

NPY_HEADER = 1024  # bytes; NumPy's is 128 for any latent


@dataclass
class EncodeSummary:
    """What is in the tree of what was asked for."""

    pictures: int  # whole photographs
    crops: int
    faces: int
    ignored: int  # of them
    dropped: int  # boxes without visible area
    bpp: dict[int, float]  # mean by rate
    megabytes: float
    written: int = 0  # pictures and crops, in this run
    seconds: float = 0.0
    skipped: list[str] = field(default_factory=list)  # why, a line for each photograph that cannot be read
    missing: list[str] = field(default_factory=list)  # labelled, but no file
    unlabelled: list[str] = field(default_factory=list)  # files without a label

    def lines(self) -> list[str]:
        """For people."""
        bpp = ", ".join(f"{rate}: {mean:.3f}" for rate, mean in self.bpp.items())
        return [
            f"{counted(self.pictures, 'picture')}, {counted(self.crops, 'crop')} ({self.written} written now), "
            f"{len(self.skipped)} skipped",
            f"{counted(self.faces, 'face')} ({self.ignored} to ignore), {self.dropped} boxes dropped for having no "
            "visible area",
            f"bits per pixel {bpp}; {disk_size(1e6 * self.megabytes)}; {self.seconds:.1f} s",
        ]


class Tree:
    """What `encode` has to do, given what is there."""

    def __init__(self, config: EncodeConfig, file_bytes: dict[int, int]):
        self.config = config
        self.file_bytes = file_bytes
        self.split = SplitWriter(config.out, config.recorded())

    def views(self, name: str) -> Iterator[tuple[int | None, str]]:
        """The whole photograph, then its crops: number and name."""
        yield from ((number, view_name(name, number)) for number in (None, *range(self.config.crops)))

    def tasks(self, found: dict[str, Path]) -> Iterator[Task]:
        """What is still to be done."""
        for name, path in found.items():
            views = [
                View(number, self._missing_rates(view, self._rates(name, number))) for number, view in self.views(name)
            ]
            if wanted := tuple(view for view in views if view.rates):
                yield Task(name, path, wanted)

    def _rates(self, name: str, number: int | None) -> tuple[int, ...]:
        """The rates wanted of a view: all, or so many of them, drawn."""
        rates, count = self.config.rates, self.config.rates_per_view
        if not count:
            return rates
        order = drawn(view_name(name, number), self.config.seed, 0).permutation(len(rates))
        return tuple(rates[index] for index in sorted(order[:count]))

    def _missing_rates(self, name: str, wanted: tuple[int, ...]) -> tuple[int, ...]:
        row = self.split.rows.get(base_name(name))
        if row is None:
            return wanted
        if split_suffix(row.name)[0] != split_suffix(name)[0]:
            raise LatentFaceError(f"{self.split.manifest}: has {row.name} where {name} would go; give another --out")
        return tuple(r for r in wanted if r not in row.latents or not self._plausible(row.base, r))

    def _plausible(self, base: str, rate: int) -> bool:
        try:
            header = self.split.path(base, rate).stat().st_size - self.file_bytes[rate]
        except OSError:
            return False
        return 0 < header < NPY_HEADER

    def summary(self, found: Iterable[str]) -> EncodeSummary:
        """Counts what was asked for and is there."""
        bases = [base_name(view) for name in found for _, view in self.views(name)]
        written = self.split.labels
        rows = [self.split.rows[base] for base in bases if base in self.split.rows]
        labels = [written[row.base] for row in rows if row.base in written]
        wholes = [row for row in rows if row.crop is None]
        return EncodeSummary(
            pictures=len(wholes),
            crops=len(rows) - len(wholes),
            faces=sum(len(picture.boxes) for picture in labels),
            ignored=sum(int(picture.ignore.sum()) for picture in labels),
            dropped=sum(written[row.base].dropped for row in wholes if row.base in written),
            bpp={rate: _mean_bpp(rows, rate) for rate in self.config.rates if rows},
            megabytes=sum(self.file_bytes.get(rate, 0) for row in rows for rate in row.latents) / 1e6,
        )


def _mean_bpp(rows: Sequence[ManifestRow], rate: int) -> float:
    """Of the pictures that have the rate: one that became unreadable may lack a rate that was added later."""
    found = [bpp for row in rows if rate in row.latents and (bpp := row.latents[rate].bpp) is not None]
    return float(np.mean(found)) if found else float("nan")
