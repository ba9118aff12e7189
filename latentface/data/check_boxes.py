"""Boxes: whether they lie in the pictures that the latents show, and what about them is odd.

All boxes of a split are one table; each is checked in the frame that its labels are meant in: the coded picture, or
the photograph where manifest or flags say so.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from latentface.data.check_files import Split
from latentface.data.check_findings import Finding
from latentface.data.check_frames import Frame
from latentface.data.label_rows import WIDTH

OUTSIDE = 0.05  # share of boxes centred outside their picture that is no matter of single boxes; of real sets: 0
TOLERANCE = 1.0  # pixels by which a box may reach out of its picture: rounding
FEWEST = 20  # boxes or landmarks that a share is taken of
MANY = 200  # boxes whose places fill a picture
SMALLER = 0.8  # of one side: where a smaller frame shows by the absence of boxes beyond it
BEYOND_SMALLER = 0.005  # share of boxes centred beyond a frame of 0.8 that still counts as absence; 0.25 is usual
EXTREME_ASPECT = 10.0
REMEDY_SOURCE = (
    "give --label_frame source with --image_sizes FILE.json or --image_dir PHOTOS to check and train (and --label_fit "
    "pad if pictures were padded, not stretched), or scale the labels"
)
REMEDY_MANIFEST = (
    'put back the labels that latentface encode wrote, or set "label_frame" to "source" in every line of latents.jsonl'
)

REMEDY_PICTURE = (
    "leave --label_frame, --image_sizes and --image_dir out; or the manifest's label_frame is wrong: write picture"
)


@dataclass(frozen=True)
class Boxes:
    """Those of all pictures whose frame is known."""

    split: Split
    table: np.ndarray  # float64 [N, 15] as in `Rows`
    lines: np.ndarray  # int64 [N]
    picture: np.ndarray  # int64 [N], index into names
    names: list[str]
    frames: np.ndarray  # float64 [P, 5]: width, height, scale, other width, other height (NaN: none)
    source: bool

    @property
    def end(self) -> np.ndarray:
        """[N, 2] x2 y2."""
        return self.table[:, :2] + self.table[:, 2:4]

    @property
    def centre(self) -> np.ndarray:
        """[N, 2]."""
        return self.table[:, :2] + self.table[:, 2:4] / 2

    @property
    def size(self) -> np.ndarray:
        """[N, 2] width and height of every box's frame."""
        return self.frames[self.picture, :2]

    @property
    def usable(self) -> np.ndarray:
        """[N] whether a box has an area."""
        return np.all(self.table[:, 2:4] > 0, axis=1)

    def each(self, wanted: np.ndarray, code: str, text: Callable[[int], str], remedy: str) -> Iterator[Finding]:
        """A warning with its line for every box where `wanted` [N]."""
        for index in np.flatnonzero(wanted):
            name = self.names[self.picture[index]]
            message = f"{text(int(index))} ({name})"
            yield Finding("warning", code, str(self.split.label_file), message, remedy, int(self.lines[index]))


def gather(split: Split, frames: Mapping[str, Frame]) -> Boxes:
    """Joins the labels of pictures with a known frame."""
    names = [name for name in split.labels if name in frames]
    rows = [split.labels[name] for name in names]
    known = [frames[name] for name in names]
    nothing = (np.nan, np.nan)
    return Boxes(
        split,
        np.concatenate([np.zeros((0, WIDTH)), *(one.table for one in rows)]),
        np.array([line for one in rows for line in one.lines], np.int64),
        np.repeat(np.arange(len(rows)), [len(one.table) for one in rows]),
        names,
        np.array([(f.width, f.height, f.scale, *(f.other or nothing)) for f in known]).reshape(-1, 5),
        any(frame.source for frame in known),
    )


def check_boxes(boxes: Boxes) -> Iterator[Finding]:
    """Errors of the whole set first: where there is one, single boxes say nothing more."""
    if not len(boxes.table):
        if boxes.split.part and boxes.names:  # faces may be in the others
            return
        text = "not one face in it" if boxes.names else "no label belongs to a latent"
        yield Finding("error", "no-faces", str(boxes.split.label_file), text, "look at its form; README: Labels")
        return
    for whole in (_relative, _corners, _wrong_frame):
        if finding := whole(boxes):
            yield finding
            return
    if finding := _top_left(boxes):
        yield finding
    yield from _single_boxes(boxes)
    yield from _twice(boxes)
    yield from _small(boxes)


