"""Detections against true boxes: average precision, its split by face height, and landmark error.

Boxes are `x1 y1 x2 y2` in picture pixels. For figures comparable with the WIDER FACE literature see `wider.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from latentface.boxes import iou_matrix

HEIGHT_BANDS: dict[str, tuple[float, float]] = {  # picture pixels, low <= height < high
    "under 16": (0.0, 16.0),
    "16-32": (16.0, 32.0),
    "32-96": (32.0, 96.0),
    "over 96": (96.0, float("inf")),
}


@dataclass(frozen=True, eq=False)
class PictureResult:
    """What was found in one picture, and what is there; picture pixels throughout."""

    boxes: np.ndarray  # [N, 4] x1 y1 x2 y2
    scores: np.ndarray  # [N]
    landmarks: np.ndarray  # [N, 5, 2] x y
    true_boxes: np.ndarray  # [M, 4]
    true_landmarks: np.ndarray  # [M, 5, 2], NaN where unknown
    ignore: np.ndarray  # [M] bool: neither rewards nor punishes


@dataclass(frozen=True, eq=False)
class DetectionScore:
    """Average precision over a set of pictures; `ap` and `recall` are NaN where there is no truth to find."""

    ap: float
    recall: float  # of all detections together, whatever their score
    truths: int  # true boxes that count: not ignored, height within range
    detections: int  # detections that count, right or wrong
    pictures: int
    precision_curve: np.ndarray = field(repr=False)  # [detections], in falling order of score
    recall_curve: np.ndarray = field(repr=False)  # [detections]


@dataclass(frozen=True)
class LandmarkScore:
    """Normalised mean error of the landmarks over `faces` matched faces; NaN where there is none."""

    nme: float
    faces: int


@dataclass(frozen=True, eq=False)
class _Pairs:
    """The detections and true boxes of one picture that overlap enough to belong together."""

    detection: np.ndarray  # [K] index of the detection
    truth: np.ndarray  # [K] index of the true box
    overlap: np.ndarray  # [K] their IoU


def average_precision(recall: np.ndarray, precision: np.ndarray) -> float:
    """All-point AP: the area under the monotone envelope of a precision-recall curve.

    `recall` and `precision` are [T] in falling order of score threshold, so that recall never falls. At each recall
    the envelope is the best precision reached there or at any higher recall (Pascal VOC since 2010).
    """
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    return float(np.sum(np.diff(recall, prepend=0.0) * envelope))


def evaluate_pictures(
    results: Sequence[PictureResult], *, iou: float = 0.5, min_height: float = 0.0, max_height: float = float("inf")
) -> DetectionScore:
    """All-point AP of all detections pooled, with the matching rules of COCO at one IoU threshold.

    Within a picture the detections choose in falling order of score: each takes the true box that overlaps it most,
    among those still free with IoU >= `iou`, and turns to ignored ones only where no other is left. Of equal scores
    the earlier goes first. True boxes are ignored where flagged or where their height is outside
    [`min_height`, `max_height`); a detection counts unless it took an ignored box, or took none and has itself a
    height outside that range.
    """
    return _evaluate(results, [_pairs(result, iou) for result in results], min_height, max_height)


def by_height(results: Sequence[PictureResult], iou: float = 0.5) -> dict[str, DetectionScore]:
    """`evaluate_pictures` for each of HEIGHT_BANDS, small faces first."""
    pairs = [_pairs(result, iou) for result in results]
    return {band: _evaluate(results, pairs, low, high) for band, (low, high) in HEIGHT_BANDS.items()}


def landmark_error(results: Sequence[PictureResult], iou: float = 0.5, min_score: float = 0.02) -> LandmarkScore:
    """Mean distance of the five landmarks from the true ones, over sqrt(width * height) of the true box.

    The usual normalisation for faces in the wild, where profiles leave no distance between the eyes to divide by.
    Faces count that are not ignored, have five known landmarks, and were matched (as in `evaluate_pictures`) by a
    detection of at least `min_score`; compare two detectors at the same `min_score` and look at `faces` as well.
    """
    errors = [_landmark_errors(result, iou, min_score) for result in results]
    pooled = np.concatenate([np.zeros(0), *errors])
    return LandmarkScore(nme=float(pooled.mean()) if len(pooled) else float("nan"), faces=len(pooled))


def _evaluate(
    results: Sequence[PictureResult], pairs: Sequence[_Pairs], min_height: float, max_height: float
) -> DetectionScore:
    scores, right = [np.zeros(0)], [np.zeros(0, dtype=bool)]
    truths = 0
    for result, near in zip(results, pairs, strict=True):
        ignored = result.ignore.astype(bool) | _outside(result.true_boxes, min_height, max_height)  # [M]
        matched = _match(near, result.scores, ignored)  # [N]
        hit = matched >= 0
        counts = ~_outside(result.boxes, min_height, max_height)  # [N]
        counts[hit] = ~ignored[matched[hit]]
        scores.append(result.scores[counts])
        right.append(hit[counts])
        truths += int((~ignored).sum())
    return _detection_score(np.concatenate(scores), np.concatenate(right), truths, len(results))


def _detection_score(scores: np.ndarray, right: np.ndarray, truths: int, pictures: int) -> DetectionScore:
    found = np.cumsum(right[np.argsort(-scores, kind="stable")])  # [detections]
    precision = found / np.arange(1, len(found) + 1)
    recall = found / truths if truths else np.full(len(found), np.nan)
    return DetectionScore(
        ap=average_precision(recall, precision) if truths else float("nan"),
        recall=float(right.sum() / truths) if truths else float("nan"),
        truths=truths,
        detections=len(scores),
        pictures=pictures,
        precision_curve=precision,
        recall_curve=recall,
    )


def _pairs(result: PictureResult, iou: float) -> _Pairs:
    overlaps = iou_matrix(result.boxes.astype(np.float64), result.true_boxes.astype(np.float64))  # [N, M]
    detection, truth = np.nonzero(overlaps >= iou)
    return _Pairs(detection, truth, overlaps[detection, truth])


def _match(pairs: _Pairs, scores: np.ndarray, ignored: np.ndarray) -> np.ndarray:
    """The true box each detection takes: [N] index, -1 for none.

    In the order detection by detection, ignored last, nearest first, the greedy choice is the first pair both of
    whose ends are free. Only pairs that overlap enough are looped over: a few hundred a picture at most.
    """
    rank = np.empty(len(scores), dtype=np.int64)
    rank[np.argsort(-scores, kind="stable")] = np.arange(len(scores))
    order = np.lexsort((pairs.truth, -pairs.overlap, ignored[pairs.truth], rank[pairs.detection]))
    matched = np.full(len(scores), -1)
    taken: set[int] = set()
    served: set[int] = set()
    for detection, truth in zip(pairs.detection[order].tolist(), pairs.truth[order].tolist(), strict=True):
        if detection not in served and truth not in taken:
            matched[detection] = truth
            served.add(detection)
            taken.add(truth)
    return matched


def _outside(boxes: np.ndarray, min_height: float, max_height: float) -> np.ndarray:
    height = boxes[:, 3] - boxes[:, 1]
    return (height < min_height) | (height >= max_height)


def _landmark_errors(result: PictureResult, iou: float, min_score: float) -> np.ndarray:
    ignored = result.ignore.astype(bool)
    matched = _match(_pairs(result, iou), result.scores, ignored)  # [N]
    found = np.flatnonzero((matched >= 0) & (result.scores >= min_score))
    truth = matched[found]
    usable = np.isfinite(result.true_landmarks[truth]).all(axis=(1, 2)) & ~ignored[truth]
    found, truth = found[usable], truth[usable]
    offsets = result.landmarks[found] - result.true_landmarks[truth]  # [F, 5, 2]
    boxes = result.true_boxes[truth]
    side = np.sqrt((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]))  # [F]
    return np.linalg.norm(offsets, axis=2).mean(axis=1) / side
