"""Detections against true boxes: average precision, its split by face height, and landmark error.

Boxes are `x1 y1 x2 y2` in picture pixels. For figures comparable with the WIDER FACE literature see `wider.py`.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable
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
    right: np.ndarray = field(repr=False)  # bool [detections], in falling order of score

    @property
    def precision_curve(self) -> np.ndarray:
        """[detections], in falling order of score."""
        return np.cumsum(self.right, dtype=np.int64) / np.arange(1, len(self.right) + 1)

    @property
    def recall_curve(self) -> np.ndarray:
        """[detections], in falling order of score."""
        return np.cumsum(self.right, dtype=np.int64) / (self.truths or np.nan)


@dataclass(frozen=True)
class LandmarkScore:
    """Normalised mean error of the landmarks over `faces` matched faces; NaN where there is none."""

    nme: float
    faces: int


@dataclass(frozen=True, eq=False)
class Pairs:
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


class DetectionTally:
    """Detections of many pictures pooled, for one range of heights: all-point AP by COCO's matching at one IoU.

    Five bytes of each detection are kept, so that a set may be of any size.
    Within a picture the detections choose in falling order of score: each takes the true box that overlaps it most,
    among those still free with IoU >= the threshold, and turns to ignored ones only where no other is left. Of equal
    scores the earlier goes first. True boxes are ignored where flagged or where their height is outside
    [`min_height`, `max_height`); a detection counts unless it took an ignored box, or took none and has itself a
    height outside that range.
    """

    def __init__(self, min_height: float = 0.0, max_height: float = float("inf")) -> None:
        self.min_height, self.max_height = min_height, max_height
        self.scores, self.right = array("f"), bytearray()
        self.truths = self.pictures = 0

    def add(self, result: PictureResult, pairs: Pairs) -> None:
        """`pairs` are `find_pairs(result, iou)`: the same for every range."""
        ignored = result.ignore.astype(bool) | self._outside(result.true_boxes)  # [M]
        matched = match_pairs(pairs, result.scores, ignored)  # [N]
        hit = matched >= 0
        counts = ~self._outside(result.boxes)  # [N]
        counts[hit] = ~ignored[matched[hit]]
        self.scores.frombytes(result.scores[counts].astype(np.float32).tobytes())
        self.right += hit[counts].tobytes()
        self.truths += int((~ignored).sum())
        self.pictures += 1

    def extend(self, other: DetectionTally) -> None:
        """As if the pictures of `other`, a tally of the same range, had been added after those of this one."""
        self.scores.extend(other.scores)
        self.right += other.right
        self.truths += other.truths
        self.pictures += other.pictures

    def score(self) -> DetectionScore:
        """Of everything added so far."""
        scores, right = np.frombuffer(self.scores, np.float32), np.frombuffer(self.right, bool)
        return _detection_score(scores, right, self.truths, self.pictures)

    def _outside(self, boxes: np.ndarray) -> np.ndarray:
        height = boxes[:, 3] - boxes[:, 1]
        return (height < self.min_height) | (height >= self.max_height)


class Evaluation:
    """All figures of a set at once, picture by picture: overall, by face height, landmarks."""

    def __init__(self, *, iou: float = 0.5, min_height: float = 0.0, min_score: float = 0.02) -> None:
        """`min_height` is for `overall`, `min_score` for `landmarks`."""
        self.iou, self.min_score = iou, min_score
        self.overall = DetectionTally(min_height)
        self.bands = {band: DetectionTally(low, high) for band, (low, high) in HEIGHT_BANDS.items()}
        self.landmark_errors = array("d")

    def add(self, result: PictureResult) -> None:
        """One picture."""
        pairs = find_pairs(result, self.iou)
        for tally in (self.overall, *self.bands.values()):
            tally.add(result, pairs)
        self.landmark_errors.frombytes(_landmark_errors(result, pairs, self.min_score).tobytes())

    def landmarks(self) -> LandmarkScore:
        """Mean distance of the five landmarks from the true ones, over sqrt(width * height) of the true box.

        The usual normalisation for faces in the wild, where profiles leave no distance between the eyes to divide by.
        Faces count that are not ignored, have five known landmarks, and were matched (as in `DetectionTally`) by a
        detection of at least `min_score`; compare two detectors at the same `min_score` and look at `faces` as well.
        """
        errors = np.frombuffer(self.landmark_errors)
        return LandmarkScore(nme=float(errors.mean()) if len(errors) else float("nan"), faces=len(errors))


def evaluate_pictures(
    results: Iterable[PictureResult], *, iou: float = 0.5, min_height: float = 0.0, max_height: float = float("inf")
) -> DetectionScore:
    """All-point AP of all detections pooled; see `DetectionTally`."""
    tally = DetectionTally(min_height, max_height)
    for result in results:
        tally.add(result, find_pairs(result, iou))
    return tally.score()


def _detection_score(scores: np.ndarray, right: np.ndarray, truths: int, pictures: int) -> DetectionScore:
    right = right[np.argsort(-scores, kind="stable")]
    ranks = np.flatnonzero(right) + 1  # recall rises only where a face is found, and precision is highest there
    found = np.arange(1, len(ranks) + 1)
    return DetectionScore(
        ap=average_precision(found / truths, found / ranks) if truths else float("nan"),
        recall=len(ranks) / truths if truths else float("nan"),
        truths=truths,
        detections=len(scores),
        pictures=pictures,
        right=right,
    )


def find_pairs(result: PictureResult, iou: float) -> Pairs:
    """All that overlap by `iou` or more."""
    overlaps = iou_matrix(result.boxes.astype(np.float64), result.true_boxes.astype(np.float64))  # [N, M]
    detection, truth = np.nonzero(overlaps >= iou)
    return Pairs(detection, truth, overlaps[detection, truth])


def match_pairs(pairs: Pairs, scores: np.ndarray, ignored: np.ndarray) -> np.ndarray:
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


def _landmark_errors(result: PictureResult, pairs: Pairs, min_score: float) -> np.ndarray:
    ignored = result.ignore.astype(bool)
    matched = match_pairs(pairs, result.scores, ignored)  # [N]
    found = np.flatnonzero((matched >= 0) & (result.scores >= min_score))
    truth = matched[found]
    usable = np.isfinite(result.true_landmarks[truth]).all(axis=(1, 2)) & ~ignored[truth]
    found, truth = found[usable], truth[usable]
    offsets = result.landmarks[found] - result.true_landmarks[truth]  # [F, 5, 2]
    boxes = result.true_boxes[truth]
    side = np.sqrt((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]))  # [F]
    return (np.linalg.norm(offsets, axis=2).mean(axis=1) / side).astype(np.float64)
