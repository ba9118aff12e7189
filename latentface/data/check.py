"""`latentface check ROOT`: a doctor for datasets, in the documented tree and packed.

It reads every latent once, one after the other; what it keeps of each is some 700 bytes, whatever its size. Training
runs `quick_check` first, on a sample.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

from latentface.data import check_duplicates, check_files
from latentface.data.check_amplitudes import check_amplitudes
from latentface.data.check_boxes import Boxes, check_boxes, gather
from latentface.data.check_files import Place, Split
from latentface.data.check_findings import Finding, Findings
from latentface.data.check_frames import label_frames
from latentface.data.check_landmarks import check_landmarks
from latentface.data.check_latents import Measured, examine, kinds_apart, shapes_apart
from latentface.data.check_picture import SHOWN, draw, samples
from latentface.data.check_report import plain, summary
from latentface.data.check_splits import compare
from latentface.data.exclusions import EXCLUDE_NAME, add_exclusions
from latentface.data.packed import PackedStore
from latentface.data.sizes import LabelFrame, label_frame
from latentface.errors import LatentFaceError
from latentface.options import option
from latentface.progress import progress

MANY_FILES = 5000  # from which a pack is worth its disk
MOST_EXCLUDED = 0.5  # share of a split; beyond that something else is wrong
QUICK_LATENTS = 160  # of each split, before training
QUICK_LINES = 5  # of warnings then
RELEASED_EVERY = 20  # pictures: a packed set's pages count as memory while its files are open


@dataclass
class CheckConfig:
    """Looks for everything that stops training or makes it learn garbage. Exit code 1 where there are errors."""

    root: str = option(help="dataset with train/ and val/, or one split of it; a tree or packed", positional=True)
    splits: tuple[str, ...] = option((), "splits to check; empty: every folder below ROOT with latents")
    rates: tuple[int, ...] = option((), "rates to check; empty: all")
    sample: int = option(0, "read the latents of so many pictures of each split, evenly spread; 0: all")
    stride: int = option(16, "picture pixels per cell, where no manifest says it")
    label_frame: str = option("picture", "coordinates of the labels", choices=("picture", "source"))
    image_sizes: str = option("", "JSON of picture name -> [width, height] of photographs, for --label_frame source")
    image_dir: str = option("", "the photographs themselves, to read their sizes from; implies --label_frame source")
    label_fit: str = option("stretch", "how photographs were brought to the coded size", choices=("stretch", "pad"))
    picture: str = option("", "file for a picture (PNG): latents with boxes, sizes of faces, amplitudes of channels")
    fix: bool = option(
        False, f"add pictures with errors to {EXCLUDE_NAME} of their split, which training reads; changes nothing else"
    )
    json: bool = option(False, "print the result as JSON")

    def __post_init__(self) -> None:
        if self.sample < 0 or self.stride < 1:
            raise LatentFaceError("--sample has to be 0 or more, --stride 1 or more")


@dataclass
class Checked:
    """A split with all that was measured of it."""

    split: Split
    measured: Measured
    boxes: Boxes


@dataclass
class Report:
    """What a check found."""

    findings: Findings
    splits: dict[str, Checked]

    @property
    def errors(self) -> int:
        return self.findings.count("error")


def run(config: CheckConfig) -> int:
    """The command."""
    root = Path(config.root)
    frame = label_frame(config.label_frame, config.image_sizes, config.image_dir, config.label_fit)
    report = check(check_files.find_places(root, config.splits), frame, config.rates, config.stride, config.sample)
    if "train" in report.splits and "val" not in report.splits and not config.splits:
        remedy = "without it training cannot tell how good it is: keep some pictures apart in val/"
        report.findings.add("val", Finding("warning", "no-validation", str(root / "val"), "not there", remedy))
    splits = {name: (one.split, one.measured, one.boxes) for name, one in report.splits.items()}
    if config.json:
        print(json.dumps(plain(root, splits, report.findings, config.sample), indent=1))
    else:
        print("\n".join([*summary(splits), *report.findings.lines()]))
    if config.picture:
        _draw(Path(config.picture), report, frame)
    if config.fix:
        return _fix(report)
    return 1 if report.errors else 0


def check(
    places: Sequence[Place],
    frame: LabelFrame,
    rates: Sequence[int] = (),
    stride: int = 16,
    sample: int = 0,
    quick: bool = False,
) -> Report:
    """Every split on its own, then beside each other. `quick`: without what needs every folder or every latent."""
    findings = Findings()
    splits: dict[str, Checked] = {}
    for place in places:
        split, found = check_files.open_split(place, stride)
        findings.add(place.name, *found)
        if split is not None:
            splits[place.name] = _check_split(split, findings, frame, rates, sample, quick)
    training_first = sorted(splits.values(), key=lambda one: one.split.name != "train")
    for a, b in combinations(training_first, 2):
        pair = a.split, b.split, a.measured, b.measured
        if not quick:
            findings.add(a.split.name, *check_duplicates.between(*pair))
        findings.add(b.split.name, *check_duplicates.of_one_photograph(a.split, b.split), *compare(*pair))
    return Report(findings, splits)


def quick_check(places: Sequence[Place], frame: LabelFrame, rates: Sequence[int], stride: int) -> list[str]:
    """Before training: lines of warning. Raises LatentFaceError for what would stop it or make it learn garbage."""
    sample = max(8, QUICK_LATENTS // max(1, len(rates)))
    findings = check(places, frame, rates, stride, sample, quick=True).findings
    stopping = findings.of("error")
    if stopping:
        first = stopping[0].kept[0]
        more = sum(group.count for group in stopping) - 1
        raise LatentFaceError(
            f"{first.place}: {first.message}; {first.remedy or 'look at it'}"
            + f" ({more} more errors: latentface check has them all)" * (more > 0)
            + "; --no_check trains nevertheless"
        )
    groups = findings.of("warning")
    lines = [f"{group.kept[0]}" + f" ({group.count - 1} more)" * (group.count > 1) for group in groups]
    return lines[:QUICK_LINES] + [f"{len(lines) - QUICK_LINES} more: latentface check"] * (len(lines) > QUICK_LINES)


def _check_split(
    split: Split, findings: Findings, frame: LabelFrame, rates: Sequence[int], sample: int, quick: bool
) -> Checked:
    labelled = [name for name in split.pictures if name in split.labels]
    chosen = _spread(labelled or split.pictures, sample)  # others are left out of training
    findings.add(split.name, *check_files.find_rates(split, chosen, rates))
    if not quick:
        findings.add(split.name, *check_files.pairing(split), *check_files.missing_rates(split), *_many_files(split))
    measured = Measured()
    for number, name in enumerate(progress(chosen, f"checking {split.name}", unit="picture")):
        findings.add(split.name, *examine(split, name, measured))
        if isinstance(split.store, PackedStore) and number % RELEASED_EVERY == 0:
            split.store.release()
    findings.add(split.name, *shapes_apart(split, measured), *kinds_apart(split, measured))
    findings.add(split.name, *check_amplitudes(split, measured))
    if not quick:
        findings.add(split.name, *check_duplicates.within(split, measured))
    frames, found = label_frames(split, measured, frame)
    findings.add(split.name, *found)
    boxes = gather(split, frames)
    if split.label_file and (frames or not split.labels):
        findings.add(split.name, *check_boxes(boxes), *check_landmarks(boxes))
    return Checked(split, measured, boxes)


def _spread(names: Sequence[str], count: int) -> list[str]:
    """So many of them, evenly spread; 0: all."""
    if not count or count >= len(names):
        return list(names)
    return [names[index * len(names) // count] for index in range(count)]


def _many_files(split: Split) -> Iterator[Finding]:
    number = sum(map(len, split.rates.values()))
    if number >= MANY_FILES and not split.packed:
        text = f"{number} small files, slow to read from a network disk"
        remedy = "latentface pack stores them in few, of half or a quarter of the size"
        yield Finding("note", "many-files", str(split.store.latent_dir), text, remedy)


def _draw(path: Path, report: Report, frame: LabelFrame) -> None:
    shown = []
    for name, one in report.splits.items():
        places = SHOWN // len(report.splits) + (SHOWN % len(report.splits) if name == "train" else 0)
        shown += samples(one.split, frame, places)
    measured = {name: one.measured for name, one in report.splits.items()}
    draw(path, shown, {name: one.boxes for name, one in report.splits.items()}, measured)
    print(f"{path}: written", file=sys.stderr)


def _fix(report: Report) -> int:
    """Lists pictures with errors in the splits' `exclude.txt`; 1 where errors remain that this does not mend."""
    remaining = report.findings.of_the_whole
    for name, reasons in report.findings.excludable.items():
        split = report.splits[name].split
        if len(reasons) > MOST_EXCLUDED * len(split.pictures):
            print(
                f"{name}: {len(reasons)} of {len(split.pictures)} pictures have errors, nothing is excluded: this is "
                "no matter of single pictures",
                file=sys.stderr,
            )
            remaining += len(reasons)
            continue
        try:
            path = add_exclusions(split.store.split, reasons)
        except LatentFaceError as error:
            raise LatentFaceError(
                f"{error}; or check a folder elsewhere, with a link to latent/ and copies of this split's other files"
            ) from error
        print(f"{name}: {len(reasons)} pictures added to {path}; every reader leaves them out", file=sys.stderr)
    if remaining:
        print(f"{remaining} errors remain that no exclusion mends", file=sys.stderr)
    return 1 if remaining else 0
