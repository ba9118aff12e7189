"""Valid files -> broken ones: small changes anywhere, and pieces that mean something to the reader."""

from __future__ import annotations

import re
from collections.abc import Sequence
from random import Random

NUMBERS = (
    b"0", b"-1", b"1", b"4", b"10", b"14", b"20", b"255", b"256", b"65536", b"2147483647", b"2147483648", b"4294967296",
    b"9223372036854775807", b"9223372036854775808", b"18446744073709551616", b"-9223372036854775809", b"1e308",
    b"1e309", b"-1e999", b"1e-400", b"0.1", b"nan", b"inf", b"-Infinity", b"0x10", b"1_0", b"9" * 30, b"9" * 5000,
)  # fmt: skip
MARKS = (
    b"\n",
    b"\r",
    b"\r\n",
    b"\x00",
    b"\xff",
    b"\xef\xbb\xbf",
    b" ",
    b"\t",
    b"#",
    b"../",
    b"\xe2\x80\xa8",
    b"\xed\xa0\x80",
)
LARGEST = 1 << 13  # bytes of an input


def mutate(random: Random, content: bytes, words: Sequence[bytes], other: bytes = b"") -> bytes:
    """One to six changes; `other` is a second file to take a piece from."""
    for _ in range(1 + min(random.getrandbits(3), random.getrandbits(3), 5)):
        content = random.choice(_WAYS)(random, content, words, other)
    return content[:LARGEST]


def _span(random: Random, content: bytes) -> tuple[int, int]:
    start = random.randint(0, len(content))
    return start, min(len(content), start + (1 << random.randint(0, 8)) - 1)


def _byte(random: Random, content: bytes, words: Sequence[bytes], other: bytes) -> bytes:
    if not content:
        return content
    place = random.randrange(len(content))
    byte = content[place] ^ (1 << random.randrange(8)) if random.random() < 0.5 else random.randrange(256)
    return content[:place] + bytes([byte]) + content[place + 1 :]


def _delete(random: Random, content: bytes, words: Sequence[bytes], other: bytes) -> bytes:
    start, end = _span(random, content)
    return content[:start] + content[end:]


def _repeat(random: Random, content: bytes, words: Sequence[bytes], other: bytes) -> bytes:
    start, end = _span(random, content)
    return content[:end] + content[start:end] * random.choice((1, 2, 50)) + content[end:]


def _cut(random: Random, content: bytes, words: Sequence[bytes], other: bytes) -> bytes:
    return content[: random.randint(0, len(content))]


def _insert(random: Random, content: bytes, words: Sequence[bytes], other: bytes) -> bytes:
    start, end = _span(random, content)
    piece = random.choice(random.choice((words or MARKS, MARKS, NUMBERS)))
    return content[:start] + piece + content[end if random.random() < 0.3 else start :]


def _number(random: Random, content: bytes, words: Sequence[bytes], other: bytes) -> bytes:
    found = list(re.finditer(rb"-?\d+(\.\d+)?", content[:4096]))
    if not found:
        return content
    place = random.choice(found)
    return content[: place.start()] + random.choice(NUMBERS) + content[place.end() :]


def _splice(random: Random, content: bytes, words: Sequence[bytes], other: bytes) -> bytes:
    start, end = _span(random, other)
    place = random.randint(0, len(content))
    return content[:place] + other[start:end] + content[place:]


def _lines(random: Random, content: bytes, words: Sequence[bytes], other: bytes) -> bytes:
    """A line moves, goes or comes twice."""
    lines = content.split(b"\n")
    line = lines.pop(random.randrange(len(lines)))
    for _ in range(random.randrange(3)):
        lines.insert(random.randint(0, len(lines)), line)
    return b"\n".join(lines)


_WAYS = (_byte, _byte, _delete, _repeat, _cut, _insert, _insert, _number, _number, _splice, _lines)
