"""docs/scale.md says what records/scale.json says."""

from __future__ import annotations

import json

from scale_page import PAGE, PLACE, RECORD, filled, growth, order, processes, store


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
    rows = {"1": {"pictures_per_second": [10.0, 12.0], "val_ap": {"75": 0.5}}}
    assert processes({"rows": rows, "ratio": 1.5})[2:] == [
        "| 1 | 10.0, 12.0 | 0.5000 |",
        "",
        "Two processes are 1.50 times as fast as one.",
    ]
    fixed = {"packing_seconds": 3.0, "pictures_per_second": 50.0}
    few = fixed | {"packed_bytes": 20_000_000, "start_seconds": 4.0, "highest_memory_of_any_run_mb": 700}
    many = fixed | {"packed_bytes": 60_000_000, "start_seconds": 5.0, "highest_memory_of_any_run_mb": 710}
    assert growth({"rows": {"1000": few, "3000": many}})[3:] == [
        "| 3,000 | 20.0 | 3 | 5 | 50 | 710 |",
        "",
        "A thousand pictures more take 5.0 MB and 0.50 s of the start.",
    ]
