"""The manifest `latents.jsonl` of a split: what every latent is and where its picture lies in the photograph.

One JSON object per line and picture; of two lines for one name the later counts. Keys:

| key | meaning |
|---|---|
| `name` | as in the label file; its base name is the latents' directory |
| `latents` | by rate (`"75"`): `codec`, `model_index` or null, quantisation `step` or null, `bpp` or null, `exact`, |
| | and `bpp_from`, where the bits were counted: `bitstream`, `entropy model`, `zero-order entropy`; may be missing |
| `stride` | picture pixels per cell |
| `source_width`, `source_height` | the photograph, pixels, after its EXIF orientation |
| `scale_x`, `scale_y` | picture pixels per source pixel |
| `pad_right`, `pad_bottom` | picture pixels that are no photograph |
| `crop` | null, or `[x, y, width, height]` in source pixels of the part that was coded |
| `mirrored` | whether it was mirrored left to right after scaling |
| `label_frame` | frame of the coordinates in `labels.txt`: `picture` or `source` |
| `encoder` | settings of the encoder that wrote the row, so that it can continue its work; may be missing |

A source point `(x, y)` lies at `((x - crop_x) * scale_x, (y - crop_y) * scale_y)` in the picture; if mirrored, its
first coordinate is that, subtracted from the picture's width without padding. `bpp` counts bits per pixel of the
photograph's part, not of the padding. Keys unknown here are tolerated.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from latentface.codecs.base import Latent
from latentface.data.labels import MIRRORED_LANDMARKS
from latentface.errors import LatentFaceError
from latentface.files import base_name, name_problem, parse_json, replacing, unwritable

MANIFEST_NAME = "latents.jsonl"
REMEDY = "run the same encode command again"
LARGEST = 1 << 20  # pixels a side, and any other whole number: far beyond what there is
LARGEST_PICTURE = 16384  # side of a coded picture, pixels, the largest that the encoder makes

Value = TypeVar("Value")


@dataclass(frozen=True)
class LatentEntry:
    """One latent of a picture."""

    codec: str
    model_index: int | None
    step: float | None
    bpp: float | None
    exact: bool
    bpp_from: str = ""  # see `codecs.base`; empty: unknown

    @classmethod
    def of(cls, latent: Latent) -> LatentEntry:
        """Of a latent that a codec has just made."""
        return cls(latent.codec, latent.model_index, latent.step, latent.bpp, latent.exact, latent.bpp_from)


@dataclass(frozen=True)
class ManifestRow:
    """One picture; the module's docstring has the meanings."""

    name: str
    latents: dict[int, LatentEntry]  # by rate
    stride: int
    source_width: int
    source_height: int
    scale_x: float = 1.0
    scale_y: float = 1.0
    pad_right: int = 0
    pad_bottom: int = 0
    crop: tuple[int, int, int, int] | None = None  # x, y, width, height, source pixels
    mirrored: bool = False
    label_frame: str = "picture"
    encoder: dict[str, Any] = field(default_factory=dict)

    @property
    def base(self) -> str:
        """The directory of the latents."""
        return base_name(self.name)

    @property
    def part(self) -> tuple[int, int, int, int]:
        """What was coded of the photograph: x, y, width, height, source pixels."""
        return self.crop or (0, 0, self.source_width, self.source_height)

    @property
    def cells(self) -> tuple[int, int]:
        """Rows and columns of a latent of this picture."""
        height, width = self.content_height + self.pad_bottom, self.content_width + self.pad_right
        return -(-height // self.stride), -(-width // self.stride)

    def check_cells(self, shape: tuple[int, ...], where: str) -> None:
        """Raises LatentFaceError unless a latent [C, h, w] is of this picture."""
        if shape[1:] != self.cells:
            raise LatentFaceError(
                f"{where}: {shape[1]}x{shape[2]} cells, by the manifest {self.cells[0]}x{self.cells[1]}; {REMEDY}"
            )

    @property
    def content_width(self) -> int:
        """The picture's width without padding."""
        return round(self.part[2] * self.scale_x)

    @property
    def content_height(self) -> int:
        """The picture's height without padding."""
        return round(self.part[3] * self.scale_y)

    def to_photograph(self, boxes: np.ndarray) -> np.ndarray:
        """Boxes [N, 4] in picture pixels -> pixels of the photograph."""
        x, y, width, _ = self.part
        found = boxes / np.array([self.scale_x, self.scale_y] * 2)
        if self.mirrored:
            found[:, [0, 2]] = width - found[:, [2, 0]]
        return found + np.array([x, y] * 2)

    def points_to_photograph(self, points: np.ndarray) -> np.ndarray:
        """Landmarks [N, 5, 2] likewise; of a mirrored picture they change places too, see `transform_labels`."""
        x, y, width, _ = self.part
        found = points / np.array([self.scale_x, self.scale_y])
        if self.mirrored:
            found[..., 0] = width - found[..., 0]
            found = found[:, MIRRORED_LANDMARKS]
        return found + np.array([x, y])


def source_base(row: ManifestRow) -> str:
    """The base name of the photograph that a row was made of."""
    return row.base if row.crop is None else row.base.rpartition("__crop")[0]


def read_manifest(path: str | Path) -> dict[str, ManifestRow]:
    """Manifest -> rows by base name. Raises LatentFaceError, with file and line, for what is no row."""
    rows, torn = _read(Path(path))
    if torn:
        raise LatentFaceError(f"{path}:{torn}: the last line is cut short, an encoder was stopped there; {REMEDY}")
    return rows


@lru_cache(maxsize=4)
def manifest_in(folder: Path) -> dict[str, ManifestRow]:
    """Of a split; empty where there is none."""
    path = folder / MANIFEST_NAME
    return read_manifest(path) if path.is_file() else {}


def recover_manifest(path: str | Path) -> dict[str, ManifestRow]:
    """`read_manifest` for who will write the file again: a last line that is cut short does not count."""
    return _read(Path(path))[0]


def write_manifest(path: str | Path, rows: Iterable[ManifestRow]) -> None:
    """Writes all rows in one step or not at all."""
    with replacing(path) as temporary, temporary.open("w", encoding="utf-8", newline="\n") as file:
        file.writelines(map(_line, rows))


def append(path: str | Path, rows: Iterable[ManifestRow]) -> None:
    """Adds rows to a manifest whose last line is complete; they are in the file when this returns, or none is."""
    path = Path(path)
    try:
        size = path.stat().st_size if path.exists() else 0
        try:
            with path.open("a", encoding="utf-8", newline="\n") as file:
                file.write("".join(map(_line, rows)))
        except OSError:
            os.truncate(path, size)
            raise
    except OSError as error:
        raise unwritable(path, error) from error


def _line(row: ManifestRow) -> str:
    values = asdict(row)
    values["latents"] = {str(rate): values["latents"][rate] for rate in sorted(row.latents)}
    return json.dumps(values, allow_nan=False) + "\n"


def manifest_lines(path: Path) -> dict[str, int]:
    """Base name -> its line in a manifest that `read_manifest` accepts."""
    with path.open("rb") as file:
        return {base_name(json.loads(line)["name"]): number for number, line in enumerate(file, 1) if line.strip()}


def _read(path: Path) -> tuple[dict[str, ManifestRow], int | None]:
    """Rows by base name, and the number of the last line if it is cut short."""
    try:
        lines = path.read_bytes().split(b"\n")
    except OSError as error:
        raise LatentFaceError(f"{path}: the manifest cannot be read ({error.strerror})") from error
    rows: dict[str, ManifestRow] = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = _row(line)
        except ValueError as error:
            if number == len(lines):  # no line end behind it
                return rows, number
            raise LatentFaceError(f"{path}:{number}: {error}; remove the line and {REMEDY}") from error
        if (other := rows.get(row.base)) and other.name != row.name:
            raise LatentFaceError(f"{path}:{number}: {row.name} and {other.name} share a base name; rename one")
        rows[row.base] = row
    return rows, None


def _row(line: bytes) -> ManifestRow:
    """One line -> row; ValueError with the reason for anything else."""
    try:
        values = parse_json(line)
    except UnicodeDecodeError as error:
        raise ValueError("not UTF-8 text") from error
    except ValueError as error:
        raise ValueError(f"not JSON ({getattr(error, 'msg', error)})") from error
    take = _Fields(values)
    row = ManifestRow(
        name=take("name", _text),
        latents={_rate(key): _entry(value) for key, value in take("latents", _object).items()},
        stride=take("stride", _positive_integer),
        source_width=take("source_width", _positive_integer),
        source_height=take("source_height", _positive_integer),
        scale_x=take("scale_x", _positive),
        scale_y=take("scale_y", _positive),
        pad_right=take("pad_right", _natural),
        pad_bottom=take("pad_bottom", _natural),
        crop=take("crop", _optional(_box)),
        mirrored=take("mirrored", _boolean),
        label_frame=take("label_frame", _frame),
        encoder=_settings(values.get("encoder", {})),
    )
    if problem := name_problem(row.name):
        raise ValueError(f"{row.name!r} cannot be used as a name: {problem}")
    _check_frame(row)
    return row


def _check_frame(row: ManifestRow) -> None:
    """ValueError unless the part lies in the photograph, and the picture has a size that an encoder can have made."""
    x, y, width, height = row.part
    if x + width > row.source_width or y + height > row.source_height:
        raise ValueError(f"'crop': reaches out of a photograph of {row.source_width}x{row.source_height}")
    for content, padding in ((row.content_width, row.pad_right), (row.content_height, row.pad_bottom)):
        if content < 1 or content + padding > LARGEST_PICTURE:
            raise ValueError(
                f"a picture of {content} pixels and {padding} of padding a side; there are 1 to {LARGEST_PICTURE}"
            )


class _Fields:
    """Takes checked values out of a JSON object."""

    def __init__(self, values: Any):
        self.values = _object(values)

    def __call__(self, key: str, check: Callable[[Any], Value]) -> Value:
        if key not in self.values:
            raise ValueError(f"{key!r} is missing")
        try:
            return check(self.values[key])
        except ValueError as error:
            raise ValueError(f"{key!r}: {error}") from error


def _entry(values: Any) -> LatentEntry:
    take = _Fields(values)
    return LatentEntry(
        codec=take("codec", _text),
        model_index=take("model_index", _optional(_natural)),
        step=take("step", _optional(_positive)),
        bpp=take("bpp", _optional(_number)),
        exact=take("exact", _boolean),
        bpp_from=_text(values.get("bpp_from", "")),
    )


def _optional(check: Callable[[Any], Value]) -> Callable[[Any], Value | None]:
    return lambda value: None if value is None else check(value)


def _demand(good: bool, value: Any, wanted: str) -> None:
    if not good:
        raise ValueError(f"{json.dumps(value)[:40]} is not {wanted}")


def _text(value: Any) -> str:
    _demand(isinstance(value, str), value, "text")
    return value


def _boolean(value: Any) -> bool:
    _demand(isinstance(value, bool), value, "true or false")
    return value


def _object(value: Any) -> dict[str, Any]:
    _demand(isinstance(value, dict), value, "an object")
    return value


def _settings(value: Any) -> dict[str, Any]:
    """Anything that can be written again: numbers too large for a float cannot."""
    json.dumps(value, allow_nan=False)
    return _object(value)


def _natural(value: Any) -> int:
    _demand(type(value) is int and 0 <= value <= LARGEST, value, f"a whole number up to {LARGEST}")
    return value


def _positive_integer(value: Any) -> int:
    _demand(type(value) is int and 0 < value <= LARGEST, value, f"a whole number from 1 to {LARGEST}")
    return value


def _number(value: Any) -> float:
    _demand(type(value) in (int, float) and 0 <= value < 1e12, value, "a number of 0 or more")  # false for NaN
    return float(value)


def _positive(value: Any) -> float:
    _demand(_number(value) > 0, value, "above 0")
    return float(value)


def _box(value: Any) -> tuple[int, int, int, int]:
    _demand(isinstance(value, list) and len(value) == 4, value, "[x, y, width, height]")
    return _natural(value[0]), _natural(value[1]), _positive_integer(value[2]), _positive_integer(value[3])


def _frame(value: Any) -> str:
    _demand(value in ("picture", "source"), value, "picture or source")
    return value


def _rate(key: str) -> int:
    _demand(key.isascii() and key.isdecimal() and len(key) < 9, key, "a rate")
    return int(key)
