"""Charts of a report as SVG that takes the page's own text colour, so that it can be read on light and on dark."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import cycle, pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from latentface.apps.report_faces import Judged
from latentface.apps.report_runs import Training, mean_ap
from latentface.evaluation.average_precision import HEIGHT_BANDS, DetectionScore
from latentface.evaluation.outcomes import heights
from latentface.evaluation.report import STYLES, Curves, draw, plain

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK = "#010203"  # stands for the page's text colour; no chart has it otherwise
_STYLE_SHEET = re.compile(r"<style.*?</style>", re.DOTALL)  # would hold for the whole page
_ID = re.compile(r'(?<= id=")|(?<=url\(#)|(?<=href="#)')  # several charts are on one page
POINTS = 300  # at most, of a precision-recall curve
HEIGHT_STEPS = (6, 8, 12, 16, 24, 32, 48, 64, 96, 192)  # picture pixels: edges of the bins of recall by height
LEAST_FACES = 5  # in a bin, for a point
STYLE: dict[Any, Any] = {
    **dict.fromkeys(("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color"), INK),
    "svg.fonttype": "none",
    "svg.hashsalt": "latentface",
    "font.family": "sans-serif",
    "font.size": 10,
    "legend.frameon": False,
}


@dataclass(frozen=True)
class Chart:
    """`svg` is made here alone: names in it are escaped."""

    title: str
    says: str  # in place of the picture, for who cannot see it
    svg: str


@contextmanager
def _style() -> Iterator[None]:
    import matplotlib

    with matplotlib.rc_context(STYLE):
        yield


def _chart(figure: Figure, title: str, says: str) -> Chart:
    buffer = io.StringIO()
    metadata = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    figure.savefig(buffer, format="svg", transparent=True, metadata=metadata)
    text = buffer.getvalue()
    text = _STYLE_SHEET.sub("", text[text.index("<svg") :], count=1).replace(INK, "currentColor")
    name = title.lower().replace(" ", "-").replace(",", "")
    return Chart(title, says, _ID.sub(rf"\g<0>{name}-", text))


def rate_accuracy(curves: Curves, faces: str) -> Chart:
    """AP over measured bits per pixel."""
    with _style():
        says = f"Curves of AP over bits per pixel, one for each of {len(curves)} runs; the table has the figures."
        return _chart(draw(curves, faces), "Rate and accuracy", says)


def precision_recall(runs: list[Judged]) -> Chart:
    """One panel for all faces and for each band of height, one line for each run."""
    from matplotlib.figure import Figure

    with _style():
        figure = Figure(figsize=(10, 5.6), layout="constrained")
        panels = figure.subplots(2, 3).flat
        for band, axes in zip(("all", *HEIGHT_BANDS), panels, strict=False):
            for run, (colour, _), dashes in zip(runs, cycle(STYLES), cycle(("-", "--", ":", "-.")), strict=False):
                score = run.curves[band]
                if score.truths:
                    axes.plot(*_thinned(score), color=colour, linestyle=dashes, label=plain(run.label))
            title = "all faces" if band == "all" else f"{band} px"
            axes.set(title=title, xlim=(0, 1), ylim=(0, 1.02), xlabel="recall", ylabel="precision")
            axes.grid(alpha=0.3)
        panels[5].set_axis_off()
        panels[5].legend(*panels[0].get_legend_handles_labels(), loc="center")
        says = "Precision over recall for all faces and by height; AP, the area under each curve, is in the table."
        return _chart(figure, "Precision and recall by height of face", says)


def _thinned(score: DetectionScore) -> tuple[np.ndarray, np.ndarray]:
    """Recall and precision where a face is found, POINTS of them at most."""
    ranks = np.flatnonzero(score.right)
    chosen = ranks[np.unique(np.linspace(0, len(ranks) - 1, min(POINTS, len(ranks))).round().astype(int))]
    return score.recall_curve[chosen], score.precision_curve[chosen]


def recall_by_height(runs: list[Judged]) -> Chart:
    """The share of faces found at the confidence, over their height."""
    from matplotlib.figure import Figure

    with _style():
        figure = Figure(figsize=(7, 3.8), layout="constrained")
        axes = figure.subplots()
        for run, (colour, marker) in zip(runs, cycle(STYLES), strict=False):
            axes.plot(*_recall(run), color=colour, marker=marker, label=plain(run.label))
        axes.set(xscale="log", ylim=(0, 1.02), xlabel="height of the face, pixels", ylabel="share of faces found")
        axes.set_xticks(HEIGHT_STEPS, [str(step) for step in HEIGHT_STEPS])
        axes.minorticks_off()
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
        says = "The share of faces that are found, over their height; the table below has the counts by band."
        return _chart(figure, "Faces found, by height", says)


def _recall(run: Judged) -> tuple[list[float], list[float]]:
    """Mean height, in logarithms, and recall of each bin that has faces enough."""
    sizes = np.concatenate([heights(one.result.true_boxes)[one.counted] for one in run.outcomes.values()])
    found = np.concatenate([one.found[one.counted] for one in run.outcomes.values()])
    middles, recalls = [], []
    for low, high in pairwise((0, *HEIGHT_STEPS, np.inf)):
        inside = (sizes >= low) & (sizes < high)
        if inside.sum() >= LEAST_FACES:
            middles.append(float(np.exp(np.log(sizes[inside]).mean())))
            recalls.append(float(found[inside].mean()))
    return middles, recalls


def training(runs: list[Training]) -> Chart:
    """Loss and validation AP over epochs; seeds of one run share its colour."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    with _style():
        figure = Figure(figsize=(10, 3.8), layout="constrained")
        losses, precision = figure.subplots(1, 2)
        styles = dict(zip(dict.fromkeys(one.run for one in runs), cycle(STYLES), strict=False))
        for number, one in enumerate(runs):
            colour, marker = styles[one.run]
            first = all(one.run != earlier.run for earlier in runs[:number])
            style = {"color": colour, "marker": marker, "markersize": 4, "label": plain(one.run) if first else None}
            _line(losses, [(row["epoch"], row.get("loss")) for row in one.rows], style)
            _line(precision, [(row["epoch"], mean_ap(row)) for row in one.rows], style)
        losses.set(title="Training loss", xlabel="epoch", ylabel="loss per positive prior")
        precision.set(title="Validation AP, mean over rates", xlabel="epoch", ylabel="AP", ylim=(0, 1))
        if not precision.lines:
            precision.text(0.5, 0.5, "no run was validated", ha="center", transform=precision.transAxes)
        for axes in (losses, precision):
            axes.grid(alpha=0.3)
            axes.set_xlim(0.5, max(one.epochs for one in runs) + 0.5)
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
            if axes.lines:
                axes.legend(fontsize=8)
        return _chart(figure, "Training", "Training loss and validation AP over epochs; the table has figures.")


def _line(axes: Axes, points: list[tuple[int, Any]], style: dict[str, Any]) -> None:
    known = [(epoch, value) for epoch, value in points if isinstance(value, (int, float))]
    if known:
        axes.plot(*zip(*known, strict=True), **style)
