"""docs/reliability.md says what records/reliability.json says, and names commands and tests that exist."""

from __future__ import annotations

import json
import re
import shlex

import pytest
from conftest import REPOSITORY
from page import PAGE, PLACE, RECORD, filled, table

TEXT = PAGE.read_text(encoding="utf-8")


def test_the_table_is_that_of_the_record() -> None:
    assert PLACE.search(TEXT)
    assert filled(TEXT, json.loads(RECORD.read_text())) == TEXT, "python tests/reliability/page.py writes it anew"


def test_a_table_by_hand() -> None:
    rows = [
        {"item": "kill -9: packing", "tried": 1200, "survived": 1199, "lost": "nothing", "note": "7 runs"},
        {"item": "flipped bits", "tried": 3, "survived": 3, "lost": "one file"},
    ]
    fuzz = {"labels": {"inputs": 4000, "read": 1000, "refused": 2998, "other_exceptions": 2}}
    files = {"a.py": {"tried": 90, "survived": 4}, "b.py": {"tried": 10, "survived": 1}}
    kills = {"command": "python a.py", "rows": rows}
    record = {"wheel": {"size": 1}, "fuzz": fuzz, "kills": kills, "mutants": {"files": files}}
    assert table(record) == (
        "| what was tried | how often | survived | lost | |\n"
        "|---|---|---|---|---|\n"
        "| kill -9: packing | 1,200 | 1,199 | nothing | 7 runs |\n"
        "| flipped bits | 3 | 3 | one file |  |\n"
        "| broken input: labels | 4,000 | 3,998 |  | 1,000 were read, 2,998 refused |\n"
        "| small changes to 2 files of code | 100 | 5 |  | tests noticed the other 95.0%; see below |\n"
        "\n- `python a.py`\n"
    )


def test_two_hundred_kills_and_more_did_no_harm() -> None:
    section = json.loads(RECORD.read_text())["kills"]
    assert sum(row["tried"] for row in section["rows"]) >= 200
    assert all(row["tried"] == row["survived"] for row in section["rows"])
    assert not section["problems"]


def test_most_mutants_die() -> None:
    for path, counts in json.loads(RECORD.read_text())["mutants"]["files"].items():
        died = counts["killed"] + counts["timeouts"]
        assert (REPOSITORY / path).exists()
        assert died + counts["survived"] == counts["tried"] <= counts["mutants"]
        assert died >= 0.85 * counts["tried"] > 0, path


def commands() -> list[list[str]]:
    return [shlex.split(command) for command in re.findall(r"`((?:pytest|python) [^`]+)`", TEXT)]


@pytest.mark.parametrize("words", commands(), ids=" ".join)
def test_commands_name_files_and_tests_that_exist(words: list[str]) -> None:
    assert words[0] in ("python", "pytest")
    for word in words[1:]:
        path, _, test = word.partition("::")
        if path.startswith("tests/"):
            assert (REPOSITORY / path).exists(), path
            assert not test or f"def {test}(" in (REPOSITORY / path).read_text(encoding="utf-8"), word
