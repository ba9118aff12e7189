"""The text of a label file <-> one table of numbers per picture; `labels.py` describes the forms."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from operator import itemgetter
from pathlib import Path
from typing import NamedTuple, NoReturn

import numpy as np

from latentface.errors import LatentFaceError
from latentface.files import name_problem

# Columns of a row -> places of box (4), landmarks (10), invalid flag and attributes (5) in the row with -1 and 0
# appended.
_TRIPLES = [4 + 3 * point + axis for point in range(5) for axis in (0, 1)]
_PLACES = {
    4: [0, 1, 2, 3, *[4] * 10, 5, *[4] * 5],
    10: [0, 1, 2, 3, *[10] * 10, 7, 4, 5, 6, 8, 9],
    14: [*range(14), 15, *[14] * 5],
    19: [0, 1, 2, 3, *_TRIPLES, 20, *[19] * 5],
    20: [0, 1, 2, 3, *_TRIPLES, 21, *[20] * 5],
    21: [0, 1, 2, 3, *_TRIPLES, 20, *[21] * 5],
}
_LAYOUT = {columns: itemgetter(*places) for columns, places in _PLACES.items()}
WIDTH = 20  # of `Rows.table`
_LARGEST = 1e8  # for the sum of a row's absolute values; far beyond any picture


class Rows(NamedTuple):
    """A picture as it stands in the file."""

    name: str
    line: int
    table: np.ndarray  # [N, 20] float64: x y w h, five landmarks x y (-1 -1: unknown), invalid, attributes (or -1)
    lines: tuple[int, ...]  # of the rows


def read_rows(path: Path) -> Iterator[Rows]:
    """The pictures of a label file; raises LatentFaceError with file and line for what is not a documented form."""
    reader = _Reader(path)
    while reader.at < len(reader.lines):
        yield reader.picture()


class _Reader:
    """One pass over the lines that are not blank."""

    def __init__(self, path: Path):
        self.path = path
        self.lines = _numbered_lines(path)
        self.at = 0
        self.count_line = 0

    def picture(self) -> Rows:
        number, line = self.lines[self.at]
        hashed = line.startswith("#")
        if not hashed and _mostly_numbers(line.split()):
            self.fail(number, "a row that belongs to no name; add the picture's name, or correct the count above")
        name = line[1:].strip() if hashed else line
        if problem := name_problem(name):
            self.fail(number, f"{name!r} cannot be used as a picture's name: {problem}")
        self.at += 1
        count = self.count()
        first = self.at
        rows = self.rows(hashed, sys.maxsize if count is None else count)
        lines = tuple(line_number for line_number, _ in self.lines[first : self.at])
        if count is not None and len(rows) < count:
            self.fail(self.count_line, f"the count says {count} faces, but {len(rows)} rows follow; correct the count")
        if count == 0:
            self.skip_zeros()
        return Rows(name, number, np.array(rows, np.float64).reshape(-1, WIDTH), lines)

    def count(self) -> int | None:
        """The optional number of rows below a header; it is only ever compared, so any size will do."""
        number, line = self.lines[self.at] if self.at < len(self.lines) else (0, "")
        if not (line.isascii() and line.isdecimal()):
            if _is_number(line):
                self.fail(number, f"the count of faces has to be a whole number, not {line}")
            return None
        self.count_line = number
        self.at += 1
        return int(line) if len(line) < 19 else sys.maxsize

    def rows(self, hashed: bool, most: int) -> list[tuple[float, ...]]:
        """Up to `most` rows; a header ends them."""
        rows: list[tuple[float, ...]] = []
        while len(rows) < most and self.at < len(self.lines):
            number, line = self.lines[self.at]
            columns = line.split()
            if line[0] == "#" or (not hashed and len(columns) == 1):
                break
            values = _numbers(line, columns)
            if not values and not hashed and not _mostly_numbers(columns):
                break  # a name with spaces
            rows.append(self.row(number, columns, values))
            self.at += 1
        return rows

    def row(self, number: int, columns: list[str], values: list[float]) -> tuple[float, ...]:
        if not values:
            wrong = next(column for column in columns if not _is_number(column))
            self.fail(number, f"{wrong!r} is not a number")
        if not sum(map(abs, values)) < _LARGEST:  # false for NaN as well
            self.fail(number, "a number is NaN, infinite or larger than any picture")
        if len(values) not in _LAYOUT:
            self.fail(number, f"{len(values)} columns; a row has 4, 10 (WIDER FACE), 14, 19 or 20 (RetinaFace)")
        if len(values) in (4, 14) and min(values[2:4]) < 0:
            self.fail(number, "a box has negative width or height; rows are `x y w h`")
        return _LAYOUT[len(values)]([*values, -1.0, 0.0])

    def skip_zeros(self) -> None:
        """The official files put one row of zeros below the count 0."""
        if self.at < len(self.lines):
            line = self.lines[self.at][1]
            columns = line.split()
            if len(columns) in _LAYOUT and not any(_numbers(line, columns) or [1.0]):
                self.at += 1

    def fail(self, number: int, message: str) -> NoReturn:
        raise LatentFaceError(f"{self.path}:{number}: {message}")


def _numbered_lines(path: Path) -> list[tuple[int, str]]:
    """The lines that are not blank, stripped, with their numbers from 1."""
    try:
        content = path.read_bytes()
        text = content.decode("utf-8-sig")
    except OSError as error:
        raise LatentFaceError(f"{path}: the label file cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        number = content[: error.start].count(b"\n") + 1
        raise LatentFaceError(f"{path}:{number}: not UTF-8 text; save the file as UTF-8") from error
    stripped = enumerate((line.strip() for line in text.split("\n")), start=1)
    return [(number, line) for number, line in stripped if line]


def _numbers(line: str, columns: list[str]) -> list[float]:
    """The columns of a line as numbers; nothing if one of them is none."""
    try:
        return [] if "_" in line else list(map(float, columns))  # float() takes 1_000 for a number
    except ValueError:
        return []


def _is_number(text: str) -> bool:
    return bool(_numbers(text, [text]))


def _mostly_numbers(columns: list[str]) -> bool:
    """Whether a line is meant as a row: names may have spaces, and rows may have a slip of the pen."""
    return len(columns) > 1 and sum(map(_is_number, columns)) > len(columns) / 2


def wider_lines(name: str, table: np.ndarray) -> list[str]:
    """A picture as name, count and WIDER FACE rows; landmarks have no place there, unknown attributes become 0."""
    rows = [_wider_row(row) for row in table.tolist()]
    plain = not name.startswith("#") and not _mostly_numbers(name.split())
    return [name if plain else f"# {name}", str(len(rows)), *(rows or ["0 0 0 0 0 0 0 0 0 0"])]


def retinaface_lines(name: str, table: np.ndarray) -> list[str]:
    """A picture as `# name` and RetinaFace rows, with a 21st column for the faces flagged invalid."""
    return [f"# {name}", *map(_retinaface_row, table.tolist())]


def _wider_row(row: list[float]) -> str:
    blur, expression, illumination, occlusion, pose = (max(0, round(value)) for value in row[15:])
    sides = " ".join(f"{side:.2f}" for side in row[:4])
    return f"{sides} {blur} {expression} {illumination} {row[14]:.0f} {occlusion} {pose}"


def _retinaface_row(row: list[float]) -> str:
    box, points, invalid = row[:4], list(zip(row[4:14:2], row[5:14:2], strict=True)), row[14]
    known = [point != (-1, -1) for point in points]
    triples = [f"{x:.2f} {y:.2f} 0" if k else "-1 -1 -1" for (x, y), k in zip(points, known, strict=True)]
    confidence = ["1" if any(known) else "0"]
    return " ".join([*(f"{side:.2f}" for side in box), *triples, *confidence, *(["1"] if invalid else [])])
