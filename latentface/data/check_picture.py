"""The picture of a check: a few latents with their boxes, the sizes of the boxes, amplitudes of channels per rate."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from latentface.codecs.at_hand import decoder_at_hand
from latentface.data.check_boxes import Boxes
from latentface.data.check_files import Split
from latentface.data.check_latents import Measured
from latentface.data.labels import labels_of
from latentface.data.manifest import ManifestRow
from latentface.data.pictures import decode_picture
from latentface.data.sizes import LabelFrame
from latentface.errors import LatentFaceError
from latentface.files import replacing

# Okabe and Ito's colours: told apart by colour-blind people too
BOX, IGNORED, SPLITS = "#E69F00", "#56B4E9", ("#0072B2", "#D55E00", "#009E73", "#CC79A7")
SHOWN = 4  # latents
MARKS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)  # pixels


@dataclass(frozen=True)
class Shown:
    """A latent to draw, with its labels in picture pixels as they are used."""

    title: str
    seen: np.ndarray  # uint8 [H, W, 3], what the latent shows; or [h, w], its first channel
    width: int  # picture pixels
    height: int
    boxes: np.ndarray  # [N, 4] x1 y1 x2 y2
    ignore: np.ndarray  # [N]


def samples(split: Split, frame: LabelFrame, count: int) -> list[Shown]:
    """Pictures with faces, evenly spread over the split, at the highest rate that they have."""
    names = [name for name, rates in split.rates.items() if rates and name in split.labels]
    names = [name for name in names if len(split.labels[name].table)] or names
    shown = []
    count = min(count, len(names))
    for name in (names[(2 * number + 1) * len(names) // (2 * count)] for number in range(count)):
        rate = split.rates[name][-1]
        try:
            array = np.nan_to_num(split.store.read(name, rate).values)
            seen = _seen(array, rate, split.rows.get(name))
            height, width = (side * split.stride for side in array.shape[1:])
            labels = frame.to_picture(labels_of(split.labels[name]), split.rows.get(name), width, height)
        except LatentFaceError:  # is among the findings
            continue
        title = f"{split.name}: {name if len(name) <= 34 else '...' + name[-32:]}, rate {rate}"
        shown.append(Shown(title, seen, width, height, labels.boxes, labels.ignore))
    return shown


def _seen(array: np.ndarray, rate: int, row: ManifestRow | None) -> np.ndarray:
    """The picture that a latent [C, h, w] holds, or a preview of it, where that takes no more files; else a channel."""
    entry = row.latents.get(rate) if row else None
    decoder = decoder_at_hand((entry.codec if entry else "",), array, rate)
    try:
        return array[0] if decoder is None else decode_picture(decoder, array, rate, row)
    except LatentFaceError:  # not its latent
        return array[0]


def draw(path: Path, shown: Sequence[Shown], boxes: Mapping[str, Boxes], measured: Mapping[str, Measured]) -> None:
    """Writes a PNG."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 7.6), layout="constrained")
    parts: Any = figure.subfigures(2, 1, height_ratios=(1, 1.05))
    above, below = parts
    row = above.subplots(1, SHOWN, squeeze=False)[0]
    for axes, one in zip(row, shown, strict=False):
        _latent(axes, one)
    for axes in row[len(shown) :]:
        axes.set_axis_off()
    if shown:
        above.supxlabel(
            "what the latents show, or their first channel; boxes as labels.txt has them (dashed: neither face nor "
            "background); axes: picture pixels",
            fontsize=9,
        )
    heights, amplitudes = below.subplots(1, 2)
    _heights(heights, boxes)
    _amplitudes(amplitudes, measured)
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=110)


def _latent(axes: Any, one: Shown) -> None:
    """A frame around the latent shows what lies outside of it."""
    from matplotlib.patches import Rectangle

    width, height = one.width, one.height
    grey: dict[str, Any] = {}
    if one.seen.ndim == 2:
        low, high = np.percentile(one.seen, (1, 99))
        grey = {"cmap": "gray", "vmin": low, "vmax": max(high, low + 1e-6)}
    axes.imshow(one.seen, extent=(0, width, height, 0), **grey)
    axes.add_patch(Rectangle((0, 0), width, height, fill=False, edgecolor="black", linewidth=1))
    for (x1, y1, x2, y2), ignored in zip(one.boxes, one.ignore, strict=True):
        style = {"edgecolor": IGNORED, "linestyle": "--"} if ignored else {"edgecolor": BOX}
        for edge in ({"edgecolor": "black", "linewidth": 2.6}, {"linewidth": 1.3} | style):
            axes.add_patch(Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, **edge))
    right, bottom = np.max(np.vstack([one.boxes[:, 2:], [[width, height]]]), axis=0)
    left, top = np.min(np.vstack([one.boxes[:, :2], [[0, 0]]]), axis=0)
    axes.set(xlim=(left, right), ylim=(bottom, top))
    axes.set_title(one.title, fontsize=8)
    axes.tick_params(labelsize=7)


def _heights(axes: Any, boxes: Mapping[str, Boxes]) -> None:
    bins = np.geomspace(1, 1024, 41)
    for number, (name, one) in enumerate(boxes.items()):
        usable = one.usable & (one.table[:, 14] == 0)
        heights = (one.table[:, 3] * one.frames[one.picture, 2])[usable]
        if len(heights):
            share = np.full(len(heights), 100 / len(heights))
            colour = SPLITS[number % len(SPLITS)]
            style = "-" if number % 2 == 0 else "--"
            label = f"{name}: {len(heights)} faces, median {np.median(heights):.0f} px"
            axes.hist(np.clip(heights, 1, 1023), bins, weights=share, histtype="step", linewidth=1.8, color=colour,
                      linestyle=style, label=label)  # fmt: skip
    for stride in {one.split.stride for one in boxes.values()} - {1}:
        axes.axvline(stride, color="black", linestyle=":", label=f"one cell: {stride} px")
    axes.set(xscale="log", xlim=(1, 1024), title="Heights of faces", xlabel="height, picture pixels")
    axes.set_ylabel("% of the split's faces")
    axes.set_xticks(MARKS, [str(mark) for mark in MARKS])
    axes.minorticks_off()
    axes.grid(alpha=0.3)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(fontsize=8)


def _amplitudes(axes: Any, measured: Mapping[str, Measured]) -> None:
    """Every rate in a shade of its own, every split in a line of its own."""
    from matplotlib import colormaps

    rates = sorted({rate for one in measured.values() for rate in one.channels})
    shades = dict(zip(rates, colormaps["viridis"](np.linspace(0, 0.88, max(len(rates), 1))), strict=False))
    smallest = np.inf
    for number, (name, one) in enumerate(measured.items()):
        for rate, channels in sorted(one.channels.items()):
            deviation = channels.deviation
            smallest = min([smallest, *deviation[deviation > 0]])
            axes.plot(deviation, color=shades[rate], linewidth=1.3, linestyle=("-", "--", ":", "-.")[number % 4],
                      label=f"{name} {rate}")  # fmt: skip
    axes.set(title="Amplitudes of channels, by split and rate", xlabel="channel", ylabel="standard deviation")
    if np.isfinite(smallest):
        axes.set_yscale("log")
    axes.grid(alpha=0.3)
    if rates:
        axes.legend(fontsize=8, ncols=len(measured), loc="upper right")
