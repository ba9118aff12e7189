"""The split that `encode` writes: what is there, what is missing, and the labels that belong to it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from latentface.data.encode_worker import Task, View
from latentface.data.labels import PictureLabels, read_labels, write_labels
from latentface.data.manifest import MANIFEST_NAME, ManifestRow, append, recover_manifest, source_base, write_manifest
from latentface.data.pictures import drawn, view_name
from latentface.data.sizes import view_labels
from latentface.errors import LatentFaceError
from latentface.files import base_name, make_folder, split_suffix

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
            f"{self.pictures} pictures, {self.crops} crops ({self.written} written now), {len(self.skipped)} skipped",
            f"{self.faces} faces ({self.ignored} to ignore), {self.dropped} boxes dropped for having no visible area",
            f"bits per pixel {bpp}; {self.megabytes:.1f} MB; {self.seconds:.1f} s",
        ]


class Tree:
    """The split being written; its manifest says what is there."""

    def __init__(self, config: EncodeConfig, file_bytes: dict[int, int]):
        self.config = config
        self.file_bytes = file_bytes
        self.folder = Path(config.out)
        self.manifest = self.folder / MANIFEST_NAME
        self.label_file = self.folder / "labels.txt"
        self.rows = recover_manifest(self.manifest) if self.manifest.exists() else {}
        self.written: dict[str, PictureLabels] = {}
        self._refuse_others_work()

    def _refuse_others_work(self) -> None:
        latents = self.folder / "latent"
        if not self.manifest.exists() and (self.label_file.exists() or (latents.is_dir() and any(latents.iterdir()))):
            raise LatentFaceError(f"{self.folder}: has labels or latents of another origin; give another --out")
        for row in self.rows.values():
            for name, value in self.config.recorded().items():
                if row.encoder.get(name) != value:
                    made = row.encoder.get(name, "unknown")
                    raise LatentFaceError(
                        f"{self.manifest}: made with {name} {made}, now it is {value}; give the same or another --out"
                    )

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
        row = self.rows.get(base_name(name))
        if row is None:
            return wanted
        if split_suffix(row.name)[0] != split_suffix(name)[0]:
            raise LatentFaceError(f"{self.manifest}: has {row.name} where {name} would go; give another --out")
        folder = self.folder / "latent" / row.base
        return tuple(r for r in wanted if r not in row.latents or not self._plausible(folder, r))

    def _plausible(self, folder: Path, rate: int) -> bool:
        try:
            header = (folder / f"latent_{rate}.npy").stat().st_size - self.file_bytes[rate]
        except OSError:
            return False
        return 0 < header < NPY_HEADER

    def open(self) -> None:
        """Makes the folders; from now on the manifest ends in a complete line."""
        make_folder(self.folder / "latent", "--out")
        write_manifest(self.manifest, self.rows.values())

    def add(self, rows: Sequence[ManifestRow]) -> None:
        """Notes pictures whose files are in place; rates that were there before stay."""
        merged = []
        for row in rows:
            old = self.rows.get(row.base)
            merged.append(replace(row, name=old.name, latents={**old.latents, **row.latents}) if old else row)
        self.rows.update((row.base, row) for row in merged)
        append(self.manifest, merged)

    def close(self, labels: dict[str, PictureLabels] | None) -> None:
        """Sorts the manifest, writes the labels of all pictures in it."""
        self.rows = dict(sorted(self.rows.items()))
        write_manifest(self.manifest, self.rows.values())
        if labels is None:
            return
        earlier = read_labels(self.label_file) if self.label_file.exists() else {}
        for base, row in self.rows.items():
            source = labels.get(source_base(row))
            if source is not None:
                self.written[base] = view_labels(source, row)
            elif base in earlier:  # of an earlier run with other labels
                self.written[base] = earlier[base]
        write_labels(self.label_file, self.written.values())

    def summary(self, found: Iterable[str]) -> EncodeSummary:
        """Counts what was asked for and is there."""
        bases = [base_name(view) for name in found for _, view in self.views(name)]
        rows = [self.rows[base] for base in bases if base in self.rows]
        labels = [self.written[row.base] for row in rows if row.base in self.written]
        wholes = [row for row in rows if row.crop is None]
        return EncodeSummary(
            pictures=len(wholes),
            crops=len(rows) - len(wholes),
            faces=sum(len(picture.boxes) for picture in labels),
            ignored=sum(int(picture.ignore.sum()) for picture in labels),
            dropped=sum(self.written[row.base].dropped for row in wholes if row.base in self.written),
            bpp={rate: _mean_bpp(rows, rate) for rate in self.config.rates if rows},
            megabytes=sum(self.file_bytes.get(rate, 0) for row in rows for rate in row.latents) / 1e6,
        )


def _mean_bpp(rows: Sequence[ManifestRow], rate: int) -> float:
    """Of the pictures that have the rate: one that became unreadable may lack a rate that was added later."""
    found = [bpp for row in rows if rate in row.latents and (bpp := row.latents[rate].bpp) is not None]
    return float(np.mean(found)) if found else float("nan")
