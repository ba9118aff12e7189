"""Evaluations of several ways at several rates -> rate-accuracy curves, BD-rate, BD-AP.

Takes `evaluation.json` files of `latentface evaluate`, several of one name for several seeds. Rates are the measured
mean bits per pixel. BD-rate (Bjontegaard 2001) is the mean difference in bits at equal AP, BD-AP the mean difference
in AP at equal bits, both between monotone cubic (PCHIP) curves over log-bits, where the curves overlap. BD-rate
leaves out points that reach no more AP than a cheaper one: nobody would pay for them.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from latentface.errors import LatentFaceError
from latentface.files import parse_json
from latentface.words import counted

if TYPE_CHECKING:
    from matplotlib.figure import Figure

UNCODED = "0"  # the rate of original pictures
CLOSE = 1.12  # two figures on the axis of bits whose ratio is less would lie over each other
LEAST_POINTS = 2  # of a curve, for a difference between two
ENOUGH_POINTS = 4  # of a curve, for a difference to say much: as many as Bjontegaard's own figures take
# Okabe and Ito's colours, told apart by colour-blind people too and seen on light and on dark; a marker with each.
STYLES = tuple(zip(("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00"), "osD^vX", strict=True))


@dataclass(frozen=True)
class Point:
    """One rate of a curve."""

    rate: str
    bpp: float | None  # measured mean bits per pixel; None: the evaluated set says nothing of bits
    ap: list[float]  # one for each seed

    @property
    def mean(self) -> float:
        return float(np.mean(self.ap))

    @property
    def spread(self) -> float:
        """Standard deviation over seeds; 0 of one."""
        return float(np.std(self.ap, ddof=1)) if len(self.ap) > 1 else 0.0


@dataclass(frozen=True)
class Difference:
    """One curve against another, over what both cover; None where that is nothing."""

    name: str
    anchor: str
    bd_rate: float | None  # percent of bits at equal AP, of points worth their bits: negative needs fewer
    ap_overlap: float  # share of the AP that either curve covers, 0 to 1
    bd_ap: float | None  # AP at equal bits
    bpp_overlap: float  # share of the log-bits that either curve covers


@dataclass(frozen=True)
class Cost:
    """What one picture takes, by the first evaluation of a curve; None of what it does not say."""

    input: str  # "latent" or "picture"; the decoding that comes before the latter is not counted
    gmac: float | None
    ms: float | None
    precision: str
    where: str  # threads or GPU, and how many batches of what size


Curves = dict[str, list[Point]]


def read_curves(files: Iterable[tuple[str, Path]], faces: str) -> tuple[Curves, list[dict[str, Any]]]:
    """Name and evaluation.json each -> points by name in order of bits, and the protocols of the files, each once.

    Raises LatentFaceError for a file that is no evaluation of weights, or without an AP of `faces`.
    """
    found: dict[str, dict[str, Point]] = {}
    protocols: list[dict[str, Any]] = []
    of_name: dict[str, dict[str, Any]] = {}
    first: tuple[Path, dict[str, Any]] | None = None
    for name, path in files:
        rates, protocol = _scores(path)
        if protocol not in protocols:
            protocols.append(protocol)
        for key, value in of_name.setdefault(name, protocol).items():
            if protocol.get(key) != value:
                raise LatentFaceError(
                    f"{path}: {key} {protocol.get(key)}, in another file of {name} {value}: judge them alike, or give "
                    "them names of their own"
                )
        first = first or (path, protocol)
        _refuse_other_faces(path, protocol, *first, faces)
        points = found.setdefault(name, {})
        for rate, scores in rates.items():
            bands = {band: score for band, score in scores.items() if isinstance(score, dict) and "ap" in score}
            ap = bands.get(faces, {}).get("ap")
            if ap is None:
                raise LatentFaceError(f"{path}: no AP of '{faces}' at rate {rate}; there are {', '.join(bands)}")
            bpp = scores.get("mean_bpp")
            point = points.setdefault(rate, Point(rate, bpp, []))
            if point.bpp != bpp:
                raise LatentFaceError(f"{path}: rate {rate} of {name} has {bpp} bpp here, {point.bpp} in another file")
            point.ap.append(ap)
    return {name: sorted(points.values(), key=_bits) for name, points in found.items()}, protocols


def _refuse_other_faces(path: Path, protocol: dict[str, Any], first: Path, firsts: dict[str, Any], faces: str) -> None:
    """Raises LatentFaceError where AP is of other faces than in the first file; AP by height is always of all."""
    for key in ("name", "min_height") if faces == "all" else ("name",):
        if protocol.get(key) != firsts.get(key):
            raise LatentFaceError(
                f"{path}: {key} {protocol.get(key)}, in {first} {firsts.get(key)}: AP of other faces, judge them alike "
                "by latentface evaluate"
            )


def read_costs(files: Iterable[tuple[str, Path]]) -> dict[str, Cost]:
    """Name and evaluation.json each -> what it says of its cost; names whose first file says nothing are left out."""
    firsts: dict[str, Path] = {}
    for name, path in files:
        firsts.setdefault(name, path)
    found = {name: _cost(read_evaluation(path).get("cost")) for name, path in firsts.items()}
    return {name: one for name, one in found.items() if one}


def ran_on(cost: dict[str, Any]) -> str:
    """`2 threads`, or the name of the GPU."""
    return counted(cost.get("threads"), "thread") if cost.get("device") == "cpu" else str(cost.get("device"))


def _cost(said: Any) -> Cost | None:
    if not isinstance(said, dict) or not all(_is_number(said.get(name)) for name in ("gmac", "ms")):
        return None
    where = f"{ran_on(said)}, median of {said.get('batches')} of up to {said.get('batch')} pictures"
    return Cost(str(said.get("input")), said.get("gmac"), said.get("ms"), str(said.get("precision")), where)


def read_evaluation(path: Path) -> dict[str, Any]:
    """An evaluation.json of weights, as it is; LatentFaceError for anything else."""
    try:
        content = parse_json(path.read_text(encoding="utf-8"))
        complete = bool(content["rates"]) and all(map(_is_score, content["rates"].values()))
        complete = complete and _is_number(content["protocol"].get("min_height"))
    except (OSError, UnicodeDecodeError, ValueError) as error:
        raise LatentFaceError(f"{path}: cannot be read as JSON ({error})") from error
    except (KeyError, TypeError, AttributeError):
        complete = False
    if not complete:
        raise LatentFaceError(f"{path}: not the evaluation of weights that `latentface evaluate` writes")
    return content


def _is_score(scores: Any) -> bool:
    """Whether what a file says of a rate is a mapping, and numbers are where they have to be."""
    values = [scores.get("mean_bpp"), *(band.get("ap") for band in scores.values() if isinstance(band, dict))]
    return all(map(_is_number, values))


def _is_number(value: Any) -> bool:
    return value is None or isinstance(value, (int, float))


def _scores(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """What one file says of every rate, and how it was judged."""
    content = read_evaluation(path)
    return content["rates"], {name: value for name, value in content["protocol"].items() if name != "weight"}


def _bits(point: Point) -> float:
    return math.inf if point.bpp is None else point.bpp


def difference(name: str, points: list[Point], anchor: str, anchor_points: list[Point]) -> Difference:
    """BD-rate and BD-AP of one curve against another, by the `bjontegaard` package."""
    try:
        from bjontegaard import bd_psnr, bd_rate
    except ImportError as error:
        raise LatentFaceError("report needs bjontegaard: pip install bjontegaard") from error
    ours, theirs = (np.array([(p.bpp, p.mean) for p in curve if p.bpp]) for curve in (points, anchor_points))
    if min(len(ours), len(theirs)) < LEAST_POINTS:
        return Difference(name, anchor, None, 0.0, None, 0.0)
    rising = [_rising(curve) for curve in (theirs, ours)]
    ap_overlap = overlap(rising[0][:, 1], rising[1][:, 1])
    bpp_overlap = overlap(np.log(theirs[:, 0]), np.log(ours[:, 0]))
    settings = {"method": "pchip", "require_matching_points": False, "min_overlap": 0}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of curves that do not overlap: the shares say it
        by_ap = (rising[0][:, 0], rising[0][:, 1], rising[1][:, 0], rising[1][:, 1])
        rate = float(bd_rate(*by_ap, **settings)) if ap_overlap else None  # no single point overlaps anything
        by_bits = (theirs[:, 0], theirs[:, 1], ours[:, 0], ours[:, 1])
        ap = float(bd_psnr(*by_bits, **settings)) if bpp_overlap else None
    return Difference(name, anchor, rate, ap_overlap, ap, bpp_overlap)


def _rising(curve: np.ndarray) -> np.ndarray:
    """The points [n, 2] (bits, AP) that reach more than every cheaper one."""
    best = np.maximum.accumulate(np.concatenate([[-np.inf], curve[:-1, 1]]))
    return curve[curve[:, 1] > best]


def overlap(first: np.ndarray, second: np.ndarray) -> float:
    """Share of the range that either covers which both cover, 0 to 1."""
    low, high = max(first.min(), second.min()), min(first.max(), second.max())
    whole = max(first.max(), second.max()) - min(first.min(), second.min())
    return float(max(0.0, high - low) / whole) if whole > 0 else 0.0


def markdown(
    curves: Curves,
    differences: list[Difference],
    protocols: list[dict[str, Any]],
    faces: str,
    costs: Mapping[str, Cost] | None = None,
) -> str:
    """The tables, with the protocol above them."""
    lines = [f"AP of faces: {faces}"]
    lines += ["; ".join(f"{name} {value}" for name, value in p.items() if value not in ([], "")) for p in protocols]
    rates = rates_of(curves)
    lines += ["", "| | " + " | ".join(rates) + " |", "|---|" + "---|" * len(rates)]
    for name, points in curves.items():
        of_rate = {point.rate: point for point in points}
        cells = [_cell(of_rate[rate]) if rate in of_rate else "" for rate in rates]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    if differences:
        lines += ["", "| | against | BD-rate | AP overlap | BD-AP | bits overlap |", "|---|---|---|---|---|---|"]
    for one in differences:
        rate = "-" if one.bd_rate is None else f"{one.bd_rate:+.1f} %"
        ap = "-" if one.bd_ap is None else f"{one.bd_ap:+.4f}"
        lines.append(f"| {one.name} | {one.anchor} | {rate} | {one.ap_overlap:.0%} | {ap} | {one.bpp_overlap:.0%} |")
    if few := few_rates(curves, differences):
        lines += ["", few]
    lines += _cost_lines(costs) if costs else []
    return "\n".join(lines) + "\n"


def few_rates(curves: Curves, differences: Iterable[Difference]) -> str:
    """A line where one of the curves compared has too few rates to say much; else nothing."""
    said = [one for one in differences if one.bd_rate is not None or one.bd_ap is not None]
    names = sorted({name for one in said for name in (one.name, one.anchor)})
    counts = {name: sum(1 for point in curves[name] if point.bpp) for name in names}
    few = {name: count for name, count in counts.items() if count < ENOUGH_POINTS}
    listed = ", ".join(f"{name} has {count}" for name, count in few.items())
    return f"BD figures of fewer than {ENOUGH_POINTS} rates say little: {listed}." if few else ""


def _cost_lines(costs: Mapping[str, Cost]) -> list[str]:
    lines = ["", "| of a picture | GMAC | ms | precision | on |", "|---|---|---|---|---|"]
    for name, cost in costs.items():
        work, time = ("-" if value is None else f"{value:.2f}" for value in (cost.gmac, cost.ms))
        lines.append(f"| {name}, from a {cost.input} | {work} | {time} | {cost.precision} | {cost.where} |")
    return [
        *lines,
        "",
        "GMAC: thousand million multiply-adds of the network. ms: network and suppression, as it was evaluated,",
        "reading left out. Decoding, which comes before a detector of pictures, is not counted.",
    ]


def rates_of(curves: Curves) -> list[str]:
    """All that there are, in rising order."""
    rates = dict.fromkeys(point.rate for points in curves.values() for point in points)
    return sorted(rates, key=lambda rate: int(rate) if rate.isdecimal() else 0)


def _cell(point: Point) -> str:
    spread = f" ± {point.spread:.4f}" if len(point.ap) > 1 else ""
    return f"{point.mean:.4f}{spread}" + (f" ({point.bpp:.3f} bpp)" if point.bpp is not None else "")


def draw(curves: Curves, faces: str, title: str = "") -> Figure:
    """AP over bits per pixel (logarithmic), error bars over seeds; a dashed line for pictures that were never coded."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    for (name, points), (colour, marker) in zip(curves.items(), cycle(STYLES), strict=False):
        label = plain(name)
        if len(points) == 1 and (points[0].bpp is None or points[0].rate == UNCODED):
            axes.axhline(points[0].mean, color=colour, linestyle="--", label=label)
            continue
        if any(point.bpp is None for point in points):
            continue
        bpp, ap, spread = ([value(p) for p in points] for value in (_bits, lambda p: p.mean, lambda p: p.spread))
        axes.errorbar(bpp, ap, yerr=spread, color=colour, marker=marker, capsize=3, label=label)
    axes.set(xscale="log", xlabel="bits per pixel, measured mean", ylabel=f"AP ({faces})", title=plain(title))
    drawn = [point for points in curves.values() for point in points if point.rate != UNCODED]
    ticks = _apart(sorted({round(point.bpp, 2) for point in drawn if point.bpp}))
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks], rotation=45)
    axes.minorticks_off()
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(fontsize=8, loc="lower right")  # curves rise from the left and lie high
    else:
        axes.text(0.5, 0.5, "bits per pixel are unknown", ha="center", transform=axes.transAxes)
    return figure


def _apart(ticks: list[float]) -> list[float]:
    """Those that leave room for their figures beside the one before, on a logarithmic axis."""
    kept: list[float] = []
    for tick in ticks:
        if tick > 0 and (not kept or tick > CLOSE * kept[-1]):
            kept.append(tick)
    return kept


def plain(name: str) -> str:
    """A name as matplotlib has to be given it: dollars would begin a formula, an underscore in front hide it."""
    return (" " if name.startswith("_") else "") + name.replace("$", r"\$")
