"""What the reader of `.mat` files takes and what it refuses, byte by byte."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_pictures_and_graphs import NUMBERS, TEXT, element, mat, matrix

from latentface.evaluation.mat_file import read_mat

NO_MAT = "no MATLAB file of level 5, little-endian"
OTHER = "not made of text, numbers and cells"
OTHER_OR_DAMAGED = "not made of text, numbers and cells, or damaged"
FLAGS, SIDES, NAME = element(6, struct.pack("<II", 6, 0)), element(5, struct.pack("<2i", 1, 4)), element(1, b"x")


def value(path: Path, content: bytes) -> Any:
    """Of the variable x."""
    path = path / "a.mat"
    path.write_bytes(mat(content))
    return read_mat(path, "x")[0]


def in_cells(depth: int) -> bytes:
    content = matrix(6, [1, 1], b"", element(9, struct.pack("<d", 7)))
    for level in range(depth):
        content = matrix(1, [1, 1], b"x" if level == depth - 1 else b"", content)
    return content


def test_pieces_that_are_right(tmp_path):
    """Otherwise what is refused below might be refused for another reason."""
    assert value(tmp_path, element(14, FLAGS + SIDES + NAME + NUMBERS)).tolist() == [[1, 2, 3, 4]]
    assert value(tmp_path, matrix(6, [2, 2], b"x", NUMBERS)).tolist() == [[1, 3], [2, 4]]  # column by column
    assert value(tmp_path, matrix(1, [2, 1], b"x", TEXT + element(14, b""))) == ["a", []]
    assert value(tmp_path, TEXT + matrix(6, [1, 1], b"x", element(2, b"\x07"))).tolist() == [[7]]


@pytest.mark.parametrize("kind", ["i1", "u1", "i2", "u2", "i4", "u4", "f4", "f8", "i8", "u8"])
def test_every_kind_of_number(tmp_path, kind):
    code = {"i1": 1, "u1": 2, "i2": 3, "u2": 4, "i4": 5, "u4": 6, "f4": 7, "f8": 9, "i8": 12, "u8": 13}[kind]
    numbers = np.array([[1, 100, 3]], f"<{kind}")
    for matlab in range(6, 16):
        found = value(tmp_path, matrix(matlab, [1, 3], b"x", element(code, numbers.tobytes())))
        assert (found.tolist(), found.dtype) == (numbers.tolist(), numbers.dtype)


@pytest.mark.parametrize(
    ("kind", "encoding"), [(1, "ascii"), (2, "ascii"), (4, "utf-16-le"), (16, "utf-8"), (17, "utf-16-le")]
)
def test_every_kind_of_text(tmp_path, kind, encoding):
    text = "a b" if encoding == "ascii" else "ünï"
    assert value(tmp_path, matrix(4, [1, 3], b"x", element(kind, text.encode(encoding)))) == text
    assert value(tmp_path, matrix(4, [0, 0], b"x", element(kind, b""))) == ""


def test_cells_are_read_eight_deep(tmp_path):
    assert np.ravel(value(tmp_path, in_cells(8))).tolist() == [7]
    with pytest.raises(ValueError, match=f"^{OTHER_OR_DAMAGED}$"):
        value(tmp_path, in_cells(9))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (element(14, element(6, bytes(4)) + SIDES + NAME + NUMBERS), "damaged"),
        (element(14, FLAGS + element(6, struct.pack("<2i", 1, 4)) + NAME + NUMBERS), "damaged"),
        (element(14, FLAGS + element(5, struct.pack("<i", 4) + bytes(2)) + NAME + NUMBERS), "damaged"),
        (element(14, FLAGS + SIDES), "not enough values to unpack .*"),
        (matrix(6, [4], b"x", NUMBERS), "damaged"),
        (matrix(6, [-1, -4], b"x", NUMBERS), "damaged"),
        (matrix(6, [1, 3], b"x", NUMBERS), OTHER_OR_DAMAGED),
        (matrix(6, [1, 4], b"x", NUMBERS + NUMBERS), OTHER_OR_DAMAGED),
        (matrix(6, [1, 4], b"x", element(14, bytes(32))), OTHER_OR_DAMAGED),
        (matrix(5, [1, 4], b"x", NUMBERS), OTHER_OR_DAMAGED),
        (matrix(16, [1, 4], b"x", NUMBERS), OTHER_OR_DAMAGED),
        (matrix(4, [3, 1], b"x", element(16, b"abc")), OTHER_OR_DAMAGED),
        (matrix(4, [1, 3], b"x", element(16, b"abc") * 2), OTHER_OR_DAMAGED),
        (matrix(4, [1, 1], b"x", element(9, bytes(8))), OTHER),
        (matrix(1, [2, 1], b"x", TEXT), OTHER_OR_DAMAGED),
        (matrix(1, [1, 1], b"x", NUMBERS), OTHER),
        (element(3, bytes(8)), OTHER),
        (struct.pack("<HH", 1, 5) + b"abcd", "damaged"),
        (struct.pack("<II", 14, 9) + bytes(8), "claims more than there is"),
        (matrix(6, [1, 4], b"x", NUMBERS) + bytes(7), "cut short"),
        (element(15, b"no zlib stream  "), "damaged"),
        (struct.pack("<II", 15, 20) + zlib.compress(bytes(99) + NUMBERS)[:20], "cut short, or larger than any .*"),
    ],
    ids=range(22),
)
def test_what_is_refused(tmp_path, content, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        value(tmp_path, content)


def test_what_is_no_mat_file(tmp_path):
    for content in (b"", mat(b"")[:124] + b"\x01\x00MI" + matrix(6, [1, 4], b"x", NUMBERS)):
        (tmp_path / "a.mat").write_bytes(content)
        with pytest.raises(ValueError, match=f"^{NO_MAT}$"):
            read_mat(tmp_path / "a.mat", "x")


def test_variables_come_in_the_order_asked_for(tmp_path):
    parts = [matrix(6, [1, 1], name, element(2, name)) for name in (b"x", b"y", b"z")]
    (tmp_path / "a.mat").write_bytes(mat(parts[0] + element(15, zlib.compress(parts[1])) + parts[2]))
    assert [int(found[0, 0]) for found in read_mat(tmp_path / "a.mat", "z", "y")] == [122, 121]
    with pytest.raises(KeyError, match="none"):
        read_mat(tmp_path / "a.mat", "x", "none")
