"""The report as one HTML file that loads nothing: what `report_page.html` is filled with."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from latentface.apps import report_charts
from latentface.apps.report_attributes import count_attributes
from latentface.apps.report_faces import Judged, in_common, ranked
from latentface.apps.report_pictures import (
    Backgrounds,
    Shown,
    false_faces,
    missed_faces,
    picture_title,
    whole,
)
from latentface.apps.report_runs import Run, settings, trainings
from latentface.evaluation.average_precision import HEIGHT_BANDS, DetectionScore
from latentface.evaluation.outcomes import (
    FALSES,
    MISSES,
    Count,
    count_by_height,
    count_falses,
    count_misses,
)
from latentface.evaluation.report import Cost, Curves, Difference, few_rates, rates_of
from latentface.words import counted

GROUPS = {
    "differ": "Where the runs differ most",
    "worst": "Worst",
    "best": "Best",
}


@dataclass(frozen=True)
class Content:
    """What there is to show; any part may be empty."""

    title: str
    faces: str
    runs: list[Run]
    curves: Curves
    differences: list[Difference]
    costs: dict[str, Cost]
    judged: list[Judged]
    notes: list[str]
    images: str
    pictures: int
    crops: int


@dataclass(frozen=True)
class Column:
    """One run in the tables of what was found and missed."""

    label: str
    curves: dict[str, DetectionScore]
    counts: dict[str, Count]
    misses: dict[str, dict[str, int]]
    falses: dict[str, dict[str, int]]


def page(content: Content) -> str:
    """The whole file. Everything that comes from elsewhere is escaped, but the charts made here."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    loader = PackageLoader("latentface.apps", package_path="")
    environment = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    return environment.get_template("report_page.html").render(
        title=content.title or "Report: " + ", ".join(run.name for run in content.runs),
        summary=_summary(content),
        notes=content.notes,
        several=len(content.runs) > 1,
        settings=settings(content.runs),
        **_rates(content),
        **_judged(content),
        **_training(content.runs),
        **_picture_ids(),
    )


def _rates(content: Content) -> dict[str, Any]:
    chart = report_charts.rate_accuracy(content.curves, content.faces) if content.curves else None
    return {
        "curves": content.curves,
        "faces": content.faces,
        "rates": rates_of(content.curves),
        "differences": content.differences,
        "few_rates": few_rates(content.curves, content.differences),
        "costs": content.costs,
        "rate_chart": chart,
    }


def _judged(content: Content) -> dict[str, Any]:
    judged = content.judged
    if not judged:
        return {"judged": []}
    seen = [(run, Backgrounds(run, content.images)) for run in judged]
    pairs = [(a, b, in_common(a, b)) for a, b in combinations(judged, 2)]
    least = {f"{run.min_height:g}" for run in judged if run.min_height}
    told = all(run.attributes for run in judged)
    return {
        "judged": [_column(run) for run in judged],
        "bands": ["all", *HEIGHT_BANDS],
        "confidence": judged[0].confidence,
        "min_height": " or ".join(sorted(least)),
        "precision_chart": report_charts.precision_recall(judged),
        "recall_chart": report_charts.recall_by_height(judged),
        "misses": MISSES,
        "falses": FALSES,
        "attributes": [count_attributes(run.outcomes, run.attributes) for run in judged] if told else [],
        "common": [(a.label, b.label, counts) for a, b, counts in pairs if counts],
        "pictures": _pictures(seen, content.pictures),
        "grounds": _grounds(seen),
        "missed_sheets": [{"label": run.label, "kinds": missed_faces(run, g, content.crops)} for run, g in seen],
        "false_sheets": [{"label": run.label, "kinds": false_faces(run, g, content.crops)} for run, g in seen],
    }


def _column(run: Judged) -> Column:
    outcomes = run.outcomes.values()
    misses, falses = count_misses(outcomes), count_falses(outcomes)
    return Column(run.label, run.curves, count_by_height(outcomes), misses, falses)


def _pictures(seen: list[tuple[Judged, Backgrounds]], most: int) -> list[dict[str, Any]]:
    """Groups of rows, each a picture as every run has it."""
    first = seen[0][0]
    return [
        {"title": GROUPS[group], "rows": [(picture_title(first, name), _row(seen, name)) for name in names]}
        for group, names in ranked([run for run, _ in seen], most).items()
    ]


def _row(seen: list[tuple[Judged, Backgrounds]], name: str) -> list[tuple[str, Shown]]:
    return [(run.label, whole(run, name, backgrounds)) for run, backgrounds in seen]


def _grounds(seen: list[tuple[Judged, Backgrounds]]) -> str:
    """What is behind the boxes, in words."""
    kinds = [f"{run.label}: {', or '.join(backgrounds.kinds())}" for run, backgrounds in seen]
    return f"Behind the boxes: {'; '.join(kinds)}."


def _training(runs: list[Run]) -> dict[str, Any]:
    lines = trainings(runs)
    return {"training": lines, "training_chart": report_charts.training(lines) if lines else None}


def _picture_ids() -> dict[str, Callable[[str], Any]]:
    """Pictures that several runs share are embedded once, and used again by their id."""
    ids: dict[str, str] = {}
    used: set[str] = set()

    def picture_id(href: str) -> str:
        return ids.setdefault(href, f"picture-{len(ids)}")

    def first_use(href: str) -> bool:
        first = href not in used
        used.add(href)
        return first

    return {"picture_id": picture_id, "first_use": first_use}


def _summary(content: Content) -> dict[str, list[str]]:
    """Of every run, in words: its best AP, what it finds, what it misses most."""
    lines: dict[str, list[str]] = {}
    for name, points in content.curves.items():
        best = max(points, key=lambda point: point.mean)
        bits = "" if best.bpp is None else f", {best.bpp:.2f} bits per pixel"
        lines[name] = [f"AP {best.mean:.3f} at its best rate, {best.rate}{bits}."]
    for run in content.judged:
        lines.setdefault(run.name, []).extend(_found(run))
    for several in content.runs:
        if len(several.evaluations) > 1 and several.name in lines:
            lines[several.name].append(f"Faces and pictures are of the first of {len(several.evaluations)} seeds.")
    return lines


def _found(run: Judged) -> Iterator[str]:
    outcomes = run.outcomes.values()
    count = count_by_height(outcomes)["all"]
    yield (
        f"At rate {run.rate} and confidence {run.confidence} it finds {count.found} of "
        f"{counted(count.faces, 'face')} in {counted(len(outcomes), 'picture')}, with "
        f"{counted(count.false, 'false detection')}."
    )
    if count.missed:
        misses = {reason: bands["all"] for reason, bands in count_misses(outcomes).items()}
        most = max(misses, key=lambda reason: misses[reason])
        yield f"Of {count.missed} missed, {misses[most]} are “{most}”: {MISSES[most]}."
