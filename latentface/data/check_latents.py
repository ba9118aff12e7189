"""Every latent on its own: whether it can be read, what is in it, and whether its manifest row says the same."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

import cv2
import numpy as np

from latentface.data.check_damage import damage
from latentface.data.check_files import Split
from latentface.data.check_findings import Finding
from latentface.data.stores import StoredLatent, TreeStore
from latentface.errors import LatentFaceError

THUMBNAIL = 8  # cells a side of what duplicates are found by
WHOLE_FROM = 100  # values other than zero that are needed to say that all are whole
CELLS = 200  # of a latent that are held against the quantisation step
OFF_STEP = 0.3  # share of values off their step's multiples: 0 to 0.03 of the right step, 0.75 and more of a wrong one
CODEC_CHANNELS = {"jpegai": 256, "dct": 256, "pixels": 3}
WRITE_AGAIN = "write it again, or leave the picture out (--fix lists it)"


class Measure(NamedTuple):
    """Of one latent; 500 bytes."""

    picture: str
    rate: int
    codec: str
    model_index: int | None  # as the manifest has it
    shape: tuple[int, int, int]  # C, h, w
    dtype: str
    deviation: float  # of all values
    first: float  # standard deviation of channel 0: of luma, in JPEG AI
    largest: float  # magnitude
    quiet: int  # channels with a standard deviation under 0.3
    whole: float | None  # share of whole numbers among the values that are not zero; None of too few
    thumbnail: np.ndarray  # float32 [64], channel 0


@dataclass
class Channels:
    """Sums over the latents of one rate."""

    count: float = 0.0
    first: np.ndarray = field(default_factory=lambda: np.zeros(0))  # float64 [C]
    second: np.ndarray = field(default_factory=lambda: np.zeros(0))

    def add(self, means: np.ndarray, deviations: np.ndarray, cells: int) -> None:
        if not self.count:
            self.first, self.second = np.zeros(len(means)), np.zeros(len(means))
        if len(means) == len(self.first):  # others are an error of their own
            self.count += cells
            self.first += cells * means.astype(np.float64)
            self.second += cells * (deviations.astype(np.float64) ** 2 + means.astype(np.float64) ** 2)

    @property
    def deviation(self) -> np.ndarray:
        """[C], over all cells of all pictures."""
        return np.sqrt(np.maximum(self.second / self.count - (self.first / self.count) ** 2, 0))


@dataclass
class Measured:
    """All latents of a split that were examined."""

    latents: list[Measure] = field(default_factory=list)
    channels: dict[int, Channels] = field(default_factory=dict)  # by rate

    @property
    def shapes(self) -> Counter[tuple[int, int, int]]:
        return Counter(one.shape for one in self.latents)

    @property
    def of_picture(self) -> dict[str, list[Measure]]:
        found: dict[str, list[Measure]] = {}
        for one in self.latents:
            found.setdefault(one.picture, []).append(one)
        return found


def examine(split: Split, name: str, measured: Measured) -> Iterator[Finding]:
    """Reads all wanted rates of a picture, each once, and adds what it measures."""
    for rate in split.rates[name]:
        place = split.store.place(name, rate)
        try:
            stored = split.store.read(name, rate)
        except LatentFaceError as error:
            yield _unreadable(split, name, rate, place, error)
            continue
        values = stored.values
        finite = np.isfinite(values)
        if not finite.all():
            bad = values.size - int(finite.sum())
            where = int((~finite.all(axis=(1, 2))).sum())
            text = f"{bad} of {values.size} values are NaN or infinite, in {where} of {len(values)} channels"
            yield Finding("error", "not-finite", place, text, WRITE_AGAIN, picture=name)
            continue
        means, deviations = values.mean(axis=(1, 2)), values.std(axis=(1, 2))
        measure = _measure(split, name, rate, stored, values, deviations)
        measured.latents.append(measure)
        measured.channels.setdefault(rate, Channels()).add(means, deviations, values[0].size)
        yield from _odd_values(measure, place)
        yield from _against_manifest(split, measure, values, stored)


def _measure(
    split: Split, name: str, rate: int, stored: StoredLatent, values: np.ndarray, deviations: np.ndarray
) -> Measure:
    told = values[values != 0]
    whole = float((told == np.rint(told)).mean()) if len(told) >= WHOLE_FROM else None
    thumbnail = cv2.resize(np.ascontiguousarray(values[0]), (THUMBNAIL, THUMBNAIL), interpolation=cv2.INTER_AREA)
    return Measure(
        name, rate, split.codec(name, rate), split.model_index(name, rate), values.shape, str(stored.array.dtype),  # type: ignore[arg-type]
        float(values.std()), float(deviations[0]), float(np.abs(values).max()), int((deviations < 0.3).sum()), whole,
        thumbnail.ravel(),
    )  # fmt: skip


def _odd_values(one: Measure, place: str) -> Iterator[Finding]:
    if one.deviation == 0:
        text = "all values are equal: an empty picture, or a codec that failed"
        yield Finding("warning", "constant", place, text, "look at the picture", picture=one.picture)
    wanted = CODEC_CHANNELS.get(one.codec)
    if wanted and one.shape[0] != wanted:
        text = f"{one.shape[0]} channels; latents of {one.codec}, which the manifest names, have {wanted}"
        remedy = "JPEG AI's older test models (3.x) have 192 on half the grid, CompressAI 192 or 320: say what it is"
        yield Finding("error", "codec-channels", place, text, remedy, picture=one.picture)


def _against_manifest(split: Split, one: Measure, values: np.ndarray, stored: StoredLatent) -> Iterator[Finding]:
    """Size and quantisation step."""
    row = split.rows.get(one.picture)
    if row is None:
        return
    if row.cells != one.shape[1:]:
        (rows, columns), (told_rows, told_columns) = one.shape[1:], row.cells
        text = f"{one.picture} has {told_columns}x{told_rows} cells here, its latent_{one.rate} {columns}x{rows}"
        remedy = "latents and manifest are of different encodings: encode this picture again"
        line = split.manifest_line(one.picture)
        yield Finding("error", "size-not-in-manifest", str(split.manifest), text, remedy, line, picture=one.picture)
    entry = row.latents.get(one.rate)
    quantised = entry and entry.step and (entry.codec == "dct" or (entry.codec == "jpegai" and not entry.exact))
    if entry and entry.step and quantised and stored.scale is None:
        share = off_step(values, entry.step)
        if share is not None and share > OFF_STEP:
            text = f"{share:.0%} of its values are no multiples of the step {entry.step:.4g} that the manifest has"
            remedy = f"the file of another rate, or of another encoding, under this name: {WRITE_AGAIN}"
            yield Finding("error", "wrong-step", split.store.place(one.picture, one.rate), text, remedy,
                          picture=one.picture)  # fmt: skip


def off_step(values: np.ndarray, step: float) -> float | None:
    """Share of the values [C, h, w] that lie off the lattice of a step; None where too few are off the middle.

    Our encoders round around a mean of every channel: two of its values differ by multiples of the step.
    """
    cells = values.reshape(len(values), -1)
    cells = cells[:, :: max(1, cells.shape[1] // CELLS)]
    middle = np.partition(cells, cells.shape[1] // 2, axis=1)[:, cells.shape[1] // 2, None]
    steps = (cells - middle) / np.float32(step)
    told = steps[(np.abs(steps) > 0.5) & (np.abs(steps) < 200)]  # beyond, float16 is too coarse
    return float((np.abs(told - np.rint(told)) > 0.1).mean()) if len(told) >= WHOLE_FROM else None


def _unreadable(split: Split, name: str, rate: int, place: str, error: LatentFaceError) -> Finding:
    if isinstance(split.store, TreeStore):
        path = split.store.path(name, rate)
        reason = (None if path.is_symlink() else damage(path)) or str(error).removeprefix(f"{path}: ")
        return Finding("error", "unreadable-latent", place, reason, WRITE_AGAIN, picture=name)
    remedy = "latentface pack DIR --verify reads all of it; pack it again"
    return Finding("error", "unreadable-latent", place, str(error), remedy, picture=name)


def shapes_apart(split: Split, measured: Measured) -> Iterator[Finding]:
    """Latents with another number of channels than most of their rate, and pictures whose rates differ in size."""
    counts: dict[int, Counter[int]] = defaultdict(Counter)
    for one in measured.latents:
        counts[one.rate][one.shape[0]] += 1
    for one in measured.latents:
        usual = counts[one.rate].most_common(1)[0][0]
        if one.shape[0] != usual:
            text = f"{one.shape[0]} channels, most latents of rate {one.rate} have {usual}: a rate needs one number"
            remedy = "made by another codec: sort them apart, or leave the pictures out (--fix lists them)"
            place = split.store.place(one.picture, one.rate)
            yield Finding("error", "channels-differ", place, text, remedy, picture=one.picture)
    for name, latents in measured.of_picture.items():
        sizes = {one.shape[1:] for one in latents}
        if len(sizes) > 1:
            text = "cells of its rates differ: " + ", ".join(
                f"{one.rate}: {one.shape[2]}x{one.shape[1]}" for one in latents
            )
            remedy = "boxes cannot fit all of them: encode this picture again"
            yield Finding("error", "sizes-differ", str(split.store.latent_dir / name), text, remedy, picture=name)
    if len(counts_of_size := Counter(one.shape[1:] for one in measured.latents)) > 1:
        shown = ", ".join(f"{w}x{h} ({count})" for (h, w), count in counts_of_size.most_common(4))
        text = f"{len(counts_of_size)} sizes of latents, in cells: {shown}; batches are padded to the largest"
        yield Finding("note", "many-sizes", str(split.store.latent_dir), text)


def kinds_apart(split: Split, measured: Measured) -> Iterator[Finding]:
    """Codecs and strides of one split that do not go together, and several number types."""
    codecs = Counter(one.codec for one in measured.latents if one.codec != "unknown")
    if len(codecs) > 1:
        usual = codecs.most_common(1)[0][0]
        first = next(one for one in measured.latents if one.codec not in (usual, "unknown"))
        text = "several codecs: " + ", ".join(f"{name} ({count})" for name, count in codecs.most_common())
        line = split.manifest_line(first.picture)
        yield Finding("error", "codecs-differ", str(split.manifest), text, "keep one codec per dataset", line)
    strides = Counter(split.rows[name].stride for name in split.pictures if name in split.rows)
    if len(strides) > 1:
        text = "several strides: " + ", ".join(f"{stride} ({count})" for stride, count in strides.most_common())
        odd = next(n for n in split.rows if split.rows[n].stride != strides.most_common(1)[0][0])
        line = split.manifest_line(odd)
        yield Finding("error", "strides-differ", str(split.manifest), text, "keep one stride per dataset", line)
    dtypes = Counter(one.dtype for one in measured.latents)
    if len(dtypes) > 1:
        text = "several number types: " + ", ".join(f"{name} ({count})" for name, count in dtypes.most_common())
        yield Finding("note", "dtypes-differ", str(split.store.latent_dir), text)
