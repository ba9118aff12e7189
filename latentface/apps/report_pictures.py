"""Pictures of a report: what lies behind the boxes, the boxes as SVG, and enlarged parts around single faces."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np

from latentface.apps.report_attributes import hardships
from latentface.apps.report_faces import Judged
from latentface.codecs.at_hand import decoder_at_hand
from latentface.codecs.base import Decoder
from latentface.codecs.preview import Preview
from latentface.data.manifest import source_base
from latentface.data.pictures import GREY, decode_picture, find_pictures
from latentface.errors import LatentFaceError
from latentface.evaluation.outcomes import FALSES, MISSES, Outcome, heights
from latentface.files import base_name
from latentface.inference.draw import data_uri, place_photograph, render_latent

QUALITY = 80  # of JPEG
CROP_SIDE = 128  # pixels, of an enlarged part
AROUND = 3.0  # sides of an enlarged part, in sides of the box
SMALLEST_PART = 32.0  # picture pixels
KEPT = 8  # pictures in memory, about 1 MB each


@dataclass(frozen=True)
class Box:
    """A rectangle of a picture; `kind`: found, missed, false, left-out, or near."""

    kind: str
    x: float
    y: float
    width: float
    height: float
    says: str


@dataclass(frozen=True)
class Shown:
    """A picture with boxes, or a part of one; coordinates are picture pixels."""

    title: str
    href: str  # data URI
    x: float
    y: float
    width: float
    height: float
    boxes: list[Box]
    says: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Kind:
    """A kind of missed faces or of false detections, and some of them."""

    name: str
    meaning: str
    total: int
    shown: list[Shown]


class Backgrounds:
    """What to show behind the boxes of one run: the photograph, else the decoded latent, else the latent itself."""

    def __init__(self, judged: Judged, images: str = "") -> None:
        """Raises LatentFaceError where `images` is given and holds none of the run's pictures."""
        self.judged, self.pictures = judged, judged.pictures
        found = {base_name(path.name): path for path in find_pictures(images)} if images else {}
        bases = {name: source_base(p.row) if p.row else name for name, p in self.pictures.items()}
        self.photographs: dict[str, Path] = {name: found[base] for name, base in bases.items() if base in found}
        if images and not self.photographs:
            raise LatentFaceError(f"--images {images}: no photograph of {judged.dataset.store.split} in it")
        self.decoders: dict[str, Decoder | None] = {}
        self.rgb = lru_cache(maxsize=KEPT)(self._rgb)

    def kinds(self) -> list[str]:
        """What the pictures show, in words."""
        return list(dict.fromkeys(map(self._kind, self.pictures)))

    def _kind(self, name: str) -> str:
        if name in self.photographs:
            return "the photograph"
        decoder = self._decoder(name)
        if decoder is None:
            return "the latent itself, its three strongest channels as colours"
        if isinstance(decoder, Preview):
            return "a preview of the latent, by a linear map"
        return "the picture that the detector saw" if decoder.name == "pixels" else "the decoded latent"

    def _rgb(self, name: str) -> np.ndarray:
        """uint8 [H, W, 3], without padding."""
        picture, stride, rate = self.pictures[name], self.judged.dataset.stride, int(self.judged.rate)
        if name in self.photographs:
            _, rows, columns = self.judged.dataset.store.shape(name, rate)
            rgb = place_photograph(self.photographs[name], columns * stride, rows * stride, stride, picture.row)
        else:
            array = self.judged.dataset.store.read(name, rate).values
            decoder = self._decoder(name)
            rgb = decode_picture(decoder, array, rate, picture.row) if decoder else render_latent(array, stride)
        return rgb[: picture.row.content_height, : picture.row.content_width] if picture.row else rgb

    def _decoder(self, name: str) -> Decoder | None:
        """For latents of its codec; where nobody knows that, as the first of them looks."""
        row, rate = self.pictures[name].row, int(self.judged.rate)
        entry = row.latents.get(rate) if row else None
        codec = entry.codec if entry else ""
        if codec not in self.decoders:
            self.decoders[codec] = decoder_at_hand((codec,), self.judged.dataset.store.read(name, rate).values, rate)
        return self.decoders[codec]


def whole(judged: Judged, name: str, backgrounds: Backgrounds) -> Shown:
    """A picture with all its boxes."""
    outcome, rgb = judged.outcomes[name], backgrounds.rgb(name)
    found, faces, false = int(outcome.found.sum()), int(outcome.counted.sum()), int((outcome.false != "").sum())
    says = [f"{found} of {faces} faces found", f"{faces - found} missed", f"{false} false", f"F1 {outcome.f1:.2f}"]
    height, width = rgb.shape[:2]
    return Shown(picture_title(judged, name), _jpeg(rgb), 0, 0, width, height, list(_boxes(outcome)), says)


def picture_title(judged: Judged, name: str) -> str:
    """As the labels call it."""
    return judged.pictures[name].labels.name


