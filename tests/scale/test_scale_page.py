"""docs/scale.md says what records/scale.json says."""

from __future__ import annotations

import json

from scale_page import PAGE, PLACE, RECORD, filled, order, store


def test_the_tables_are_those_of_the_record() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert PLACE.search(text)
    assert filled(text, json.loads(RECORD.read_text())) == text, "python tests/scale/scale_page.py writes it anew"


def test_tables_by_hand() -> None:
    runs = [("pictures", 0, 0.5), ("shards", 0, 0.51239), ("shards", 1, 0.6), ("pictures", 1, 0.25)]
    found = order({"runs": [{"order": name, "seed": seed, "ap": ap} for name, seed, ap in runs]})
    assert found[2:] == [
        "| pictures drawn from the whole set | 0.500 | 0.250 |",
        "| windows of shards | 0.512 | 0.600 |",
    ]
    assert store({"rows": {"local": {"samples_per_second": [30.4, 10.0, 20.0]}}})[2:] == ["| local | 30 | 20 | 10 |"]