def _relative(boxes: Boxes) -> Finding | None:
    usable = boxes.end[boxes.usable]
    if len(usable) < 5 or (usable.max(axis=1) > 1.5).mean() > 0.01:
        return None
    text = f"coordinates are 0 to {usable.max():.3g}: shares of the picture, not pixels"
    line = int(boxes.lines[0])
    return Finding("error", "relative-boxes", str(boxes.split.label_file), text, "rows are `x y w h` in pixels", line)


def _corners(boxes: Boxes) -> Finding | None:
    """`x1 y1 x2 y2` read as `x y w h`."""
    table, size = boxes.table[boxes.usable], boxes.size[boxes.usable]
    if len(table) < FEWEST:
        return None
    reaching_out = (boxes.end[boxes.usable] > size + TOLERANCE).any(axis=1).mean()
    corners = (table[:, 2:4] > table[:, :2]).all(axis=1) & (table[:, 2:4] <= size + TOLERANCE).all(axis=1)
    if corners.mean() < 0.98 or reaching_out < OUTSIDE:
        return None
    text = (
        f"columns 3 and 4 are larger than 1 and 2 in {corners.mean():.0%} of the rows, and as `x y w h` "
        f"{reaching_out:.0%} reach out of their picture: corners `x1 y1 x2 y2`?"
    )
    remedy = "rows are `x y w h`: subtract x1 from x2 and y1 from y2"
    return Finding("error", "corner-boxes", str(boxes.split.label_file), text, remedy, int(boxes.lines[0]))


def _outside(boxes: Boxes) -> np.ndarray:
    """[N] whether a box's centre lies outside its frame."""
    return np.any((boxes.centre < 0) | (boxes.centre > boxes.size), axis=1) & boxes.usable


def _wrong_frame(boxes: Boxes) -> Finding | None:
    """Source pixels beside latents of resized pictures, the commonest mistake of all; or the reverse."""
    outside = _outside(boxes)
    other = boxes.frames[boxes.picture, 3:]
    if outside.sum() > OUTSIDE * len(outside):
        return _too_far(boxes, outside, other)
    smaller = (other <= SMALLER * boxes.size).all(axis=1) & boxes.usable  # where the other frame lies inside this one
    beyond = ((boxes.centre > other) & smaller[:, None]).any(axis=1)
    if smaller.sum() < MANY or beyond.sum() > BEYOND_SMALLER * smaller.sum():
        return None
    wanted, meant = ("the coded picture", "photograph") if boxes.source else ("the photograph", "coded picture")
    code = "picture-pixels" if boxes.source else "source-pixels"
    text = (
        f"no box of {smaller.sum()} lies beyond the size of {wanted}, where that is the smaller one: labels are in "
        f"its pixels, not in those of the {meant}"
    )
    remedy = REMEDY_PICTURE if boxes.source else REMEDY_MANIFEST
    return Finding("error", code, str(boxes.split.label_file), text, remedy)


def _too_far(boxes: Boxes, outside: np.ndarray, other: np.ndarray) -> Finding:
    """More than single boxes lie outside."""
    reach = np.percentile(boxes.end[boxes.usable], 99, axis=0)
    usual = np.median(boxes.size, axis=0)
    first = int(np.flatnonzero(outside)[0])
    text = (
        f"{outside.sum()} of {len(outside)} boxes lie outside their picture, this one the first: coordinates reach "
        f"{reach[0]:.0f} x {reach[1]:.0f}, {'photographs' if boxes.source else 'pictures'} are {usual[0]:.0f} x "
        f"{usual[1]:.0f}"
    )
    known = outside & np.isfinite(other).all(axis=1)
    fits = known.any() and np.all(boxes.centre[known] <= other[known] + TOLERANCE, axis=1).mean() > 0.95
    if boxes.source:
        message, remedy = f"{text}: not in pixels of these photographs", "look at the sizes and the label file"
    elif fits:
        message = f"{text}; all fit into the photographs: labels are in source pixels, latents of resized pictures"
        remedy = REMEDY_MANIFEST
    else:
        message = f"{text}: labels in pixels of the photographs, beside latents of resized pictures"
        remedy = REMEDY_SOURCE
    code = "outside-photograph" if boxes.source else "source-pixels"
    return Finding("error", code, str(boxes.split.label_file), message, remedy, int(boxes.lines[first]))