def _boxes(outcome: Outcome) -> Iterator[Box]:
    """True boxes, found or missed or left out, then false detections: the later lies above."""
    result = outcome.result
    for face, box in enumerate(result.true_boxes):
        size = f"{box[3] - box[1]:.1f} px high"
        if not outcome.counted[face]:
            yield _box("left-out", box, f"left out, {size}")
        elif outcome.found[face]:
            score = result.scores[outcome.finder[face]]
            yield _box("found", box, f"found, {size}, score {score:.2f}")
        else:
            yield _box("missed", box, f"missed, {size}: {outcome.miss[face]}; {_nearest(outcome, face)}")
    for number in np.flatnonzero(outcome.false != ""):
        box, score = result.boxes[number], result.scores[number]
        yield _box("false", box, f"false, {box[3] - box[1]:.1f} px high, score {score:.2f}: {outcome.false[number]}")


def _box(kind: str, box: np.ndarray, says: str) -> Box:
    x1, y1, x2, y2 = (round(float(side), 1) for side in box)
    return Box(kind, x1, y1, round(x2 - x1, 1), round(y2 - y1, 1), says)


def _nearest(outcome: Outcome, face: int) -> str:
    near = outcome.nearest[face]
    if near < 0:
        return "no detection touches it"
    return f"nearest detection: score {outcome.result.scores[near]:.2f}, IoU {outcome.overlap[face]:.2f}"


def missed_faces(judged: Judged, backgrounds: Backgrounds, most: int) -> list[Kind]:
    """The highest of each reason, enlarged; the nearest detection is drawn too."""

    def shown(name: str, face: int) -> Shown:
        return _missed(judged, backgrounds, name, face)

    return _kinds(MISSES, judged, lambda o: o.miss, lambda o: heights(o.result.true_boxes), shown, most)


def _kinds(
    meanings: Mapping[str, str],
    judged: Judged,
    labels: Callable[[Outcome], np.ndarray],
    weights: Callable[[Outcome], np.ndarray],
    show: Callable[[str, int], Shown],
    most: int,
) -> list[Kind]:
    """Of each kind how many there are, and the `most` of the largest weight.

    `labels` and `weights` give of a picture which kind each face or detection is, and how much it matters: [K] each.
    """
    found = []
    for kind, meaning in meanings.items():
        members = [
            (float(-values[number]), name, int(number))
            for name, outcome in judged.outcomes.items()
            for values in [weights(outcome)]
            for number in np.flatnonzero(labels(outcome) == kind)
        ]
        found.append(Kind(kind, meaning, len(members), [show(name, n) for _, name, n in sorted(members)[:most]]))
    return found


def _missed(judged: Judged, backgrounds: Backgrounds, name: str, face: int) -> Shown:
    outcome = judged.outcomes[name]
    box, near = outcome.result.true_boxes[face], outcome.nearest[face]
    boxes = [_box("missed", box, "the missed face")]
    if near >= 0:
        boxes.insert(0, _box("near", outcome.result.boxes[near], "the nearest detection"))
    hard = hardships(judged.attributes[name][face]) if judged.attributes else []
    says = [f"{box[3] - box[1]:.1f} px high", _nearest(outcome, face), *hard]
    return _part(name, backgrounds.rgb(name), box, boxes, says)


def false_faces(judged: Judged, backgrounds: Backgrounds, most: int) -> list[Kind]:
    """The strongest of each kind, enlarged; labelled faces around are drawn too."""

    def shown(name: str, number: int) -> Shown:
        return _false(judged, backgrounds, name, number)

    return _kinds(FALSES, judged, lambda o: o.false, lambda o: o.result.scores, shown, most)


def _false(judged: Judged, backgrounds: Backgrounds, name: str, number: int) -> Shown:
    outcome = judged.outcomes[name]
    box, score = outcome.result.boxes[number], outcome.result.scores[number]
    boxes = [box for box in _boxes(outcome) if box.kind != "false"] + [_box("false", box, "the false detection")]
    beside = outcome.beside[number]
    near = f"IoU {beside:.2f} with the nearest face" if beside > 0 else "touches no labelled face"
    says = [f"{box[3] - box[1]:.1f} px high", f"score {score:.2f}", near]
    return _part(name, backgrounds.rgb(name), box, boxes, says)


def _part(title: str, rgb: np.ndarray, box: np.ndarray, boxes: list[Box], says: list[str]) -> Shown:
    """The square around a box, enlarged: moved into the picture where it can be, else grey beyond it."""
    longest = float(max(box[2] - box[0], box[3] - box[1]))
    side = round(max(longest, min(max(AROUND * longest, SMALLEST_PART), *rgb.shape[:2])))
    x, y = (
        max(0, min(round(float(box[axis] + box[axis + 2] - side) / 2), rgb.shape[1 - axis] - side)) for axis in (0, 1)
    )
    inside = rgb[y : y + side, x : x + side]
    beyond = [(0, side - inside.shape[0]), (0, side - inside.shape[1]), (0, 0)]
    part = np.pad(inside, beyond, constant_values=GREY)
    shrinks = side > CROP_SIDE
    part = cv2.resize(part, (CROP_SIDE, CROP_SIDE), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC)
    seen = [b for b in boxes if b.x < x + side and b.y < y + side and b.x + b.width > x and b.y + b.height > y]
    return Shown(title, _jpeg(part), x, y, side, side, seen, says)


def _jpeg(rgb: np.ndarray) -> str:
    return data_uri(rgb, "jpeg", quality=QUALITY)
