"""Whether latents have the amplitudes of the rate and model that they are named after.

A codec's networks are trained apart: JPEG AI's four differ by 2.4 to 2.7 times from one to the next. The contrast of
a picture moves its amplitude by as much, so one latent alone says little. What tells is the median over a set, the
rates of one picture beside each other, and the largest value, which white and black bound: dull pictures of one model
have the deviation of the model below, but not its largest values.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain, combinations, pairwise

import numpy as np

from latentface.codecs.amplitudes import JPEG_AI_MODELS as MODELS
from latentface.data.check_files import Split
from latentface.data.check_findings import Finding, Level, first_of
from latentface.data.check_latents import Measure, Measured

JPEG_AI_CHANNELS = 256
PIXEL_CHANNELS = 3


Kinds = dict[tuple[int, int | None], list[Measure]]  # by rate and the model index that the manifest has

FEWEST = 5  # latents that make a median
OTHER_MODEL = np.log(2.0)  # a median that is off by more has another model's amplitude, if that one's is nearer
NO_MODEL = np.log(2.5)  # and beyond that from all of them: another codec
WITHIN_PICTURE = 0.35  # ln 1.42; the rates of one picture agree within 0.15 on 487 photographs, models differ by 0.9
NEXT_MODEL = 1.4  # within a picture, the logarithm up to which it is the next model and not one further
BEYOND = 1.25  # of the largest magnitude of a model: its values do not go there
LOW_SHARE = 0.03  # of latents with amplitudes of the model below; 0.001 to 0.004 of real ones are so dull
ALL_WHOLE = 0.99  # of JPEG AI's y_hat 0.01 of the values are whole numbers
REMEDY_NAMES = "look which file was stored under which name, and encode these pictures again"
REMEDY_MIXED = (
    "rate control took another model for some pictures; a manifest that names the model index of each lets "
    "every model have its own normalisation"
)


def check_amplitudes(split: Split, measured: Measured) -> Iterator[Finding]:
    """All checks of one split; those of single latents only where the rate as a whole is in order."""
    kinds: Kinds = {}
    for one in measured.latents:
        if one.deviation > 0:
            kinds.setdefault(_kind(one), []).append(one)
    kinds = dict(sorted(kinds.items(), key=lambda item: (item[0][0], item[0][1] or 0)))
    found = [finding for (rate, _), latents in kinds.items() for finding in _of_kind(split, rate, latents)]
    codes = {finding.code for finding in found}
    yield from found
    yield from _rates_in_order(split, kinds, sure="not-jpegai" not in codes)
    if codes & {"wrong-rate", "another-codec"}:
        return
    bounds = () if "not-jpegai" in codes else _beyond_bounds(split, kinds)
    told: set[str] = set()
    for finding in chain(_same_file(split, measured), _within_pictures(split, measured), bounds):
        if finding.where not in told:  # one line for each latent
            yield finding
        if finding.picture:
            told.add(finding.where)


def _of_kind(split: Split, rate: int, latents: list[Measure]) -> Iterator[Finding]:
    """Integers in place of y_hat, another codec, another rate: of all latents of a rate and model together."""
    place = f"{split.store.latent_dir}/*/latent_{rate}.npy" if not split.packed else str(split.store.split)
    yield from _whole_numbers(rate, place, latents)
    claimed = _claimed(latents)
    if claimed is None or len(latents) < FEWEST:
        return
    deviation, first = (float(np.median([getattr(one, name) for one in latents])) for name in ("deviation", "first"))
    quiet, largest = (float(np.median([getattr(one, name) for one in latents])) for name in ("quiet", "largest"))
    off = [model.distance(deviation, max(first, 1e-9)) for model in MODELS]
    nearest = int(np.argmin(np.abs(off)))
    seen = (
        f"rate {rate}: standard deviation {deviation:.2g} (channel 0: {first:.3g}), {quiet:.0f} channels under 0.3, "
        f"median of {len(latents)}; JPEG AI model {claimed} has {MODELS[claimed].deviation:g} "
        f"({MODELS[claimed].first:g})"
    )
    told = latents[0].codec == "jpegai"
    if abs(off[nearest]) > NO_MODEL:
        text = f"{seen}: another codec's"
        if told:
            yield Finding("error", "another-codec", place, text, "the manifest names JPEG AI: encode again")
        else:
            yield Finding("note", "not-jpegai", place, text, "fine, if these are another codec's latents")
    elif nearest != claimed and abs(off[claimed]) > OTHER_MODEL and largest < BEYOND * MODELS[nearest].largest:
        rates = " or ".join(map(str, MODELS[nearest].rates))
        text = f"{seen}: these are of model {nearest}, which is rate {rates}"
        chosen = not told and abs(nearest - claimed) == 1  # rate control may have preferred the next model
        yield Finding("warning" if chosen else "error", "wrong-rate", place, text, REMEDY_NAMES)


def _claimed(latents: list[Measure]) -> int | None:
    """The JPEG AI model that these should be of: by the manifest, or by the rate where none says anything."""
    one = latents[0]
    if one.codec == "jpegai" and one.model_index is not None:
        return one.model_index if one.model_index < len(MODELS) else None
    if one.codec == "jpegai" or (one.codec == "unknown" and one.shape[0] == JPEG_AI_CHANNELS):
        return next((index for index, model in enumerate(MODELS) if one.rate in model.rates), None)
    return None


def _whole_numbers(rate: int, place: str, latents: list[Measure]) -> Iterator[Finding]:
    shares = [one.whole for one in latents if one.whole is not None]
    codec, channels = latents[0].codec, latents[0].shape[0]
    if channels == PIXEL_CHANNELS or codec not in ("jpegai", "unknown") or not shares or np.median(shares) < ALL_WHOLE:
        return
    text = f"rate {rate}: whole numbers ({np.median(shares):.0%} of the values): not y_hat but the coded residual?"
    remedy = "JPEG AI's y_hat is real valued (mean + residual): dump model_y.y_hat and model_uv.y_hat"
    if codec == "unknown":
        remedy += "; fine, if this codec's latents are whole numbers"
    yield Finding("error" if codec == "jpegai" else "warning", "integers", place, text, remedy)


def _rates_in_order(split: Split, kinds: Kinds, sure: bool) -> Iterator[Finding]:
    """Where no manifest says anything: JPEG AI's amplitudes do not shrink as the rate grows. `sure`: they are its."""
    medians = {
        rate: float(np.median([one.deviation for one in latents]))
        for (rate, _), latents in kinds.items()
        if len(latents) >= FEWEST and latents[0].codec == "unknown"
    }
    for low, high in pairwise(sorted(medians)):
        if np.log(medians[low] / medians[high]) > WITHIN_PICTURE:
            text = f"rate {high} has a smaller amplitude ({medians[high]:.3g}) than rate {low} ({medians[low]:.3g})"
            level: Level = "error" if sure and _claimed(kinds[low, None]) is not None else "warning"
            yield Finding(level, "rates-out-of-order", str(split.store.latent_dir), text, REMEDY_NAMES)


