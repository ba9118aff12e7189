"""Label files: which faces are in which picture.

A file holds pictures; a picture is a header followed by one row per face. The header is a `name` line or a `# name`
line, optionally followed by a line with the number of rows. Rows are told apart by their number of columns:

| columns | layout |
|---|---|
| 4 | `x y w h` |
| 10 | WIDER FACE: `x y w h blur expression illumination invalid occlusion pose` |
| 14 | `x y w h`, then five landmarks `x y` |
| 20 or 19 | RetinaFace: `x y w h`, then five landmarks `x y visible`, then blur or confidence (not used) |
| 21 | as 20, then `invalid`: our own extension, written for ignored faces only |

Landmarks are left eye, right eye, nose, left and right mouth corner as seen in the picture; `-1 -1` means unknown.
A picture without faces has no rows, or the count 0 followed by nothing or by one row of zeros. A name made of digits
only works as `# name` and as a name followed by a count. Blank lines, CRLF and a byte order mark are tolerated.

What becomes of unusual boxes: those flagged invalid are kept and marked `ignore` (neither face nor background); those
without width or height are dropped when read and counted in `dropped`; those that reach out of the frame stay as they
are until `clip_labels` is told the frame. Negative sides are dropped likewise in rows of 10 and 19 to 21 columns, as
the official WIDER FACE validation file has one; in rows of 4 and 14 they are an error.

Attributes of WIDER FACE rows are kept and written again; our own files of that form have 0 where nobody knows them.
`write_labels` puts the invalid flag of a face with landmarks into column 21, because 20 columns have no room for it:
readers that take columns by position see an ordinary row, and the flag does not get lost.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from latentface.boxes import clip, xywh_to_xyxy, xyxy_to_xywh
from latentface.data.label_rows import Rows, read_rows, retinaface_lines, wider_lines
from latentface.errors import LatentFaceError
from latentface.files import base_name, name_problem, replacing

MIRRORED_LANDMARKS = [1, 0, 2, 4, 3]  # left and right change places
ATTRIBUTES = ("blur", "expression", "illumination", "occlusion", "pose")  # of WIDER FACE rows, 0: none of it
VISIBLE_SHARE = 0.3  # of a box whose centre a crop cut off: above it the rest is ignored, below it is background


@dataclass(frozen=True, eq=False)
class PictureLabels:
    """The faces of one picture."""

    name: str  # as in the file: 0--Parade/0_Parade_Parade_0_1014.jpg
    boxes: np.ndarray  # [N, 4] float32 x1 y1 x2 y2
    landmarks: np.ndarray  # [N, 5, 2] float32 x y, NaN where unknown
    ignore: np.ndarray  # [N] bool: neither face nor background
    line: int = 0  # where the picture starts in its file
    dropped: int = 0  # boxes left out because nothing of them can be seen
    attributes: np.ndarray | None = None  # [N, 5] int8, see ATTRIBUTES; None: the rows have no place for them

    @property
    def base(self) -> str:
        """The name that joins labels, pictures and latents: 0_Parade_Parade_0_1014."""
        return base_name(self.name)

    def keep(self, wanted: np.ndarray) -> PictureLabels:
        """The faces where `wanted` [N] is true; the others count as dropped."""
        return replace(
            self,
            boxes=self.boxes[wanted],
            landmarks=self.landmarks[wanted],
            ignore=self.ignore[wanted],
            dropped=self.dropped + int((~wanted).sum()),
            attributes=None if self.attributes is None else self.attributes[wanted],
        )

    def shifted(self, right: float, down: float) -> PictureLabels:
        """Every face moved by that many pixels."""
        return transform_labels(self, 1, 1, -right, -down)


def read_labels(path: str | Path) -> dict[str, PictureLabels]:
    """Label file -> labels by base name, in the order of the file.

    Raises LatentFaceError, with file and line, for anything that is not one of the documented forms.
    """
    found: dict[str, PictureLabels] = {}
    for rows in read_rows(Path(path)):
        picture = labels_of(rows)
        first = found.setdefault(picture.base, picture)
        if first is not picture:
            raise LatentFaceError(
                f"{path}:{picture.line}: {picture.name} has the same base name as {first.name} in line {first.line}; "
                f"keep one of them or rename one with its picture"
            )
    return found


def write_labels(path: str | Path, labels: Iterable[PictureLabels]) -> None:
    """RetinaFace rows if any landmark is known, else WIDER FACE rows; two decimals; in one step or not at all.

    A landmark at exactly -1 -1 is read back as unknown.
    """
    pictures = list(labels)
    for picture in pictures:
        if problem := name_problem(picture.name):
            raise LatentFaceError(f"{path}: cannot hold the name {picture.name!r}: {problem}")
    with_landmarks = any(np.isfinite(picture.landmarks).any() for picture in pictures)
    lines_of = retinaface_lines if with_landmarks else wider_lines
    with replacing(path) as temporary, temporary.open("w", encoding="utf-8", newline="\n") as file:
        for picture in pictures:
            file.writelines(f"{line}\n" for line in lines_of(picture.name, _table(picture)))


def labels_of(rows: Rows) -> PictureLabels:
    """A picture of the file with the boxes that have an area."""
    table = rows.table[(rows.table[:, 2:4] > 0).all(axis=1)]
    landmarks = table[:, 4:14].reshape(-1, 5, 2)
    landmarks[(landmarks == -1).all(axis=2)] = np.nan
    return PictureLabels(
        name=rows.name,
        boxes=xywh_to_xyxy(table[:, :4]).astype(np.float32),
        landmarks=landmarks.astype(np.float32),
        ignore=table[:, 14] != 0,
        line=rows.line,
        dropped=len(rows.table) - len(table),
        attributes=_attributes(table[:, 15:]),
    )


def _attributes(columns: np.ndarray) -> np.ndarray | None:
    return np.minimum(columns, 127).astype(np.int8) if len(columns) and (columns >= 0).all() else None


def _table(labels: PictureLabels) -> np.ndarray:
    """[N, 20] of `Rows`. Corners are rounded before the sides are taken: a second round trip changes nothing."""
    corners = np.round(labels.boxes.astype(np.float64), 2) + 0.0  # no -0.00
    landmarks = np.round(labels.landmarks.astype(np.float64), 2) + 0.0
    landmarks[~np.isfinite(landmarks).all(axis=2)] = -1
    attributes = np.full((len(corners), len(ATTRIBUTES)), -1) if labels.attributes is None else labels.attributes
    parts = [xyxy_to_xywh(corners), landmarks.reshape(-1, 10), labels.ignore[:, None], attributes]
    return np.concatenate(parts, axis=1)


def clip_labels(labels: PictureLabels, width: float, height: float) -> PictureLabels:
    """Cuts boxes to the frame and drops those of which less than one pixel's width or height is left."""
    boxes = clip(labels.boxes, width, height)
    seen = ((boxes[:, 2:] - boxes[:, :2]) >= 1).all(axis=1)  # [N]
    return replace(labels, boxes=boxes).keep(seen)


