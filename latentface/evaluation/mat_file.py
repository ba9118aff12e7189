"""MATLAB files (level 5) of text, numbers and cells of these: what the WIDER FACE ground truth is made of.

Read here and not by SciPy, which takes whatever memory a header asks for: 4 GB for a file of 184 bytes. Here nothing
is made that the file does not hold. The format is MathWorks' "MAT-File Format".
"""

from __future__ import annotations

import math
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np

HEADER = 128  # bytes; the last four are the version and the byte order
NUMBERS = {1: "i1", 2: "u1", 3: "<i2", 4: "<u2", 5: "<i4", 6: "<u4", 7: "<f4", 9: "<f8", 12: "<i8", 13: "<u8"}
TEXT = {1: "utf-8", 2: "utf-8", 4: "utf-16-le", 16: "utf-8", 17: "utf-16-le"}
MATRIX, COMPRESSED = 14, 15
CELLS, CHARACTERS = 1, 4  # kinds of a matrix
NUMERIC = range(6, 16)
MOST_BYTES = 1 << 28  # after decompression; the largest official file has 3 MB
DEEPEST = 8


_HEAD = struct.Struct("<II").unpack_from
Element = tuple[int, memoryview]  # a piece of a file as it lies there: kind and data


def read_mat(path: Path, *variables: str) -> list[Any]:
    """The values of variables: text as str, numbers as arrays [rows, columns], cells as lists, column by column.

    Raises OSError, KeyError for a variable that is not there, and ValueError for what is anything else, damaged, or
    claims to be more than it is.
    """
    content = path.read_bytes()
    if content[HEADER - 4 : HEADER] != b"\x00\x01IM":
        raise ValueError("no MATLAB file of level 5, little-endian")
    found, left = {}, MOST_BYTES
    for kind, data in _elements(memoryview(content)[HEADER:]):
        if kind == COMPRESSED:
            ((kind, data),) = _elements(memoryview(_decompressed(data, left)))
        left -= len(data)
        name, matrix = _matrix(kind, data)
        if name in variables:
            found[name] = _value(*matrix)
    return [found[name] for name in variables]


def _decompressed(data: memoryview, most: int) -> bytes:
    stream = zlib.decompressobj()
    try:
        content = stream.decompress(data, max(most, 1))
    except zlib.error as error:
        raise ValueError("damaged") from error
    if not stream.eof:
        raise ValueError("cut short, or larger than any ground truth")
    return content


def _elements(data: memoryview) -> list[Element]:
    """The elements that lie one behind the other, each aligned to 8 bytes."""
    place, end, found = 0, len(data), []
    while place < end:
        if end - place < 8:
            raise ValueError("cut short")
        kind, size = _HEAD(data, place)
        if kind >> 16:  # a small one: its size lies in the upper half of the kind, its data in place of the size
            kind, size, start, following = kind & 0xFFFF, kind >> 16, place + 4, place + 8
            if size > 4:
                raise ValueError("damaged")
        else:
            start = place + 8
            following = start + size + (-size % 8 if kind != COMPRESSED else 0)
        if start + size > end:
            raise ValueError("claims more than there is")
        found.append((kind, data[start : start + size]))
        place = following
    return found


def _matrix(kind: int, data: memoryview) -> tuple[str, tuple[int, tuple[int, ...], list[Element]]]:
    """A matrix's name; its kind, sides and what it is made of."""
    if kind != MATRIX:
        raise ValueError("not made of text, numbers and cells")
    if not len(data):  # an empty one inside cells
        return "", (CELLS, (0, 0), [])
    (_, flags), (sides_kind, sides), name, *parts = _elements(data)  # ValueError where one is missing
    if len(flags) != 8 or sides_kind != 5 or len(sides) % 4:
        raise ValueError("damaged")
    shape = struct.unpack(f"<{len(sides) // 4}i", sides)
    if len(shape) < 2 or min(shape) < 0:
        raise ValueError("damaged")
    return _text(*name), (flags[0], shape, parts)


def _value(kind: int, shape: tuple[int, ...], parts: list[Element], depth: int = 0) -> Any:
    count = math.prod(shape)
    if kind == CELLS and len(parts) == count and depth < DEEPEST:
        return [_value(*_matrix(*part)[1], depth + 1) for part in parts]
    if kind == CHARACTERS and len(parts) == 1 and (shape[0] == 1 or count == 0):
        return _text(*parts[0])
    if kind in NUMERIC and len(parts) == 1 and parts[0][0] in NUMBERS:
        values = np.frombuffer(parts[0][1], NUMBERS[parts[0][0]])
        if len(values) == count:
            return values.reshape(shape, order="F")
    raise ValueError("not made of text, numbers and cells, or damaged")


def _text(kind: int, data: memoryview) -> str:
    if kind not in TEXT:
        raise ValueError("not made of text, numbers and cells")
    return str(data, TEXT[kind])  # UnicodeDecodeError is a ValueError