def _top_left(boxes: Boxes) -> Finding | None:
    """Without any size known, labels of smaller photographs leave the right and the bottom of the picture empty."""
    if boxes.source or boxes.usable.sum() < MANY or np.isfinite(boxes.frames[:, 3]).any():
        return None
    right, bottom = np.percentile((boxes.centre / boxes.size)[boxes.usable], 99.5, axis=0)
    if max(right, bottom) > SMALLER:
        return None
    text = (
        f"faces lie in the left {right:.0%} and the upper {bottom:.0%} of the pictures only: labels in pixels of "
        "photographs that were smaller?"
    )
    return Finding("warning", "top-left", str(boxes.split.label_file), text, REMEDY_SOURCE)


def _single_boxes(boxes: Boxes) -> Iterator[Finding]:
    table, size, usable = boxes.table, boxes.size, boxes.usable
    shown = boxes.frames[boxes.picture, 2]  # picture pixels per pixel
    wide, high = table[:, 2], table[:, 3]

    def box(index: int) -> str:
        return "box " + " ".join(f"{side:g}" for side in table[index, :4])

    yield from boxes.each(~usable, "zero-size", lambda i: f"{box(i)} has no area", "left out when read")
    outside = _outside(boxes)
    yield from boxes.each(
        outside,
        "outside",
        lambda i: f"{box(i)} is centred outside its picture of {size[i, 0]:.0f}x{size[i, 1]:.0f}",
        "what is left of it in the picture counts as a face: correct or remove the row",
    )
    reaching = ((table[:, :2] < -TOLERANCE) | (boxes.end > size + TOLERANCE)).any(axis=1) & usable & ~outside
    if reaching.any():
        line = int(boxes.lines[np.flatnonzero(reaching)[0]])
        text = (
            f"{reaching.sum()} of {len(table)} boxes reach out of their picture, this one the first: they are clipped"
        )
        yield Finding("note", "clipped", str(boxes.split.label_file), text, "", line)
    under = usable & (np.minimum(wide, high) * shown < 1)
    yield from boxes.each(under, "under-a-pixel", lambda i: f"{box(i)} is under a pixel of the coded picture",
                          "left out when read")  # fmt: skip
    cut = ((table[:, :2] <= TOLERANCE) | (boxes.end >= size - TOLERANCE)).any(axis=1)  # by the picture's edge
    with np.errstate(divide="ignore", invalid="ignore"):
        extreme = usable & ~cut & (np.maximum(wide / high, high / wide) > EXTREME_ASPECT)
    yield from boxes.each(extreme, "extreme-shape", lambda i: f"{box(i)} is no shape of a face", "correct the row")


def _twice(boxes: Boxes) -> Iterator[Finding]:
    """The same box twice in one picture."""
    keys = np.concatenate([boxes.picture[:, None], boxes.table[:, :4]], axis=1)
    _, first, inverse = np.unique(keys, axis=0, return_index=True, return_inverse=True)
    original = first[inverse.reshape(-1)]  # [N]
    repeated = (original != np.arange(len(keys))) & boxes.usable
    yield from boxes.each(
        repeated, "box-twice", lambda i: f"the same box as in line {boxes.lines[original[i]]}", "remove one"
    )


def _small(boxes: Boxes) -> Iterator[Finding]:
    """Faces lower than a cell of the latent."""
    height = boxes.table[:, 3] * boxes.frames[boxes.picture, 2]
    faces = boxes.usable & (boxes.table[:, 14] == 0)
    if not faces.any():
        return
    under, half = ((height[faces] < boxes.split.stride * part).mean() for part in (1.0, 0.5))
    if under > 0.1 and boxes.split.stride > 1:
        text = (
            f"{under:.0%} of {faces.sum()} faces are lower than one cell of the latent ({boxes.split.stride} px), "
            f"{half:.0%} lower than half of one"
        )
        remedy = (
            f"--min_face {boxes.split.stride // 2} leaves the smallest out of the loss, as neither face nor background"
        )
        yield Finding("note", "small-faces", str(boxes.split.label_file), text, remedy)
