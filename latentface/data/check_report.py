"""A check in numbers: what is there of every split and rate, for people and as JSON."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from latentface.data.check_boxes import Boxes
from latentface.data.check_files import Split
from latentface.data.check_findings import LEVELS, Findings
from latentface.data.check_latents import Measure, Measured
from latentface.words import counted

Splits = Mapping[str, tuple[Split, Measured, Boxes]]


def counts(split: Split, measured: Measured, boxes: Boxes) -> dict[str, Any]:
    """Of one split."""
    labelled = [name for name in split.pictures if name in split.labels]
    ignored = (boxes.table[:, 14] != 0) & boxes.usable
    faces = boxes.usable & ~ignored
    known = (boxes.table[:, 4:14] != -1).all(axis=1) & faces
    by_rate: dict[int, list[Measure]] = {}
    for one in measured.latents:
        by_rate.setdefault(one.rate, []).append(one)
    return {
        "packed": split.packed,
        "stride": split.stride,
        "pictures": len(split.pictures),
        "labelled": len(labelled),
        "without_faces": sum(not len(split.labels[name].table) for name in labelled),
        "excluded": split.excluded,
        "faces": int(faces.sum()),
        "with_landmarks": int(known.sum()),
        "ignored": int(ignored.sum()),
        "examined": len(split.rates),
        "rates": {str(rate): _of_rate(latents) for rate, latents in sorted(by_rate.items())},
    }


def _of_rate(latents: list[Measure]) -> dict[str, Any]:
    """Medians over the latents of a rate that could be read."""
    shapes = Counter(one.shape for one in latents)
    indices = {one.model_index for one in latents}
    return {
        "latents": len(latents),
        "shapes": {"x".join(map(str, shape)): count for shape, count in shapes.most_common(8)},
        "dtypes": sorted({one.dtype for one in latents}),
        "codecs": sorted({one.codec for one in latents}),
        "model_indices": sorted(index for index in indices if index is not None),
        "deviation": float(np.median([one.deviation for one in latents])),
        "deviation_of_channel_0": float(np.median([one.first for one in latents])),
        "largest": max(one.largest for one in latents),
        "quiet_channels": int(np.median([one.quiet for one in latents])),
    }


def summary(splits: Splits) -> Iterator[str]:
    """A paragraph for each split, a line for each rate."""
    for name, parts in splits.items():
        of = counts(*parts)
        yield (
            f"{name}: {counted(of['pictures'], 'picture')}{', packed' * of['packed']}, {of['labelled']} with labels "
            f"({of['without_faces']} of them without faces), {counted(of['faces'], 'face')}, "
            f"{of['with_landmarks']} with landmarks"
            + f", {of['ignored']} to ignore" * (of["ignored"] > 0)
            + f"; {of['excluded']} excluded" * (of["excluded"] > 0)
            + f"; latents of {of['examined']} examined" * (of["examined"] < of["pictures"])
        )
        for rate, at in of["rates"].items():
            shape = next(iter(at["shapes"])).replace("x", " x ") + " and others" * (len(at["shapes"]) > 1)
            indices = " and ".join(map(str, at["model_indices"]))
            yield (
                f"  rate {rate:>3}: {counted(at['latents'], 'latent')}, {shape}, "
                f"{' and '.join(at['dtypes'])}, codec {' and '.join(at['codecs'])}"
                + f" model {indices}" * bool(indices)
                + f", standard deviation {at['deviation']:.3g}, up to {at['largest']:.3g}"
            )


def plain(root: Path, splits: Splits, findings: Findings, sample: int) -> dict[str, Any]:
    """For JSON."""
    return {
        "root": str(root),
        "sample": sample or None,
        **{f"{level}s": findings.count(level) for level in LEVELS},
        "splits": {name: counts(*parts) for name, parts in splits.items()},
        "findings": [group.plain() for group in findings.of(*LEVELS)],
    }
