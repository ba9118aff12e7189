"""What a check finds: values, counted and grouped so that a million alike take no memory and three lines of output."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from latentface.errors import LatentFaceError

Level = Literal["error", "warning", "note"]
LEVELS: tuple[Level, ...] = ("error", "warning", "note")
KEPT = 100  # findings of a group that are kept, for --json; the rest is counted
NAMED = 3  # of them that people are shown


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong, odd, or worth knowing. An error makes training stop, or learn garbage."""

    level: Level
    code: str  # groups what is alike: "not-finite"
    where: str  # file or folder
    message: str
    remedy: str = ""
    line: int | None = None
    picture: str = ""  # base name, where leaving this picture out would mend it

    @property
    def place(self) -> str:
        """`file:line`."""
        return self.where if self.line is None else f"{self.where}:{self.line}"

    def __str__(self) -> str:
        return f"{self.place}: {self.level}: {self.message}"


@dataclass
class Group:
    """Findings of one code in one split."""

    level: Level
    code: str
    split: str
    remedy: str
    count: int = 0
    kept: list[Finding] = field(default_factory=list)  # the first

    def lines(self) -> Iterator[str]:
        """The first few, how many more there are, and what to do."""
        for finding in self.kept[:NAMED]:
            yield str(finding)
        if self.count > NAMED:
            yield f"    and {self.count - NAMED} more like these in {self.split}"
        if self.remedy:
            yield f"    -> {self.remedy}"

    def plain(self) -> dict[str, Any]:
        """For JSON."""
        items = [
            {
                "file": finding.where,
                "line": finding.line,
                "message": finding.message,
                "picture": finding.picture or None,
            }
            for finding in self.kept
        ]
        head = {name: getattr(self, name) for name in ("level", "code", "split", "remedy", "count")}
        return head | {"first": items}


class Findings:
    """Collects findings of all splits."""

    def __init__(self) -> None:
        self._groups: dict[tuple[str, Level, str], Group] = {}
        self.excludable: dict[str, dict[str, str]] = {}  # split -> base name -> why, of errors in single pictures
        self.of_the_whole = 0  # errors that leaving pictures out does not mend

    def add(self, split: str, *findings: Finding) -> None:
        for one in findings:
            group = self._groups.setdefault((split, one.level, one.code), Group(one.level, one.code, split, one.remedy))
            group.count += 1
            if len(group.kept) < KEPT:
                group.kept.append(one)
            if one.level == "error" and not one.picture:
                self.of_the_whole += 1
            elif one.level == "error":
                reason = f"{Path(one.where).name}: {one.message}"
                self.excludable.setdefault(split, {}).setdefault(one.picture, reason)

    def of(self, *levels: Level) -> list[Group]:
        """Errors first; what concerns a whole set before what concerns single pictures."""
        wanted = [group for group in self._groups.values() if group.level in levels]
        return sorted(wanted, key=lambda group: (LEVELS.index(group.level), bool(group.kept[0].picture)))

    def count(self, level: Level) -> int:
        return sum(group.count for group in self.of(level))

    def lines(self) -> list[str]:
        """For people: groups by level, then the counts."""
        counts = ", ".join(f"{self.count(level)} {level}{'s' * (self.count(level) != 1)}" for level in LEVELS)
        return [line for group in self.of(*LEVELS) for line in group.lines()] + [counts]


def of_error(level: Level, code: str, error: LatentFaceError, path: Path, remedy: str = "") -> Finding:
    """The line of a reader that stopped at `path`: `path:line: what; remedy` taken apart."""
    text, number = str(error), None
    if text.startswith(f"{path}:"):
        text = text.removeprefix(f"{path}:")
        first, _, rest = text.partition(":")
        number, text = (int(first), rest) if first.isdecimal() else (None, text)
    message, _, own_remedy = text.strip().rpartition("; ")
    return Finding(level, code, str(path), message or own_remedy, remedy or (own_remedy if message else ""), number)


def first_of(names: Iterable[str], count: int = NAMED) -> str:
    """`a, b, c ...` of many."""
    listed = list(names)
    return ", ".join(listed[:count]) + " ..." * (len(listed) > count)
