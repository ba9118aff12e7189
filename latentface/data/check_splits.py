"""Two splits of one dataset beside each other: the same codec, channels and amplitudes."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from latentface.data.check_amplitudes import FEWEST
from latentface.data.check_files import Split
from latentface.data.check_findings import Finding, Level, first_of
from latentface.data.check_latents import Measure, Measured

APART = np.log(2.0)  # between the median standard deviations of one rate
FAR_APART = np.log(4.0)  # two sets of photographs do not differ so
REMEDY = "encode both alike"


def compare(first: Split, second: Split, a: Measured, b: Measured) -> Iterator[Finding]:
    """Findings about `second`, held against `first`."""
    place = str(second.store.split)
    channels, codecs = ([{str(of(one)) for one in m.latents} for m in (a, b)] for of in (_channels, _codec))
    if all(channels) and not channels[0] & channels[1]:
        text = f"{first_of(channels[1])} channels, {first.name} has {first_of(channels[0])}"
        yield Finding("error", "splits-differ", place, text, f"one model cannot read both: {REMEDY}")
    elif "unknown" not in codecs[0] | codecs[1] and all(codecs) and not codecs[0] & codecs[1]:
        text = f"codec {first_of(codecs[1])}, {first.name} has {first_of(codecs[0])}"
        yield Finding("error", "splits-differ", place, text, REMEDY)
    else:
        for rate in sorted(a.channels.keys() & b.channels.keys()):
            deviations = [[one.deviation for one in m.latents if one.rate == rate] for m in (a, b)]
            ours, theirs = map(float, map(np.median, deviations))
            if min(map(len, deviations)) >= FEWEST and min(ours, theirs) > 0 and abs(np.log(theirs / ours)) > APART:
                text = f"rate {rate}: standard deviation {theirs:.3g}, in {first.name} {ours:.3g}"
                remedy = f"another rate, model or codec than in {first.name}: {REMEDY}"
                level: Level = "error" if abs(np.log(theirs / ours)) > FAR_APART else "warning"
                yield Finding(level, "splits-differ", place, text, remedy)


def _channels(one: Measure) -> int:
    return one.shape[0]


def _codec(one: Measure) -> str:
    return one.codec