def _same_file(split: Split, measured: Measured) -> Iterator[Finding]:
    """One content under two rates: every statistic agrees to the bit. A plain picture may need the same step twice."""
    for name, latents in measured.of_picture.items():
        seen: dict[tuple, int] = {}
        for one in latents:
            content = (one.deviation, one.first, one.largest, one.quiet, one.thumbnail.tobytes())
            other = seen.setdefault(content, one.rate)
            if other != one.rate and one.deviation > 0 and not _coded_alike(split, name, one.rate, other):
                text = f"the same content as rate {other}: one of them is under a wrong name"
                place = split.store.place(name, one.rate)
                yield Finding("error", "same-at-two-rates", place, text, REMEDY_NAMES, picture=name)


def _coded_alike(split: Split, name: str, *rates: int) -> bool:
    """Whether the manifest has the same model and step for both rates, or both are plain pixels."""
    row = split.rows.get(name)
    entries = [row.latents.get(rate) for rate in rates] if row else []
    known = [(entry.codec, entry.model_index, entry.step) for entry in entries if entry]
    return len(known) == len(rates) and len(set(known)) == 1


def _beyond_bounds(split: Split, kinds: Kinds) -> Iterator[Finding]:
    """Single latents whose values are larger than their model's can be, and too many that are too small."""
    for (rate, _), latents in kinds.items():
        claimed, told = _claimed(latents), latents[0].codec == "jpegai"
        if claimed is None or (not told and len(latents) < FEWEST):
            continue
        median = float(np.median([one.deviation for one in latents]))
        low = []
        for one in latents:
            if one.largest > BEYOND * MODELS[claimed].largest:
                yield _too_large(split, one, claimed, told)
            elif claimed and one.largest < 1.1 * MODELS[claimed - 1].largest and one.deviation < 0.62 * median:
                low.append(one.picture)
        if len(low) >= FEWEST and len(low) > LOW_SHARE * len(latents):
            text = (
                f"rate {rate}: {len(low)} of {len(latents)} latents have the amplitude of the model below "
                f"{claimed}: {first_of(low)}"
            )
            yield Finding("warning", "mixed-models", str(split.store.latent_dir), text, REMEDY_MIXED)


