"""The WIDER FACE protocol: a folder of prediction files against the official `.mat` lists.

Prediction files are `<event>/<name>.txt`: the name, the number of faces, then one `x y width height score` a line.
A picture's name is `<event>/<name>`, without suffix. Source of the protocol: Yang et al., WIDER FACE: A Face
Detection Benchmark, CVPR 2016, and the evaluation tools published with it. Where the figures depend on a habit of
those tools, a comment below says "Protocol:".
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath, PureWindowsPath

import numpy as np

from latentface.boxes import iou_matrix, xywh_to_xyxy, xyxy_to_xywh
from latentface.errors import LatentFaceError
from latentface.evaluation.average_precision import average_precision
from latentface.evaluation.ground_truth import DIFFICULTIES, GroundTruth, read_ground_truth
from latentface.files import base_name, make_folder, name_problem, refuse_link_outside, replacing, split_suffix

# Protocol: a thousand thresholds on normalised scores, 0.999 down to 0, rather than every score that occurs.
THRESHOLDS = 1 - np.arange(1, 1001) / 1000


@dataclass(frozen=True, eq=False)
class WiderCurve:
    """Precision and recall at each of THRESHOLDS."""

    precision: np.ndarray  # [1000], 0 where nothing is above the threshold
    recall: np.ndarray  # [1000]
    faces: int  # faces to be found


@dataclass(frozen=True, eq=False)
class WiderScore:
    """Average precision for each difficulty, 0 to 1, and what it was computed from."""

    easy: float
    medium: float
    hard: float
    pictures: int  # in the ground truth
    missing: int  # of these, without a prediction file
    empty: int  # of these, with a prediction file that holds no face
    unknown: int  # prediction files of no picture in the ground truth; they do not count
    curves: dict[str, WiderCurve] = field(repr=False)  # by difficulty


def evaluate_wider(
    predictions_folder: Path, ground_truth_folder: Path, *, iou: float = 0.5, allow_missing: bool = False
) -> WiderScore:
    """AP on easy, medium and hard; about two seconds for the 3,226 pictures of the validation set.

    Raises LatentFaceError for a folder without predictions, for malformed files, and, unless `allow_missing`, for
    pictures without a prediction file (their faces then count as not found).
    """
    truth = read_ground_truth(ground_truth_folder)
    files = _prediction_files(predictions_folder)
    missing = [name for name in truth.names if name not in files]
    if len(missing) == len(truth.names):
        raise LatentFaceError(
            f"{predictions_folder}: none of its {len(files)} files belongs to a picture of {ground_truth_folder}"
            f" (first expected: {missing[0]}.txt)"
        )
    if missing and not allow_missing:
        raise LatentFaceError(
            f"{predictions_folder}: {len(missing)} of {len(truth.names)} prediction files are missing"
            f" (first: {missing[0]}.txt); predict them too, or count their faces as not found with --allow_missing"
        )
    nothing = np.zeros((0, 5))
    predictions = [_read_prediction(files[name]) if name in files else nothing for name in truth.names]
    curves = _curves(predictions, truth, iou)
    return WiderScore(
        **{name: average_precision(curve.recall, curve.precision) for name, curve in curves.items()},
        pictures=len(truth.names),
        missing=len(missing),
        empty=sum(len(prediction) == 0 for prediction in predictions) - len(missing),
        unknown=len(files) - (len(truth.names) - len(missing)),
        curves=curves,
    )


def read_predictions(folder: Path) -> dict[str, np.ndarray]:
    """Every prediction file of `folder` and its event folders: name -> float64 [N, 5] x y width height score.

    A file without faces, or of 0 bytes, gives [0, 5]. Raises LatentFaceError naming file and line where the number
    of faces, the number of columns or a number is wrong, and for a folder without predictions.
    """
    return {name: _read_prediction(path) for name, path in _prediction_files(folder).items()}


def prediction_name(label: str) -> str:
    """What prediction files call a picture, `<event>/<name>`: the last two parts of its name, without suffix."""
    return split_suffix("/".join(re.split(r"[/\\]", label)[-2:]))[0]


def write_prediction(folder: Path, name: str, boxes: np.ndarray, scores: np.ndarray) -> Path:
    """Write one picture's faces, best first, to `<folder>/<name>.txt` and return that path.

    `name` is `<event>/<name>`, with or without the picture's suffix; `boxes` [N, 4] x1 y1 x2 y2 and `scores` [N], in
    pixels of the picture as published. Raises LatentFaceError for a name that leads out of the folder and for
    numbers that are not finite.
    """
    path = _prediction_path(folder, name)
    rows = np.column_stack([xyxy_to_xywh(boxes), scores])  # [N, 5]
    if not np.isfinite(rows).all():
        raise LatentFaceError(f"{name}: a predicted box or score is not finite; check the weights")
    rows = rows[np.argsort(-rows[:, 4], kind="stable")]
    lines = [path.stem, str(len(rows))]
    lines += [f"{x:.3f} {y:.3f} {width:.3f} {height:.3f} {score:.7g}" for x, y, width, height, score in rows.tolist()]
    make_folder(path.parent, "--out", within=folder)
    with replacing(path, flush=False) as temporary:
        temporary.write_text("\n".join(lines) + "\n", encoding="utf-8", errors="replace")
    return path


def _prediction_files(folder: Path) -> dict[str, Path]:
    folder = Path(folder)
    if not folder.is_dir():
        remedy = "extract it and give the folder with the events" if folder.is_file() else "predict first"
        raise LatentFaceError(f"{folder}: no folder of prediction files; {remedy}")
    paths = sorted([*folder.glob("*.txt"), *folder.glob("*/*.txt")])
    if not paths:
        raise LatentFaceError(f"{folder}: no prediction files; expected <event>/<name>.txt in it")
    for path in {*paths, *(path.parent for path in paths)} - {folder}:
        refuse_link_outside(path, folder)
    return {path.relative_to(folder).as_posix().removesuffix(".txt"): path for path in paths}


def _prediction_path(folder: Path, name: str) -> Path:
    pure = PurePosixPath(name)
    leaves = "\\" in name or PureWindowsPath(name).drive or name_problem(name)
    if leaves or len(pure.parts) not in (1, 2):
        raise LatentFaceError(f"{name!r}: not a picture name; expected <event>/<name> within the predictions folder")
    return Path(folder) / pure.parent / f"{base_name(name)}.txt"


def _read_prediction(path: Path) -> np.ndarray:
    lines = _lines(path)
    if not lines:
        return np.zeros((0, 5))
    count = _face_count(path, lines)
    try:  # the whole file at once; line by line only for the message
        rows = np.loadtxt(lines[2:], ndmin=2, comments=None) if len(lines) > 2 else np.zeros((0, 5))
    except ValueError:
        rows = np.full((0, 0), np.nan)
    if rows.shape != (count, 5) or len(lines) != count + 2 or not np.isfinite(rows).all():
        raise LatentFaceError(_fault(path, lines, count))
    return rows


def _lines(path: Path) -> list[str]:
    """The lines of a file up to the last that is not blank."""
    try:
        if not path.is_file():  # a pipe would wait for ever
            raise OSError(None, "not a file")
        content = path.read_bytes().rstrip()
    except OSError as error:
        raise LatentFaceError(f"{path}: cannot be read ({error.strerror}); check what it is and its rights") from error
    return [line.decode("utf-8", errors="replace") for line in content.splitlines()]


def _face_count(path: Path, lines: Sequence[str]) -> int:
    text = lines[1].strip() if len(lines) > 1 else ""
    if not (text.isascii() and text.isdigit() and len(text) < 19):
        raise LatentFaceError(f"{path}:2: expected the number of faces, found {text[:40]!r}; write the file again")
    return int(text)


def _fault(path: Path, lines: Sequence[str], count: int) -> str:
    """What is wrong with a file that is known to be malformed."""
    for number, line in enumerate(lines[2:], start=3):
        columns = len(line.split())
        if columns != 5:
            return f"{path}:{number}: {columns} columns; expected `x y width height score`"
        try:
            finite = np.isfinite(np.loadtxt([line], comments=None)).all()
        except ValueError:
            return f"{path}:{number}: not five numbers: {line.strip()[:60]!r}; write the file again"
        if not finite:
            return f"{path}:{number}: not finite: {line.strip()[:60]!r}; check the weights that predicted it"
    return f"{path}:2: {count} faces announced, {len(lines) - 2} lines follow; write the file again"


def _curves(predictions: Sequence[np.ndarray], truth: GroundTruth, iou: float) -> dict[str, WiderCurve]:
    """Precision and recall of each difficulty, from [N, 5] predictions in the order of `truth.names`.

    Pooling needs no loop over thresholds: a detection counts from the first threshold at or below its score, so one
    histogram over thresholds of all pictures together and its running sum give every point of the curve.
    """
    low, high = _score_range(predictions)
    proposed: dict[str, list[np.ndarray]] = {difficulty: [] for difficulty in DIFFICULTIES}
    found: dict[str, list[np.ndarray]] = {difficulty: [] for difficulty in DIFFICULTIES}
    for picture, (prediction, boxes) in enumerate(zip(predictions, truth.boxes, strict=True)):
        # Protocol: what is detected in a picture without a single annotated face, kept or not, is not counted.
        if len(prediction) == 0 or len(boxes) == 0:
            continue
        prediction = prediction[np.argsort(-prediction[:, 4], kind="stable")]
        step = _first_threshold(prediction[:, 4], low, high)  # [N]
        nearest, hit = _nearest(prediction, boxes, iou)
        # Protocol: a detection is held against its nearest face only; the first on a face finds it, and each later one
        # is a proposal that finds nothing, even where it overlaps another face, still free, well enough.
        ranks = np.flatnonzero(hit)
        faces, first = np.unique(nearest[ranks], return_index=True)
        for difficulty in DIFFICULTIES:
            kept = truth.kept[difficulty][picture]
            # Protocol: a detection whose nearest face is ignored is no proposal, however many there are.
            proposed[difficulty].append(step[~hit | kept[nearest]])
            found[difficulty].append(step[ranks[first[kept[faces]]]])
    total = {difficulty: int(sum(mask.sum() for mask in truth.kept[difficulty])) for difficulty in DIFFICULTIES}
    return {name: _curve(_histogram(proposed[name]), _histogram(found[name]), total[name]) for name in DIFFICULTIES}


def _histogram(steps: list[np.ndarray]) -> np.ndarray:
    """How many detections begin to count at each threshold: [1000]."""
    return np.bincount(np.concatenate([np.zeros(0, np.int64), *steps]), minlength=len(THRESHOLDS)).astype(float)


def _score_range(predictions: Sequence[np.ndarray]) -> tuple[float, float]:
    # Protocol: lowest and highest score of the whole set become 0 and 1, so an AP depends on every file of it.
    scores = np.concatenate([prediction[:, 4] for prediction in predictions])
    return (float(scores.min()), float(scores.max())) if len(scores) else (0.0, 1.0)


def _first_threshold(scores: np.ndarray, low: float, high: float) -> np.ndarray:
    """The index of the first of THRESHOLDS that is not above the normalised score: [N]; 0 where all scores agree."""
    normalised = (scores - low) / (high - low) if high > low else np.ones(len(scores))
    return len(THRESHOLDS) - np.searchsorted(THRESHOLDS[::-1], normalised, side="right")


def _nearest(prediction: np.ndarray, boxes: np.ndarray, iou: float) -> tuple[np.ndarray, np.ndarray]:
    """For each detection the annotated face it overlaps most, [N] index, and whether that is enough, [N] bool."""
    # Protocol: corners are x + width and y + height and belong to the box, which makes it a pixel larger each way.
    pixel = np.array([0, 0, 1, 1])
    overlaps = iou_matrix(xywh_to_xyxy(prediction) + pixel, xywh_to_xyxy(boxes) + pixel)  # [N, M]
    nearest = overlaps.argmax(axis=1)
    return nearest, overlaps[np.arange(len(overlaps)), nearest] >= iou


def _curve(proposed: np.ndarray, found: np.ndarray, faces: int) -> WiderCurve:
    proposals, hits = np.cumsum(proposed), np.cumsum(found)  # [1000] at or above each threshold
    precision = np.divide(hits, proposals, out=np.zeros(len(hits)), where=proposals > 0)
    recall = hits / faces if faces else np.full(len(hits), np.nan)
    return WiderCurve(precision=precision, recall=recall, faces=faces)
