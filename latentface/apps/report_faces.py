"""One run at one rate, scored again picture by picture from its prediction files and the labels: no network runs."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from latentface.apps.report_attributes import attributes_of, count_attributes
from latentface.boxes import xywh_to_xyxy
from latentface.data.labels import PictureLabels
from latentface.data.latents import NestedLatentWiderFaceDataset, Picture
from latentface.data.mirror import local, local_file
from latentface.data.stores import find_labels, latent_folder
from latentface.errors import LatentFaceError
from latentface.evaluation.average_precision import DetectionScore, Evaluation, PictureResult
from latentface.evaluation.outcomes import Outcome, count_by_height, count_falses, count_misses, judge
from latentface.evaluation.report import read_evaluation
from latentface.evaluation.wider import prediction_name, read_predictions
from latentface.inference.evaluate_weights import open_set

USUAL_RATE = "75"
USUAL_DATA = {  # of the set, where an evaluation does not keep it
    "label_file": "",
    "label_frame": "picture",
    "image_sizes": "",
    "image_dir": "",
    "label_fit": "stretch",
    "stride": 16,
}
MOST_OFF = 0.005  # AP: prediction files are rounded to a thousandth of a pixel


@dataclass(frozen=True, eq=False)
class Judged:
    """A run at one rate and confidence."""

    name: str
    rate: str
    confidence: float
    min_height: float
    dataset: NestedLatentWiderFaceDataset
    curves: dict[str, DetectionScore]  # "all" and every band of height
    outcomes: dict[str, Outcome]  # by name of the picture
    attributes: dict[str, np.ndarray]  # by name of the picture: [M, 5], -1 unknown; empty where nobody knows any

    @property
    def label(self) -> str:
        return f"{self.name}, rate {self.rate}"

    @property
    def pictures(self) -> dict[str, Picture]:
        return {picture.name: picture for picture in self.dataset.pictures}


def usual_rate(evaluation: Path) -> str:
    """75, or the highest there is."""
    rates = read_evaluation(evaluation)["rates"]
    return USUAL_RATE if USUAL_RATE in rates else max(rates, key=lambda rate: (len(rate), rate))


def judge_run(
    name: str,
    evaluation: Path,
    *,
    rate: str,
    confidence: float,
    split: str = "",
    known: dict[str, PictureLabels] | None = None,
) -> Judged:
    """`split`: where the pictures are, if elsewhere than the evaluation says; `known`: see `attributes_of`.

    Raises LatentFaceError where predictions or labels are missing, are no such files, or do not give the AP that the
    evaluation found.
    """
    content = read_evaluation(evaluation)
    if rate not in content["rates"] or not rate.isdecimal():
        raise LatentFaceError(f"{evaluation}: no rate {rate}; there are {', '.join(content['rates'])}")
    recorded, protocol = content["rates"][rate], content["protocol"]
    min_height = float(protocol.get("min_height") or 0.0)
    predictions = _predictions(evaluation, rate, recorded)
    dataset = _dataset(evaluation, content, int(rate), split)
    tally, outcomes, attributes = Evaluation(min_height=min_height), {}, {}
    for picture in dataset.pictures:
        labels = dataset.labels_of(picture)
        result = _result(evaluation, picture, labels, predictions, protocol.get("frame", "picture"))
        tally.add(result)
        outcomes[picture.name] = judge(result, confidence=confidence, min_height=min_height)
        attributes[picture.name] = attributes_of(picture, labels, known)
    curves = {"all": tally.overall.score(), **{band: one.score() for band, one in tally.bands.items()}}
    _check(evaluation, rate, recorded, curves["all"], dataset)
    told = any((values > 0).any() for values in attributes.values())
    return Judged(name, rate, confidence, min_height, dataset, curves, outcomes, attributes if told else {})


def _predictions(evaluation: Path, rate: str, recorded: dict[str, Any]) -> dict[str, np.ndarray]:
    """Beside the evaluation, else where it says."""
    folder = evaluation.parent / f"predictions_{rate}"
    said = Path(str(recorded.get("predictions", folder)))
    if not folder.is_dir() and not said.is_dir():
        raise LatentFaceError(f"{folder}: no prediction files; evaluate again, or keep them beside {evaluation.name}")
    return read_predictions(folder if folder.is_dir() else said)


def _dataset(evaluation: Path, content: dict[str, Any], rate: int, split: str) -> NestedLatentWiderFaceDataset:
    """The set as it was evaluated; files older than the settings of it had the usual ones."""
    data = {**USUAL_DATA, **_recorded_data(evaluation, content)}
    place = latent_folder(local(split or str(content["protocol"].get("set", ""))))
    if split or "latent_dir" not in data:
        data |= {"latent_dir": str(place), "label_file": ""}
    data["latent_dir"] = str(local(data["latent_dir"]))
    if not Path(data["latent_dir"]).is_dir():
        raise LatentFaceError(
            f"{evaluation}: the set that it judged is not at {data['latent_dir']}; say where with --sets NAME=SPLIT"
        )
    labels = data["label_file"]
    data["label_file"] = local_file(labels) if labels else find_labels(Path(data["latent_dir"]))
    return open_set(data, rate)


def _recorded_data(evaluation: Path, content: dict[str, Any]) -> dict[str, Any]:
    data = content.get("data", {})
    known = {"latent_dir": "", **USUAL_DATA}
    if not isinstance(data, dict) or not all(isinstance(data.get(k, v), type(v)) for k, v in known.items()):
        raise LatentFaceError(f"{evaluation}: its `data` is not what `latentface evaluate` writes; evaluate again")
    return data


def _result(
    evaluation: Path, picture: Picture, labels: PictureLabels, predictions: dict[str, np.ndarray], frame: str
) -> PictureResult:
    name = prediction_name(picture.labels.name)
    if name not in predictions:
        raise LatentFaceError(f"{evaluation}: no prediction file of {name}; evaluate again")
    boxes, scores = xywh_to_xyxy(predictions[name]), predictions[name][:, 4]
    if frame == "source":
        if picture.row is None:
            raise LatentFaceError(f"{evaluation}: no manifest says where {name} lies in its photograph")
        boxes = boxes * np.tile([picture.row.scale_x, picture.row.scale_y], 2)
    unknown = np.full((len(boxes), 5, 2), np.nan)
    return PictureResult(boxes, scores, unknown, labels.boxes, labels.landmarks, labels.ignore)


def _check(
    evaluation: Path, rate: str, recorded: dict[str, Any], score: DetectionScore, dataset: NestedLatentWiderFaceDataset
) -> None:
    """The pictures shown have to be those that the figures are of."""
    faces = recorded.get("all")
    there = faces.get("ap") if isinstance(faces, dict) else None
    if there is not None and not abs(score.ap - there) <= MOST_OFF:
        raise LatentFaceError(
            f"{evaluation}: rate {rate} has AP {there:.4f}, its prediction files give {score.ap:.4f} with "
            f"{dataset.label_file}: these are not the labels that it was judged by; evaluate again, or give --sets"
        )


def figures(run: Judged) -> dict[str, Any]:
    """For JSON: what was found, missed and false by band of height, by kind, and by what the labels say of faces."""
    outcomes = run.outcomes.values()
    attributes = count_attributes(run.outcomes, run.attributes)
    return {
        "rate": run.rate,
        "confidence": run.confidence,
        "min_height": run.min_height,
        "pictures": len(outcomes),
        "by_height": {band: asdict(count) for band, count in count_by_height(outcomes).items()},
        "missed": count_misses(outcomes),
        "false": count_falses(outcomes),
        "by_attribute": {
            meaning: {"faces": count.faces, "found": count.found}
            for meaning, count in attributes.items()
            if count.faces
        },
    }


def in_common(first: Judged, second: Judged) -> dict[str, int]:
    """Of the faces that two runs were to find: found by both, by one alone, by neither.

    Empty where they were not judged on the same faces of the same pictures.
    """
    counts = dict.fromkeys(("both", "first", "second", "neither"), 0)
    if first.outcomes.keys() != second.outcomes.keys():
        return {}
    for name, ours in first.outcomes.items():
        theirs = second.outcomes[name]
        boxes = ours.result.true_boxes, theirs.result.true_boxes
        if boxes[0].shape != boxes[1].shape or not np.allclose(*boxes, atol=0.5):
            return {}
        counted = ours.counted & theirs.counted
        for kind, faces in (
            ("both", ours.found & theirs.found),
            ("first", ours.found & ~theirs.found),
            ("second", ~ours.found & theirs.found),
            ("neither", ~ours.found & ~theirs.found),
        ):
            counts[kind] += int((counted & faces).sum())
    return counts


def ranked(runs: list[Judged], most: int) -> dict[str, list[str]]:
    """Names of pictures that all runs saw: best, worst, and those on which the runs differ most, each picture once.

    By F1, averaged over the runs; of equal ones the picture with more faces goes first.
    """
    common = [name for name in runs[0].outcomes if all(name in run.outcomes for run in runs)]
    scores = {name: [run.outcomes[name].f1 for run in runs] for name in common}
    known = [name for name in common if np.isfinite(scores[name]).all()]
    mean = {name: float(np.mean(scores[name])) for name in known}
    spread = {name: float(np.ptp(scores[name])) for name in known}
    size = {name: int(runs[0].outcomes[name].counted.sum()) for name in known}
    orders = {
        "differ": sorted((n for n in known if spread[n] > 0), key=lambda n: (-spread[n], -size[n], n)),
        "worst": sorted((n for n in known if mean[n] < 1), key=lambda n: (mean[n], -size[n], n)),
        "best": sorted(known, key=lambda n: (-mean[n], -size[n], n)),
    }
    taken: set[str] = set()
    chosen = {}
    for group, order in orders.items():
        chosen[group] = [name for name in order if name not in taken][:most]
        taken.update(chosen[group])
    return chosen