def crop_labels(labels: PictureLabels, x: float, y: float, width: float, height: float) -> PictureLabels:
    """The faces of a crop, still in the coordinates of the whole picture and not cut.

    A face belongs to the crop if its centre lies inside (RetinaFace, Deng et al. 2020, section 4.2). One whose centre
    is cut off but which is visible by more than VISIBLE_SHARE is marked `ignore`, so that it is not taught as
    background; the others are dropped.
    """
    low, high = np.array([x, y], np.float32), np.array([x + width, y + height], np.float32)
    boxes = labels.boxes
    centre = (boxes[:, :2] + boxes[:, 2:]) / 2
    inside = ((centre >= low) & (centre < high)).all(axis=1)  # [N]
    visible = np.clip(np.minimum(boxes[:, 2:], high) - np.maximum(boxes[:, :2], low), 0, None).prod(axis=1)
    partly = visible > VISIBLE_SHARE * (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
    return replace(labels, ignore=labels.ignore | ~inside).keep(inside | partly)


def transform_labels(
    labels: PictureLabels,
    scale_x: float,
    scale_y: float,
    offset_x: float = 0,
    offset_y: float = 0,
    mirror_width: float | None = None,
) -> PictureLabels:
    """Subtracts the offset, scales, then mirrors inside a frame of `mirror_width` scaled pixels if one is given.

    Mirrored landmarks change places, so that the left eye stays the left one as seen in the picture.
    """
    offset = np.array([offset_x, offset_y], np.float32)
    scale = np.array([scale_x, scale_y], np.float32)
    boxes = (labels.boxes - np.tile(offset, 2)) * np.tile(scale, 2)
    landmarks = (labels.landmarks - offset) * scale
    if mirror_width is not None:
        boxes[:, [0, 2]] = np.float32(mirror_width) - boxes[:, [2, 0]]
        landmarks[..., 0] = np.float32(mirror_width) - landmarks[..., 0]
        landmarks = landmarks[:, MIRRORED_LANDMARKS]
    return replace(labels, boxes=boxes, landmarks=landmarks)
