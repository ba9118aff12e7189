"""What of a split is there: its folders, labels and manifest, and how they belong together."""

from __future__ import annotations

import difflib
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from latentface.data.check_findings import Finding, first_of, of_error
from latentface.data.exclusions import EXCLUDE_NAME, exclusion_notes, read_exclusions
from latentface.data.label_rows import Rows, read_rows
from latentface.data.manifest import MANIFEST_NAME, ManifestRow, manifest_lines, read_manifest
from latentface.data.stores import PACK_NAME, LatentStore, TreeStore, find_labels, latent_folder, open_store, rate_of
from latentface.errors import LatentFaceError
from latentface.files import base_name, refuse_link_outside

SUGGESTED_FROM = 2000  # names that a near one is looked for among


@dataclass(frozen=True)
class Place:
    """Where a split is; `labels` None: beside the latents or among them; `pictures` None: all that there are."""

    name: str
    latent_dir: Path
    labels: Path | None = None
    pictures: tuple[str, ...] | None = None


@dataclass
class Split:
    """A split as its names, labels and manifest describe it; no latent is read yet."""

    name: str
    store: LatentStore
    label_file: Path | None
    labels: dict[str, Rows] = field(default_factory=dict)  # by base name, without the excluded
    rows: dict[str, ManifestRow] = field(default_factory=dict)
    pictures: list[str] = field(default_factory=list)  # with latents, sorted, without the excluded
    excluded: int = 0
    rates: dict[str, tuple[int, ...]] = field(default_factory=dict)  # of the pictures examined
    default_stride: int = 16
    part: bool = False  # only some of the set's pictures are looked at
    _lines: dict[str, int] | None = None

    @property
    def packed(self) -> bool:
        return not isinstance(self.store, TreeStore)

    @property
    def manifest(self) -> Path:
        return self.store.split / MANIFEST_NAME

    @property
    def stride(self) -> int:
        """Picture pixels per cell: of the manifest, else of the store, else as told."""
        return next((row.stride for row in self.rows.values()), self.store.stride or self.default_stride)

    def manifest_line(self, name: str) -> int | None:
        """Of a picture; the lines are counted when one is first asked for."""
        if self._lines is None:
            self._lines = manifest_lines(self.manifest)
        return self._lines.get(name)

    def model_index(self, name: str, rate: int) -> int | None:
        """As the manifest has it."""
        row = self.rows.get(name)
        entry = row.latents.get(rate) if row else None
        return entry.model_index if entry else None

    def codec(self, name: str, rate: int) -> str:
        """As the manifest has it, else "unknown"."""
        row = self.rows.get(name)
        entry = row.latents.get(rate) if row else None
        return entry.codec if entry else "unknown"


def find_places(root: Path, names: Sequence[str]) -> list[Place]:
    """The splits of a dataset, or a split that was named itself. Raises LatentFaceError where there is none."""
    if not root.is_dir():
        raise LatentFaceError(f"{root}: no such folder; give the one that holds train/ and val/")
    if not names and latent_folder(root).is_dir():
        return [Place(root.resolve().name, latent_folder(root))]
    folders = [root / name for name in names] or sorted(path for path in root.iterdir() if path.is_dir())
    found = [Place(folder.name, latent_folder(folder)) for folder in folders if latent_folder(folder).is_dir()]
    for folder in folders if names else ():
        if not latent_folder(folder).is_dir():
            raise LatentFaceError(f"{folder}: neither latent/ nor {PACK_NAME} in it; name splits of {root}")
    if not found:
        there = first_of((path.name for path in sorted(root.iterdir())), 5) or "nothing"
        raise LatentFaceError(
            f"{root}: no split in it (there is {there}); expected {root}/train/latent/<picture>/latent_75.npy"
        )
    return found


