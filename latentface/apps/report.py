"""`latentface report`: runs side by side, as tables, as curves, and as one HTML page with pictures of what is missed.

A run is an evaluation (its folder or its evaluation.json), or an experiment directory of `latentface train` with the
evaluations in folders below it. `report.html` holds everything and loads nothing; `report.md`, `report.json` and
`curves.png` hold the rate-accuracy curves for other programs, `report.json` also what is found and missed, counted. It
is scored again from the prediction files and the labels: no network runs.
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from latentface.apps.report_runs import Run, find_runs
from latentface.errors import LatentFaceError
from latentface.evaluation.report import Cost, Curves, Difference, difference, draw, markdown, read_costs, read_curves
from latentface.files import make_folder, replacing
from latentface.options import option
from latentface.words import disk_size

if TYPE_CHECKING:
    from latentface.apps.report_faces import Judged

MUCH = 10e6  # bytes of an HTML file
UNITS = {  # of report.json
    "ap": "0 to 1, one for each seed",
    "bpp": "bits per pixel, mean over pictures",
    "bd_rate": "percent of bits at equal AP",
    "bd_ap": "AP at equal bits",
    "ap_overlap": "share of the AP that either curve covers, 0 to 1",
    "bpp_overlap": "share of the logarithm of bits that either curve covers, 0 to 1",
    "gmac": "10^9 multiply-adds a picture",
    "ms": "milliseconds a picture",
}


@dataclass
class ReportConfig:
    """Sets runs side by side in one HTML page: curves, what is found and missed and why, pictures, settings."""

    runs: tuple[str, ...] = option(
        (),
        "evaluations or experiment directories, NAME=PATH or PATH; several of one NAME are seeds",
        positional=True,
    )
    anchor: tuple[str, ...] = option((), "names that the others are held against; empty: the first")
    faces: str = option("all", "which AP the curves show: all, or a band such as '16-32'")
    title: str = option("", "title of page and figure")
    out: str = option("report", "folder for report.html, report.md, report.json and curves.png")
    rate: int | None = option(None, "rate to look at pictures of; without it 75, or the highest that a run has")
    conf: float = option(0.5, "confidence from which a detection counts as such, on the page with pictures")
    images: str = option("", "folder of the photographs, to show behind the boxes")
    attributes: str = option("", "WIDER FACE label file of the photographs: blur, occlusion and pose of missed faces")
    sets: tuple[str, ...] = option((), "NAME=SPLIT: where the pictures are that a run was judged on, if they moved")
    pictures: int = option(4, "pictures of each kind: best, worst, where the runs differ")
    crops: int = option(12, "faces shown of each kind of miss and of false detection")

    def __post_init__(self) -> None:
        if not self.runs:
            raise LatentFaceError("nothing to report: give evaluations or experiment directories, NAME=PATH or PATH")
        if not 0 <= self.conf <= 1 or min(self.pictures, self.crops) < 0:
            raise LatentFaceError("--conf lies between 0 and 1, --pictures and --crops are 0 or more")
        for item in self.sets:
            if "=" not in item:
                raise LatentFaceError(f"--sets {item}: expected NAME=SPLIT")


def run(config: ReportConfig) -> Path:
    """Writes the report and prints its tables."""
    runs = find_runs(config.runs)
    files = [(one.name, path) for one in runs for path in one.evaluations]
    curves, protocols = read_curves(files, config.faces)
    differences, costs = _differences(curves, config.anchor), read_costs(files)
    judged, notes = _judge(config, runs)
    for note in notes:
        print(f"left out: {note}", file=sys.stderr)
    html = _page(config, runs, curves, differences, costs, judged, notes)
    out = make_folder(config.out, "--out")
    if curves:
        text = markdown(curves, differences, protocols, config.faces, costs)
        content = {
            "faces": config.faces,
            "units": UNITS,
            "protocols": protocols,
            "curves": {name: [asdict(point) for point in points] for name, points in curves.items()},
            "differences": [asdict(one) for one in differences],
            "costs": {name: asdict(one) for name, one in costs.items()},
            "faces_found": _figures(judged),
        }
        with replacing(out / "report.json") as temporary:
            temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
        with replacing(out / "report.md") as temporary:
            temporary.write_text(text, encoding="utf-8")
        with replacing(out / "curves.png") as temporary:
            draw(curves, config.faces, config.title).savefig(temporary, format="png", dpi=150)
        print(text)
    with replacing(out / "report.html") as temporary:
        size = temporary.write_bytes(html.encode("utf-8", errors="replace"))
    hint = "; fewer --pictures and --crops make it smaller" if size > MUCH else ""
    print(f"{out / 'report.html'}: {disk_size(size)}{hint}")
    return out


def _differences(curves: Curves, anchors: tuple[str, ...]) -> list[Difference]:
    for anchor in anchors:
        if anchor not in curves:
            raise LatentFaceError(f"--anchor {anchor}: there are {', '.join(curves) or 'none: no run was evaluated'}")
    pairs = [(name, anchor) for anchor in anchors or tuple(curves)[:1] for name in curves if name != anchor]
    return [difference(name, curves[name], anchor, curves[anchor]) for name, anchor in pairs]


def _figures(judged: list[Judged]) -> dict[str, Any]:
    """What is found and missed, counted; by the label of a run. Nothing is imported for it where there is none."""
    if not judged:
        return {}
    from latentface.apps.report_faces import figures

    return {run.label: figures(run) for run in judged}


def _page(
    config: ReportConfig,
    runs: list[Run],
    curves: Curves,
    differences: list[Difference],
    costs: dict[str, Cost],
    judged: list[Judged],
    notes: list[str],
) -> str:
    from latentface.apps.report_page import Content, page

    return page(
        Content(
            title=config.title,
            faces=config.faces,
            runs=runs,
            curves=curves,
            differences=differences,
            costs=costs,
            judged=judged,
            notes=notes,
            images=config.images,
            pictures=config.pictures,
            crops=config.crops,
        )
    )


def _judge(config: ReportConfig, runs: list[Run]) -> tuple[list[Judged], list[str]]:
    """The first evaluation of every run, picture by picture, and a line for each whose files are not there."""
    from latentface.apps.report_faces import judge_run, usual_rate
    from latentface.data.labels import read_labels

    splits = dict(item.split("=", 1) for item in config.sets)
    for name in splits.keys() - {one.name for one in runs}:
        raise LatentFaceError(f"--sets {name}: there are {', '.join(one.name for one in runs)}")
    known = read_labels(config.attributes) if config.attributes else None
    judged, notes = [], []
    for one in (one for one in runs if one.evaluations):
        evaluation, split = one.evaluations[0], splits.get(one.name, "")
        rate = str(config.rate) if config.rate is not None else usual_rate(evaluation)
        try:
            judged.append(judge_run(one.name, evaluation, rate=rate, confidence=config.conf, split=split, known=known))
        except LatentFaceError as error:
            notes.append(f"faces of {one.name}: {error}")
    if known is not None and judged and not any(one.attributes for one in judged):
        raise LatentFaceError(f"--attributes {config.attributes}: none of its boxes with attributes is a face here")
    return judged, notes