def _too_large(split: Split, one: Measure, index: int, told: bool) -> Finding:
    """Not known to a manifest and within the next model's range: rate control may have chosen that one."""
    text = f"values up to {one.largest:.0f}, JPEG AI model {index} ends at {MODELS[index].largest:.0f}"
    place = split.store.place(one.picture, one.rate)
    following = MODELS[min(index + 1, len(MODELS) - 1)]
    if told or one.largest > BEYOND * following.largest:
        return Finding("error", "wrong-rate-of-picture", place, text, REMEDY_NAMES, picture=one.picture)
    return Finding("warning", "mixed-models", place, text, REMEDY_MIXED, picture=one.picture)


def _within_pictures(split: Split, measured: Measured) -> Iterator[Finding]:
    """The rates of one picture beside each other: its contrast moves all of them alike."""
    typical: dict[tuple, list[float]] = {}
    several = {name: latents for name, latents in measured.of_picture.items() if len(latents) > 1}
    for latents in several.values():
        for one in latents:
            typical.setdefault(_kind(one), []).append(np.log(max(one.deviation, 1e-9)))
    medians = {kind: float(np.median(values)) for kind, values in typical.items() if len(values) >= FEWEST}
    for latents in several.values():
        known = [one for one in latents if one.deviation > 0 and _kind(one) in medians]
        off = np.array([np.log(one.deviation) - medians[_kind(one)] for one in known])
        shrinking = any(np.log(a.deviation / b.deviation) > WITHIN_PICTURE for a, b in combinations(known, 2))
        for one, own in zip(known, off - np.median(off) if len(off) else off, strict=True):
            if len(known) > 1 and abs(own) > WITHIN_PICTURE:
                yield _out_of_step(split, one, float(own), shrinking)


def _kind(one: Measure) -> tuple[int, int | None]:
    """Key of `Kinds`."""
    return one.rate, one.model_index


def _out_of_step(split: Split, one: Measure, off: float, shrinking: bool) -> Finding:
    """Rate control takes the next model at times, but never a lower one for a higher rate: that is `shrinking`."""
    text = f"its amplitude is {np.exp(off):.2g} times what this picture's other rates lead to expect"
    place = split.store.place(one.picture, one.rate)
    if one.codec == "unknown" and abs(off) < NEXT_MODEL and not shrinking:
        return Finding("warning", "mixed-models", place, text, REMEDY_MIXED, picture=one.picture)
    return Finding("error", "wrong-rate-of-picture", place, text, REMEDY_NAMES, picture=one.picture)