def open_split(place: Place, stride: int) -> tuple[Split | None, list[Finding]]:
    """Reads names, labels and manifest. No split where the latents cannot be opened at all."""
    findings: list[Finding] = []
    try:
        store = open_store(place.latent_dir)
        names = store.names() if place.pictures is None else list(place.pictures)
    except LatentFaceError as error:
        return None, [of_error("error", "unreadable-split", error, place.latent_dir)]
    split = Split(
        place.name, store, _label_file(place, findings), default_stride=stride, part=place.pictures is not None
    )
    excluded = _excluded(split, findings)
    split.rows = _manifest(split, findings)
    labels = _labels(split.label_file, findings) if split.label_file else {}
    known = {*names, *labels}
    for note in exclusion_notes(store.split, excluded, known):
        findings.append(Finding("note", "excluded", str(store.split / EXCLUDE_NAME), note))
    split.excluded = len(known & excluded.keys())
    split.pictures = [name for name in names if name not in excluded]
    split.labels = {name: rows for name, rows in labels.items() if name not in excluded}
    return split, findings


def _label_file(place: Place, findings: list[Finding]) -> Path | None:
    try:
        path = place.labels or find_labels(place.latent_dir)
    except LatentFaceError as error:
        remedy = "put labels.txt into the split; without it nothing can be learned from these latents"
        findings.append(Finding("error", "no-labels", str(place.latent_dir.parent), str(error), remedy))
        return None
    other = place.latent_dir / "labels.txt"
    if place.labels is None and path != other and other.is_file() and path.read_bytes() != other.read_bytes():
        text = f"differs from {path}, which is the one that is read"
        findings.append(Finding("warning", "two-label-files", str(other), text, "remove the one that is out of date"))
    return path


def _excluded(split: Split, findings: list[Finding]) -> dict[str, int]:
    try:
        return read_exclusions(split.store.split)
    except LatentFaceError as error:
        findings.append(of_error("error", "exclusions", error, split.store.split / EXCLUDE_NAME))
        return {}


def _manifest(split: Split, findings: list[Finding]) -> dict[str, ManifestRow]:
    if not split.manifest.is_file():
        return {}
    try:
        refuse_link_outside(split.manifest, split.store.split)
        return read_manifest(split.manifest)
    except LatentFaceError as error:
        findings.append(of_error("error", "manifest", error, split.manifest))
        return {}


def _labels(path: Path, findings: list[Finding]) -> dict[str, Rows]:
    """The rows of every picture, up to a line that cannot be read."""
    found: dict[str, Rows] = {}
    try:
        for rows in read_rows(path):
            first = found.setdefault(base_name(rows.name), rows)
            if first is not rows:
                text = f"{rows.name} has the same base name as {first.name} in line {first.line}"
                remedy = "keep one of them, or rename one with its picture"
                findings.append(Finding("error", "name-twice", str(path), text, remedy, rows.line))
    except LatentFaceError as error:
        findings.append(of_error("error", "label-form", error, path))
    return found


def pairing(split: Split) -> Iterator[Finding]:
    """Pictures without labels, labels and manifest rows without pictures, with the nearest names."""
    pictures, labels = set(split.pictures), split.labels.keys()
    unlabelled, unencoded = sorted(pictures - labels), sorted(labels - pictures)
    if not pictures:
        yield Finding("error", "empty-split", str(split.store.latent_dir), "no folder of latents in it")
    near = Nearest(unencoded), Nearest(unlabelled)
    if split.label_file and pictures and len(unlabelled) == len(pictures):
        text = f"no label belongs to any folder of {split.store.latent_dir}" + near[0].hint(unlabelled[0])
        remedy = "a folder and a label belong together by equal base name: <name>/latent_75.npy and <event>/<name>.jpg"
        yield Finding("error", "no-pair", str(split.label_file), text, remedy)
        return
    for number, name in enumerate(unlabelled if split.label_file else ()):
        text = "has latents but no label" + (near[0].hint(name) if number < 3 else "")
        remedy = "left out of training; a picture without faces wants its name and the count 0 in labels.txt"
        yield Finding("warning", "no-label", str(split.store.latent_dir / name), text, remedy)
    for number, name in enumerate(unencoded):
        rows = split.labels[name]
        text = f"{rows.name} has a label but no latents" + (near[1].hint(name) if number < 3 else "")
        yield Finding("warning", "no-latents", str(split.label_file), text, "left out of training", rows.line)
    strays = sorted(split.rows.keys() - pictures - labels)
    if strays:
        text = f"{len(strays)} rows have neither latents nor a label: {first_of(strays)}"
        line = split.manifest_line(strays[0])
        yield Finding("note", "manifest-strays", str(split.manifest), text, "", line)
    if split.rows and (without := sorted(pictures - split.rows.keys())):
        text = f"{len(without)} pictures have no row: {first_of(without)}; they are normalised by rate, others by model"
        yield Finding("warning", "no-manifest-row", str(split.manifest), text, "encode these pictures again")


