"""`latentface import`: latents that another program wrote -> the documented tree with a manifest.

Files are NumPy's, safetensors' or torch.save's, known by their content; nothing in them is executed. Luma and chroma
may lie in two files, or in two arrays of one; chroma on a half grid is brought to luma's by repeating each cell twice
in both directions, which the manifest says. A latent is done once its row is in the manifest and its file is there, so
a run that was stopped continues where it was.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from latentface.array_files import read_arrays
from latentface.codecs.base import BITSTREAM, join_channels
from latentface.data.import_files import Found, Key, find_bits, find_latents, list_files
from latentface.data.labels import PictureLabels, read_labels
from latentface.data.manifest import LatentEntry, ManifestRow
from latentface.data.pictures import find_pictures, framed_row, picture_size
from latentface.data.split_writer import SplitWriter
from latentface.data.stores import save_latent
from latentface.errors import LatentFaceError
from latentface.files import base_name, make_folder
from latentface.options import option
from latentface.progress import progress
from latentface.words import counted

FITS = ("none", "pad", "stretch")
MOST_PADDING = 4  # cells: what a codec adds to a picture of odd size

Say = Callable[[str], None]


@dataclass(kw_only=True)
class ImportConfig:
    """Brings latents that another program wrote into the documented tree; continues where it was stopped."""

    inputs: tuple[str, ...] = option(
        help="files of latents (.npy, .npz, .safetensors, torch.save's) and folders, searched with all below them",
        positional=True,
    )
    out: str = option(help="split to write, for example ROOT/train")
    files: str = option(
        "",
        "where the latents lie, held against the end of each path: {name}, {rate}, {model} (index) and * for anything; "
        "empty: {name}/latent_{rate}, else {name}",
    )
    luma: str = option("", "the same for luma, where it has a file of its own, e.g. model_y/y_hat/{name}_{rate}.bits*")
    chroma: str = option("", "and for chroma, e.g. model_uv/y_hat/{name}_{rate}.bits*")
    keys: tuple[str, ...] = option((), "names of the arrays inside the files, joined on channels; empty: the only one")
    rate: int | None = option(None, "rate of all latents, where the paths do not hold it")
    codec: str = option("unknown", "what made them, e.g. jpegai: a detector refuses latents of other codecs")
    model_index: int | None = option(None, "which of the codec's networks made them, where that is known")
    approximate: bool = option(False, "they are not exactly what the codec's decoder would read")
    stride: int = option(16, "picture pixels per cell")
    bits: str = option("", "bitstreams, e.g. bits/{name}_{rate}.bits: their sizes give the bits per pixel")
    images: str | None = option(None, "folder of the photographs: for their sizes, which padding and labels depend on")
    fit: str = option(
        "none", "how --images were brought to the coded size: not at all but for padding, pad or stretch", choices=FITS
    )
    labels: str | None = option(None, "label file in pixels of the photographs, without --images of the coded pictures")
    dtype: str = option("float32", "of the files written", choices=("float32", "float16"))
    json: bool = option(False, "print the result as JSON")

    def __post_init__(self) -> None:
        problems = {
            "--luma and --chroma go together, without --files": bool(self.luma) != bool(self.chroma)
            or bool(self.luma and self.files),
            "--stride has to be 1 or more, --rate and --model_index 0 or more": self.stride < 1
            or min(self.rate or 0, self.model_index or 0) < 0,
            "--fit pad and stretch need --images, the photographs": self.fit != "none" and not self.images,
        }
        for message, wrong in problems.items():
            if wrong:
                raise LatentFaceError(message)

    @property
    def patterns(self) -> tuple[str, ...]:
        """One for each part of a latent."""
        return (self.luma, self.chroma) if self.luma else tuple(filter(None, [self.files]))

    def recorded(self) -> dict[str, Any]:
        """The settings that all rows of a manifest share."""
        names = ("codec", "stride", "fit", "dtype")
        return {"imported": True} | {name: getattr(self, name) for name in names}


@dataclass
class ImportSummary:
    """What is in the split, and what was not taken in."""

    out: str
    pictures: int
    latents: dict[int, int]  # how many by rate
    channels: dict[int, list[int]]  # by rate, of those written now
    written: int  # in this run
    faces: int
    unlabelled: int  # pictures without a label, where there are labels
    skipped: list[str]  # why, a line for each latent

    def lines(self) -> list[str]:
        """For people."""
        counts = ", ".join(f"{count} of rate {rate}" for rate, count in self.latents.items())
        channels = sorted({count for counts in self.channels.values() for count in counts})
        widths = f", {' and '.join(map(str, channels))} channels" if channels else ""
        return [
            f"{counted(self.pictures, 'picture')}; latents: {counts} ({self.written} written now{widths}), "
            f"{len(self.skipped)} skipped",
            f"{counted(self.faces, 'face')}; {counted(self.unlabelled, 'picture')} without a label",
        ]


def run(config: ImportConfig) -> int:
    """The command: notes and progress on stderr, the summary on stdout."""
    summary = import_latents(config, say=lambda line: print(line, file=sys.stderr))
    print(json.dumps(asdict(summary)) if config.json else "\n".join(summary.lines()))
    return 0


def import_latents(config: ImportConfig, say: Say = lambda line: None) -> ImportSummary:
    """Writes the tree; raises LatentFaceError before any work where files or settings are wrong."""
    importer = Importer(config)
    channels: dict[int, set[int]] = {}
    skipped: list[str] = []
    written = 0
    missing = list(importer.missing())
    for key, latent in progress(missing, "importing", len(missing), unit="latent"):
        try:
            array, row = importer.read(key, latent)
        except LatentFaceError as error:
            skipped.append(str(error))
            say(f"skipped {error}")
            continue
        if not written:
            importer.split.open()
        importer.write(key, array, row)
        channels.setdefault(key.rate, set()).add(len(array))
        written += 1
    if not (written or importer.split.rows):
        raise LatentFaceError(f"nothing could be imported; the first reason: {skipped[0]}")
    importer.split.close(importer.labels)
    rows = importer.split.rows.values()
    rates = sorted({rate for row in rows for rate in row.latents})
    labels = importer.split.labels
    return ImportSummary(
        out=config.out,
        pictures=len(rows),
        latents={rate: sum(rate in row.latents for row in rows) for rate in rates},
        channels={rate: sorted(counts) for rate, counts in sorted(channels.items())},
        written=written,
        faces=sum(len(picture.boxes) for picture in labels.values()),
        unlabelled=len(importer.split.rows.keys() - labels.keys()) if importer.labels is not None else 0,
        skipped=skipped,
    )


class Importer:
    """What there is to import, and where it goes."""

    def __init__(self, config: ImportConfig):
        self.config = config
        out = Path(config.out).resolve()
        for folder in config.inputs:
            if Path(folder).resolve() in (out, *out.parents):
                raise LatentFaceError(f"--out {config.out} lies in {folder}, which is searched; give another --out")
        files = list_files(config.inputs)
        self.latents = find_latents(files, config.patterns, config.rate)
        if not self.latents:
            wanted = " and ".join(config.patterns) or "any name"
            raise LatentFaceError(f"{', '.join(config.inputs)}: no latents by the pattern {wanted}; see --files")
        if config.bits:
            self._add_bits(find_bits(files, config.bits, config.rate))
        self.photographs = (
            {base_name(path.name): path for path in find_pictures(config.images)} if config.images else {}
        )
        self.labels: dict[str, PictureLabels] | None = read_labels(config.labels) if config.labels else None
        self.split = SplitWriter(config.out, config.recorded())

    def _add_bits(self, found: dict[Key, Path]) -> None:
        if not found.keys() & self.latents.keys():
            raise LatentFaceError(f"--bits {self.config.bits}: no bitstream by this pattern belongs to a latent")
        for key in found.keys() & self.latents.keys():
            self.latents[key].bits = found[key]

    def missing(self) -> Iterator[tuple[Key, Found]]:
        """What is not in the split yet."""
        for key in sorted(self.latents):
            row = self.split.rows.get(key.name)
            if row is None or key.rate not in row.latents or not self.split.path(key.name, key.rate).is_file():
                yield key, self.latents[key]

    def read(self, key: Key, latent: Found) -> tuple[np.ndarray, ManifestRow]:
        """One latent, float32 [C, h, w], and its row. Raises LatentFaceError for what cannot be taken in."""
        parts = [part for path in latent.parts for part in read_arrays(path, self.config.keys)]
        array = join_channels(parts, str(latent.parts[0]))
        row = self._row(key, array.shape[1], array.shape[2])
        if latent.bits is None:
            bpp, bpp_from = None, ""
        else:
            bpp, bpp_from = 8 * latent.bits.stat().st_size / (row.content_width * row.content_height), BITSTREAM
        index = self.config.model_index if latent.model_index is None else latent.model_index
        entry = LatentEntry(self.config.codec, index, None, bpp, not self.config.approximate, bpp_from)
        settings = self.config.recorded()
        if any(part.shape[1:] != array.shape[1:] for part in parts):
            settings["chroma"] = "repeated from half the grid"
        return array, replace(row, latents={key.rate: entry}, encoder=settings)

    def write(self, key: Key, array: np.ndarray, row: ManifestRow) -> None:
        """The file, then the row that says that it is there."""
        path = self.split.path(key.name, key.rate)
        make_folder(path.parent, "--out", within=self.split.folder)
        save_latent(path, array, self.config.dtype)
        self.split.add([row])

    def _row(self, key: Key, rows: int, columns: int) -> ManifestRow:
        """Where the photograph lies in the coded picture; without photographs that picture counts as one."""
        known = self.labels.get(key.name) if self.labels else None
        name, stride, fit = known.name if known else key.name, self.config.stride, self.config.fit
        width, height = source_width, source_height = columns * stride, rows * stride
        if self.photographs:
            if key.name not in self.photographs:
                raise LatentFaceError(f"{key.name}: no photograph of that name in {self.config.images}")
            source_width, source_height = picture_size(self.photographs[key.name])
        row = framed_row(name, source_width, source_height, width, height, stride, fit)
        most = MOST_PADDING * stride if fit == "none" else max(width, height)
        if not (0 <= row.pad_right < most and 0 <= row.pad_bottom < most):
            raise LatentFaceError(
                f"{key.name}: a latent of {columns}x{rows} cells is no {source_width}x{source_height} photograph's at "
                "its own size; say how it was brought to the coded size with --fit pad or --fit stretch"
            )
        there = self.split.rows.get(key.name)
        if there and replace(there, name=name, latents={}, encoder={}) != row:
            raise LatentFaceError(f"{key.name} at rate {key.rate}: another size than at its other rates; remove one")
        return row
