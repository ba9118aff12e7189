"""What became of every face and every detection of a picture at one confidence, and why.

Faces and detections are matched as for AP (`average_precision.py`), so that the counts here and the AP are of one
piece: taking only detections of a confidence or more leaves the matches of those as they are. A face that nothing of
that confidence found is *missed*, for the first of MISSES that holds; a detection of that confidence that found
nothing is *false*, of the first kind of FALSES that holds. Boxes are picture pixels.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from latentface.boxes import iou_matrix
from latentface.evaluation.average_precision import HEIGHT_BANDS, PictureResult, find_pairs, match_pairs

IOU = 0.5  # from which a detection finds a face
NEAR = 0.3  # from which it is about the face, though beside it
SMALL = 12.0  # picture pixels: where there is nothing near a face lower than this, its size is held to be the cause

MISSES = {
    "score too low": "a detection fits, under the confidence",
    "one box for two faces": f"a detection overlaps it by {IOU} or more and was taken by another face",
    "box too far off": f"the best detection of any score overlaps it by {NEAR} to {IOU}",
    "too small": f"nothing overlaps it by {NEAR}, and it is lower than {SMALL:g} px",
    "nothing there": f"nothing overlaps it by {NEAR}, and it is {SMALL:g} px high or more",
}
FALSES = {
    "second box": f"it overlaps a face by {IOU} or more that another detection found, or that is left out",
    "box too far off": f"it overlaps a face by {NEAR} to {IOU}",
    "no face there": f"no labelled face overlaps it by {NEAR}",
}


@dataclass(frozen=True, eq=False)
class Outcome:
    """One picture; N detections, M true boxes."""

    result: PictureResult
    counted: np.ndarray  # [M] bool: neither flagged nor too low to count
    finder: np.ndarray  # [M] the detection that found it, -1: none
    nearest: np.ndarray  # [M] the detection of any score that overlaps it most, -1: none does
    overlap: np.ndarray  # [M] IoU of that
    miss: np.ndarray  # [M] one of MISSES, "" where found or not counted
    false: np.ndarray  # [N] one of FALSES, "" where right, not counted, or under the confidence
    beside: np.ndarray  # [N] IoU with the true box that it overlaps most

    @property
    def found(self) -> np.ndarray:
        """[M] bool, of those that count."""
        return self.counted & (self.finder >= 0)

    @property
    def f1(self) -> float:
        """Harmonic mean of precision and recall; NaN of a picture without faces and without detections."""
        both = int(self.counted.sum() + self.found.sum() + (self.false != "").sum())
        return 2 * int(self.found.sum()) / both if both else float("nan")


@dataclass
class Count:
    """Faces to be found, those that were, and detections that found nothing."""

    faces: int = 0
    found: int = 0
    false: int = 0

    @property
    def missed(self) -> int:
        return self.faces - self.found

    @property
    def recall(self) -> float:
        """NaN without faces."""
        return self.found / self.faces if self.faces else float("nan")

    @property
    def precision(self) -> float:
        """NaN without detections."""
        return self.found / (self.found + self.false) if self.found + self.false else float("nan")


def judge(result: PictureResult, *, confidence: float, min_height: float = 0.0) -> Outcome:
    """One picture at one confidence; true boxes lower than `min_height` are left out, as are such detections."""
    ignored = result.ignore.astype(bool) | (heights(result.true_boxes) < min_height)  # [M]
    matched = match_pairs(find_pairs(result, IOU), result.scores, ignored)  # [N]
    match = np.full(len(ignored), -1)  # [M], of any score
    match[matched[matched >= 0]] = np.flatnonzero(matched >= 0)
    strong = result.scores >= confidence  # [N]
    overlaps = iou_matrix(result.boxes.astype(np.float64), result.true_boxes.astype(np.float64))  # [N, M]
    overlap, nearest = _best(overlaps)
    finder = np.where((match >= 0) & np.append(strong, False)[match], match, -1)
    beside, _ = _best(overlaps.T)
    wrong = strong & (matched < 0) & (heights(result.boxes) >= min_height)  # [N]
    return Outcome(
        result=result,
        counted=~ignored,
        finder=finder,
        nearest=nearest,
        overlap=overlap,
        miss=np.where(~ignored & (finder < 0), _misses(match, overlap, heights(result.true_boxes)), ""),
        false=np.where(wrong, _falses(beside), ""),
        beside=beside,
    )


def heights(boxes: np.ndarray) -> np.ndarray:
    """[N, 4] -> [N]."""
    return boxes[:, 3] - boxes[:, 1]


def _best(overlaps: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """[N, M] -> of each column the largest value [M] and its row [M], -1 where all are 0."""
    if not len(overlaps):
        return np.zeros(overlaps.shape[1]), np.full(overlaps.shape[1], -1)
    best = overlaps.max(axis=0)
    return best, np.where(best > 0, overlaps.argmax(axis=0), -1)


def _misses(match: np.ndarray, overlap: np.ndarray, height: np.ndarray) -> np.ndarray:
    """[M] the first of MISSES that holds, were the face missed."""
    low, shared, off, small, nothing = MISSES
    return np.select([match >= 0, overlap >= IOU, overlap >= NEAR, height < SMALL], [low, shared, off, small], nothing)


def _falses(beside: np.ndarray) -> np.ndarray:
    """[N] the first of FALSES that holds, were the detection false."""
    second, off, nothing = FALSES
    return np.select([beside >= IOU, beside >= NEAR], [second, off], nothing)


def count_by_height(outcomes: Iterable[Outcome]) -> dict[str, Count]:
    """By band of the true box's height, of a false detection's own, and "all"."""
    counts = {"all": Count(), **{band: Count() for band in HEIGHT_BANDS}}
    for outcome in outcomes:
        of_faces, of_boxes = heights(outcome.result.true_boxes), heights(outcome.result.boxes)
        for band, count in counts.items():
            low, high = HEIGHT_BANDS.get(band, (0.0, float("inf")))
            faces, boxes = (low <= of_faces) & (of_faces < high), (low <= of_boxes) & (of_boxes < high)
            count.faces += int((outcome.counted & faces).sum())
            count.found += int((outcome.found & faces).sum())
            count.false += int(((outcome.false != "") & boxes).sum())
    return counts


def count_misses(outcomes: Iterable[Outcome]) -> dict[str, dict[str, int]]:
    """Reason -> band of height -> faces missed, with "all"."""
    pairs = [(outcome.miss, heights(outcome.result.true_boxes)) for outcome in outcomes]
    return _by_band(MISSES, pairs)


def count_falses(outcomes: Iterable[Outcome]) -> dict[str, dict[str, int]]:
    """Kind -> band of height -> false detections, with "all"."""
    pairs = [(outcome.false, heights(outcome.result.boxes)) for outcome in outcomes]
    return _by_band(FALSES, pairs)


def _by_band(kinds: Iterable[str], pairs: list[tuple[np.ndarray, np.ndarray]]) -> dict[str, dict[str, int]]:
    """`pairs`: kinds [K] and heights [K] of each picture."""
    names = np.concatenate([np.zeros(0, str), *(names for names, _ in pairs)])
    sizes = np.concatenate([np.zeros(0), *(sizes for _, sizes in pairs)])
    bands = {"all": (0.0, float("inf")), **HEIGHT_BANDS}
    return {
        kind: {
            band: int(((names == kind) & (low <= sizes) & (sizes < high)).sum()) for band, (low, high) in bands.items()
        }
        for kind in kinds
    }