class Nearest:
    """Suggests a name out of many: what differs in case and punctuation only, else what looks alike."""

    def __init__(self, names: Sequence[str]) -> None:
        self.alike = {_plain(name): name for name in names}
        self.few = names[:: max(1, -(-len(names) // SUGGESTED_FROM))]

    def hint(self, name: str) -> str:
        """`; did you mean ...` or nothing."""
        found = self.alike.get(_plain(name)) or next(iter(difflib.get_close_matches(name, self.few, 1, 0.8)), "")
        return f" (did you mean {found}?)" if found else ""


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


def find_rates(split: Split, names: Iterable[str], wanted: Sequence[int]) -> Iterator[Finding]:
    """Fills `split.rates` for these pictures, and tells of files that are not where they belong."""
    for name in names:
        if isinstance(split.store, TreeStore):
            rates, odd = _of_folder(split.store.latent_dir / name)
        else:
            rates, odd = split.store.rates, []  # type: ignore[attr-defined]
            rates = [rate for rate in rates if split.store.has(name, rate)]
        split.rates[name] = tuple(sorted(rate for rate in rates if not wanted or rate in wanted))
        if not rates:
            text = f"no latent in it; it holds {first_of(odd) or 'nothing'}"
            remedy = "latents are called latent_<rate>.npy, such as latent_75.npy"
            yield Finding("warning", "no-rate", str(split.store.latent_dir / name), text, remedy)
        if row := split.rows.get(name):
            yield from _against_row(split, name, row)


def _of_folder(folder: Path) -> tuple[list[int], list[str]]:
    """Rates of a picture's folder, and what else is in it."""
    try:
        files = [path.name for path in folder.iterdir()]
    except OSError:
        return [], []
    rates = {file: rate_of(file) for file in files}
    return [rate for rate in rates.values() if rate is not None], sorted(f for f, rate in rates.items() if rate is None)


def _against_row(split: Split, name: str, row: ManifestRow) -> Iterator[Finding]:
    there, told = set(split.rates[name]), set(row.latents)
    for rate in sorted(there - told):
        text = f"has {name} without rate {rate}, but {split.store.place(name, rate)} is there"
        remedy = "its model is unknown: it is normalised by rate, others by model; encode it again"
        yield Finding("warning", "rate-not-in-manifest", str(split.manifest), text, remedy, split.manifest_line(name))


def missing_rates(split: Split) -> Iterator[Finding]:
    """Rates that some pictures have and others lack. Sets with one rate for each view are made so on purpose."""
    counts = Counter(rate for rates in split.rates.values() for rate in rates)
    for rate, count in sorted(counts.items()):
        missing = [name for name, rates in split.rates.items() if rates and rate not in rates]
        if missing and len(missing) <= 0.3 * len(split.rates):
            text = f"{len(missing)} of {count + len(missing)} pictures have no latent_{rate}.npy: {first_of(missing)}"
            yield Finding("warning", "missing-rate", str(split.store.latent_dir), text, "left out at this rate")
